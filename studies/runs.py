"""One run of the study: train, evaluate, and summarize both in a record of results.json."""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from moco_tf import run_metrics
from moco_tf.api import extract_features, knn, linear_probe
from moco_tf.backbones.loading import load_backbone
from moco_tf.config import chance_loss, evaluation_size
from moco_tf.data import sources
from moco_tf.data.pixels import from_config
from moco_tf.data.sources.source import Source
from moco_tf.encoders import random_backbone
from moco_tf.evaluation import quality
from moco_tf.training.run import train
from studies.labels import Labels, few_shot, finetune, pixels
from studies.results import Record


def with_settings(
    config: ml_collections.ConfigDict, settings: Mapping[str, Any], seed: int = 0
) -> ml_collections.ConfigDict:
    """Return a copy of a config with the settings and the seed of a run.

    Args:
        config: The base config.
        settings: `{key: value}`; lists stand for tuples.
        seed: Seed of the run.
    """
    config = config.copy_and_resolve_references()
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
    config.update_from_flattened_dict({**values, "seed": seed})
    return config


def run(
    config: ml_collections.ConfigDict, workdir: str, labels: Labels | None = None
) -> Record | None:
    """Train a run, or resume it, and evaluate its backbone.

    Args:
        config: Config of the run. If `epochs` is 0, random initialization is evaluated.
        workdir: Path of the run directory.
        labels: Further evaluations of the run, if any.

    Returns:
        A record as in `studies.results.read`, without `name`, `seed` and `settings`; or None if a
        signal stopped the training.

    Raises:
        UserError: As `moco_tf.train`.
    """
    start = time.perf_counter()
    trained: Record = {}
    if config.epochs:
        if train(config, workdir).stopped_by is not None:
            return None
        trained = summarize(config, run_metrics.read_metrics(workdir))
    source = evaluated_source(config)
    backbone: Any
    if labels and labels.is_pixels:
        backbone = pixels
    elif config.epochs:
        backbone = load_backbone(workdir)
    else:
        values = from_config(config, source.channels)
        network = (config.encoder, config.stem, source.channels, config.seed)
        backbone = random_backbone(*network, pixels=values)
    train_features = extract_features(backbone, source, "train", evaluation_size(config))
    test_features = extract_features(backbone, source, "test", evaluation_size(config))
    accuracies: Record = {
        "knn_top1": knn(train_features, test_features)["top1"],
        "linear_top1": linear_probe(train_features, test_features)["top1"],
        "quality": {name: round(v, 5) for name, v in quality.measure(test_features).items()},
    }
    if labels:
        accuracies["few_shot_top1"] = few_shot(train_features, test_features, config.seed)
        if labels.finetunings:
            accuracies["finetune"] = finetune(
                backbone, source, evaluation_size(config), config.seed, labels.finetunings, workdir
            )
    weights = [] if backbone is pixels else backbone.trainable_weights
    parameters = sum(int(np.prod(weight.shape)) for weight in weights)
    seconds = round(time.perf_counter() - start, 1)
    return {**accuracies, "parameters": parameters, "seconds": seconds, **trained}


def evaluated_source(config: ml_collections.ConfigDict) -> Source:
    """Open the source that a run is evaluated on, `monitor_source` or else `data.source`."""
    if config.monitor_source:
        return sources.load(config.monitor_source, **sources.options(config, config.monitor_source))
    return sources.from_config(config)


def summarize(config: ml_collections.ConfigDict, lines: Sequence[Mapping[str, Any]]) -> Record:
    """Return the part of a record that describes the training.

    Args:
        config: Config of the run.
        lines: Lines of its metrics.jsonl.
    """
    log = [line for line in lines if "loss" in line]
    steps = [line["step"] for line in log]
    curves = {key: [line[key] for line in log] for key in ("loss", "contrastive_top1")}
    epochs = log[-1]["epoch"] if config.steps else config.epochs
    steps_per_epoch = max(1, round(steps[-1] / epochs))
    # A line holds the mean since the line before it.
    lengths = np.diff([0, *steps])
    in_last_epoch = np.array(steps) > steps[-1] - steps_per_epoch
    final = {}
    for key, values in curves.items():
        mean = np.average(np.array(values)[in_last_epoch], weights=lengths[in_last_epoch])
        final[f"final_{key}"] = round(float(mean), 4)
    monitor = [line for line in lines if "knn_top1" in line]
    return {
        **final,
        "chance": round(chance_loss(config), 4),
        "steps_per_epoch": steps_per_epoch,
        "curves": {
            "step": steps,
            **{key: [round(value, 4) for value in values] for key, values in curves.items()},
        },
        "knn_curve": {
            "step": [line["step"] for line in monitor],
            "top1": [round(line["knn_top1"], 4) for line in monitor],
        },
    }


def delete_checkpoints(workdir: str) -> None:
    """Delete the checkpoints of a finished run."""
    with contextlib.suppress(tf.errors.NotFoundError):
        tf.io.gfile.rmtree(os.path.join(workdir, "checkpoints"))
