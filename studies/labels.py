"""Evaluations of a run with few or all of the labels, besides kNN and the linear probe."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from moco_tf.data.sources.source import Source
from moco_tf.evaluation import comparison, protocols
from moco_tf.evaluation.features import Features
from moco_tf.evaluation.identity import identify
from moco_tf.evaluation.results import write_result
from moco_tf.evaluation.settings import FewShotSettings, FinetuneSettings

PROTOCOL = "finetune_study"  # Name of the file in the run directory that holds finished ones.

Finetunings = Mapping[str, Mapping[str, Any]]


class Labels(NamedTuple):
    """What a record holds besides kNN and the linear probe; it can be written as JSON.

    Attributes:
        is_pixels: Whether the pixels are evaluated as features, instead of an encoder.
        finetunings: Settings of `FinetuneSettings` by the names that their results have.
    """

    is_pixels: bool = False
    finetunings: Finetunings = {}


def pixels(images: tf.Tensor) -> tf.Tensor:
    """Return the gray values of images as features.

    Args:
        images: `[N, size, size, channels]` in [0, 255].

    Returns:
        float32 `[N, size * size]`, the mean over the channels.
    """
    gray = tf.reduce_mean(tf.cast(images, tf.float32), axis=-1)
    return tf.reshape(gray, [tf.shape(gray)[0], gray.shape[1] * gray.shape[2]])


def few_shot(train: Features, test: Features, seed: int) -> dict[str, float]:
    """Return top-1 accuracy with few labels per class, by their number.

    Args:
        train: Labeled features of the training images.
        test: Labeled features of the test images.
        seed: Seed of the choice of the labeled images.

    Returns:
        Means over the draws of `moco_tf.evaluation.few_shot`, such as `{"1": 0.5, "5": 0.7}`.
    """
    result = protocols.evaluate("few-shot", train, test, FewShotSettings(seed=seed))
    return {str(row["shots"]): round(row["top1"], 5) for row in result["few_shot"]}


def finetune(
    backbone: keras.Model,
    source: Source,
    image_size: int,
    seed: int,
    finetunings: Finetunings,
    workdir: str,
) -> dict[str, dict[str, Any]]:
    """Fine-tune copies of a backbone, each with its settings.

    A result is written to the run directory as soon as it is computed. It is not computed again
    for the same backbone, images, labels and settings.

    Args:
        backbone: The backbone, which does not change.
        source: A source with labels.
        image_size: Side of the views in pixels.
        seed: Seed of all fine-tunings, which also chooses the labeled images.
        finetunings: As in `Labels`.
        workdir: Path of the run directory.

    Returns:
        For each name a dict with `top1`, its 95 % interval `top1_interval`, `num_train`, `seconds`
        and the settings.

    Raises:
        UserError: As `protocols.evaluate_finetune`, or if a result cannot be written.
    """
    finished = comparison.read(workdir, PROTOCOL, "finetunings")
    identity = identify(backbone, source, image_size)
    results = {}
    for name, values in finetunings.items():
        given: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in values.items()
        }
        settings = FinetuneSettings(**given, seed=seed)
        result = comparison.find_matching(finished, {**identity, **settings.used()})
        if result is None:
            _, result = protocols.evaluate_finetune(backbone, source, image_size, settings, name)
            result = {**identity, **result}
            finished.append(result)
            write_result(workdir, {"protocol": PROTOCOL, "finetunings": finished})
        results[name] = {
            **{key: result[key] for key in ("top1", "top1_interval", "num_train", "seconds")},
            **settings.used(),
        }
    return results
