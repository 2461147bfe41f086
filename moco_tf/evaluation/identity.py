"""What the result of a training depends on, to recognize results and unfinished trainings."""

import dataclasses
import hashlib
import importlib.metadata
import zlib
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

import moco_tf
from moco_tf import run_data
from moco_tf.data.sources.source import Source
from moco_tf.encoders import preprocessing
from moco_tf.evaluation.networks import network_checksum
from moco_tf.evaluation.settings import Settings


def identify(backbone: Any, source: Source, image_size: int) -> dict[str, Any]:
    """Return what the result of a training on a backbone depends on besides the settings.

    An image file that was replaced under the same name is not noticed.

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
        # With the normalization that a training adds.
        "network": network_checksum(preprocessing.for_images(backbone)),
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
        The entries of `software`, those of `identify`, `parts`, the result of `parts_checksum`, and
        the settings.
    """
    return {
        **software(),
        **identify(backbone, source, image_size),
        "parts": parts_checksum(source.train, source.test),
        **dataclasses.asdict(settings),
    }


def software() -> dict[str, str | None]:
    """Return the versions and the types of numbers that a training computes with."""
    versions: dict[str, str | None] = {}
    for name in ("tensorflow", "keras", "keras-hub"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "moco-tf": moco_tf.__version__,
        **versions,
        "floatx": keras.config.floatx(),
        "dtype_policy": keras.config.dtype_policy().name,
    }


def parts_checksum(train: ArrayLike, test: ArrayLike) -> list[int]:
    """Return checksums of the indices of the training and the test images, in their order."""
    return [zlib.crc32(np.asarray(part, np.int64).tobytes()) for part in (train, test)]


def checksum(backbone: Any) -> str:
    """Return a checksum of all weights in any order, equal for a run and its exports."""
    digests = [hashlib.sha256(weight.tobytes()).digest() for weight in backbone.get_weights()]
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()
