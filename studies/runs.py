"""One run of the study: it trains, evaluates, and comes back as a record of results.json."""

import contextlib
import gc
import os
import time

import keras
import numpy as np
import tensorflow as tf

from moco_tf import encoders, load_backbone, run_directory
from moco_tf.config import chance_loss
from moco_tf.evaluation import protocols
from moco_tf.training.run import train as pretrain


def with_settings(config, settings, seed=0):
    """A config with some settings and the seed of a run.

    Args:
        config: the base's.
        settings: `{key: value}`; lists stand for tuples.
        seed: int.

    Returns:
        A config.
    """
    config = config.copy_and_resolve_references()
    for key, value in {**settings, "seed": seed}.items():
        config[key] = tuple(value) if isinstance(value, list) else value
    return config


def run(config, workdir, source):
    """Trains, or goes on with, a run, and evaluates its backbone.

    Args:
        config: the run's; `epochs` is 0 for a random initialisation, which is only evaluated.
        workdir: str, the run directory.
        source: the labelled `moco_tf.data.source.Source` to evaluate on.

    Returns:
        A record as `studies.results.read` describes it, without `name`, `seed` and `settings`, or
        None where the run was stopped; and None, or the number of the signal that stopped it.

    Raises:
        UserError: what `moco_tf.train` raises.
    """
    # One process builds all the models, and Keras holds on to each until it is told.
    keras.utils.clear_session()
    gc.collect()
    began = time.perf_counter()
    if config.epochs:
        outcome = pretrain(config, workdir)
        if outcome.stopped_by is not None:
            return None, outcome.stopped_by
        backbone = load_backbone(workdir)
        trained = summary(config, run_directory.read_metrics(workdir))
    else:
        keras.utils.set_random_seed(config.seed)
        random = encoders.build(config.encoder, stem=config.stem, channels=source.channels)
        backbone = encoders.with_normalization(random)
        trained = {}
    train, test = protocols.extract_both(backbone, source, config.image_size)
    accuracies = {
        f"{name}_top1": protocols.evaluate(protocol, train, test, len(source.class_names))["top1"]
        for name, protocol in (("knn", "knn"), ("linear", "linear_cached"))
    }
    parameters = sum(int(np.prod(weight.shape)) for weight in backbone.trainable_weights)
    seconds = round(time.perf_counter() - began, 1)
    return {**accuracies, "parameters": parameters, "seconds": seconds, **trained}, None


def summary(config, lines):
    """What a record holds of a run's training.

    Args:
        config: the run's.
        lines: list of dict, of its metrics.jsonl.

    Returns:
        The part of a record of `studies.results.read` that only runs that were trained have.
    """
    steps = [line["step"] for line in lines if "loss" in line]
    curves = {
        key: [line[key] for line in lines if "loss" in line] for key in ("loss", "contrastive_top1")
    }
    steps_per_epoch = steps[-1] // config.epochs
    # A line holds the mean since the one before.
    lengths = np.diff([0, *steps])
    last = np.array(steps) > steps[-1] - steps_per_epoch
    final = {
        f"final_{key}": round(float(np.average(np.array(values)[last], weights=lengths[last])), 4)
        for key, values in curves.items()
    }
    looks = [line for line in lines if "knn_top1" in line]
    return {
        **final,
        "chance": round(chance_loss(config), 4),
        "steps_per_epoch": steps_per_epoch,
        "curves": {
            "step": steps,
            **{key: [round(value, 4) for value in values] for key, values in curves.items()},
        },
        "knn_curve": {
            "step": [line["step"] for line in looks],
            "top1": [round(line["knn_top1"], 4) for line in looks],
        },
    }


def delete_checkpoints(workdir):
    """Deletes the checkpoints of a run that is finished."""
    with contextlib.suppress(tf.errors.NotFoundError):
        tf.io.gfile.rmtree(os.path.join(workdir, "checkpoints"))
