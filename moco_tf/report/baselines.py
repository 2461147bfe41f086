"""The backbones that a report compares: their images, features and results."""

from collections.abc import Callable
from typing import NamedTuple

import ml_collections
import numpy as np
import tensorflow as tf

from moco_tf import encoders
from moco_tf.backbones import descriptions
from moco_tf.data import pixels as pixel_values
from moco_tf.data.sources.source import Source, sample
from moco_tf.evaluation import knn, protocols, unreadable
from moco_tf.evaluation.extraction import Extractor, feature_step
from moco_tf.evaluation.features import Features
from moco_tf.progress_bar import ProgressBar
from moco_tf.report.evidence import Results
from moco_tf.report.findings import PIXELS, PROTOCOLS, RANDOM

MAX_PIXELS_SIDE = 32  # Larger images would have too many raw pixels for the linear probe.


class Evaluated(NamedTuple):
    """What a report needs of its backbones, of the images that it uses.

    Attributes:
        features: Features of the training and the test images by the name of the backbone.
        results: Results of `moco_tf.evaluation.protocols.evaluate` by the names of the backbone and
            of the protocol.
    """

    features: dict[str, tuple[Features, Features]]
    results: Results


def split(source: Source) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the indices of the bank and the test images, and whether these are held out."""
    held_out = len(source.train) > 0 and len(source.test) > 0
    bank, test = (source.train, source.test) if held_out else (source.pretrain, source.pretrain)
    return (
        sample(bank, knn.MAX_TRAIN),
        sample(test, knn.MAX_TEST),
        held_out,
    )


def extract(
    backbones: dict[str, Callable[[tf.Tensor], tf.Tensor]],
    source: Source,
    bank_indices: np.ndarray,
    test_indices: np.ndarray,
    image_size: int,
) -> dict[str, tuple[Features, Features]]:
    """Return the features of the bank and of the test images for each backbone."""
    extract_bank, extract_test = (
        Extractor(source, indices, image_size, keep_views=len(backbones) > 1)
        for indices in (bank_indices, test_indices)
    )
    features = {}
    for name, backbone in backbones.items():
        step = feature_step(backbone)
        features[name] = (
            extract_bank(step, f"{name}, training images"),
            extract_test(step, f"{name}, test images"),
        )
    return features


def baselines(
    workdir: str, config: ml_collections.ConfigDict, source: Source, image_size: int
) -> dict[str, Callable[[tf.Tensor], tf.Tensor]]:
    """Return the backbones that the trained one of a run is compared with.

    Args:
        workdir: Path of the run directory.
        config: Config of the run, as in the directory, with the numbers that were measured.
        source: The source of the images.
        image_size: Side of the views in pixels.

    Returns:
        `RANDOM`, the same encoder without training, and `PIXELS`, the pixels of the images, which
        are resized to `MAX_PIXELS_SIDE` if they are larger.
    """
    description = descriptions.of_run(workdir, config, source.channels)
    random = encoders.random_backbone(
        *(config.encoder, config.stem, source.channels, config.seed, description),
        pixels=pixel_values.from_config(config, source.channels),
    )
    side = min(image_size, MAX_PIXELS_SIDE)

    def pixels(images: tf.Tensor) -> tf.Tensor:
        if side < image_size:
            images = tf.image.resize(images, [side, side], antialias=True)
        return tf.reshape(images, [images.shape[0], -1])

    return {RANDOM: random, PIXELS: pixels}


def compare(features: dict[str, tuple[Features, Features]], bar: ProgressBar) -> Results:
    """Return the results of all protocols for each backbone."""
    results: Results = {}
    for name, (train, test) in features.items():
        results[name] = {}
        for protocol in PROTOCOLS:
            results[name][protocol] = protocols.evaluate(protocol, train, test)
            bar.update()
    return without_unreadable(results)


def without_unreadable(results: Results) -> Results:
    """Return results without the names of unreadable images, which the report as a whole has."""
    return {
        name: {
            protocol: {k: value for k, value in result.items() if k not in unreadable.KEYS}
            for protocol, result in by_protocol.items()
        }
        for name, by_protocol in results.items()
    }
