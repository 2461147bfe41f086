"""What the result of a training depends on, to recognize results and unfinished trainings."""

import dataclasses
import hashlib
import zlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import moco_tf
from moco_tf import run_data
from moco_tf.data.sources.source import Source
from moco_tf.evaluation.networks import network_checksum
from moco_tf.evaluation.settings import Settings


def identify(backbone: Any, source: Source, image_size: int) -> dict[str, Any]:
    """Return what the result of a training on a backbone depends on besides the settings.

    A photo that was replaced under the same name is not noticed.

    Args:
        backbone: The backbone, as for `moco_tf.evaluation.finetune.fit`.
        source: A source with labels.
        image_size: Side of the views in pixels.

    Returns:
        A dict with `weights`, the result of `checksum`; `network`, that of
        `moco_tf.evaluation.networks.network_checksum`; `data`, `data_images`, `data_checksum`,
        `labels_checksum` and `data_options`, the source's name, its number of images, checksums of
        its contents and labels, and the options that its images are read with; and `image_size`.
    """
    return {
        "weights": checksum(backbone),
        "network": network_checksum(backbone),
        "data": source.name,
        "data_images": source.size,
        "data_checksum": run_data.of_source(source).checksum,
        "labels_checksum": run_data.labels_checksum(source),
        "data_options": dict(source.options),
        "image_size": image_size,
    }


def identify_training(
    backbone: Any, source: Source, image_size: int, settings: Settings
) -> dict[str, Any]:
    """Return what the state of an unfinished training depends on.

    Args:
        backbone: As for `identify`.
        source: As for `identify`.
        image_size: As for `identify`.
        settings: Settings of the training.

    Returns:
        The entries of `identify`, the settings, `parts`, a checksum of the indices of the training
        and test images, and the entries of `software`.
    """
    parts = [np.asarray(part, np.int64).tobytes() for part in (source.train, source.test)]
    return {
        **identify(backbone, source, image_size),
        **dataclasses.asdict(settings),
        "parts": [zlib.crc32(part) for part in parts],
        **software(),
    }


def software() -> dict[str, str]:
    """Return the versions, and the type of numbers, that a training computes with."""
    return {
        "moco-tf": moco_tf.__version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "floatx": keras.config.floatx(),
    }


def checksum(backbone: Any) -> str:
    """Return a checksum of all weights in any order, equal for a run and its exports."""
    digests = [hashlib.sha256(weight.tobytes()).digest() for weight in backbone.get_weights()]
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()
