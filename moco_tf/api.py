"""Evaluation in a notebook; `moco_tf.evaluation` has all protocols and settings."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from moco_tf.data.sources.source import Source, require_source
from moco_tf.errors import UserError
from moco_tf.evaluation import knn as knn_protocol
from moco_tf.evaluation import logistic
from moco_tf.evaluation.features import Features, extract, require_comparable
from moco_tf.evaluation.settings import KNNSettings, ProbeSettings
from moco_tf.ranges import COUNT, checked

MAX_CLASSES = 10**6  # Of a pair of arrays; the memory of an evaluation grows with the number.


def extract_features(
    backbone: Callable[[tf.Tensor], tf.Tensor],
    source: Source,
    part: str,
    image_size: int,
) -> Features:
    """Extract the features of a part of a data source.

    Args:
        backbone: Callable from images, float32 `[N, size, size, channels]` in the value range of
            the source, which is [0, 255] for 8 bits per channel, to features `[N, D]`, such as the
            result of `moco_tf.load_backbone`. A model of `moco_tf.encoders.build` gets its
            normalization.
        source: The result of `moco_tf.load_source`.
        part: `"train"` or `"test"`, the two disjoint parts of an evaluation; `"pretrain"`, the
            images of pre-training; or `"all"`.
        image_size: Side of the central view in pixels. Use that of the evaluations of the
            backbone's training, which is `moco_tf.Run.evaluation_size` for a run.

    Returns:
        An object with `features`, float32 `[M, D]`; `indices`, int64 `[M]`, of the images in the
        source; `labels`, int32 `[M]`, -1 for an image without a label, or None; and `num_classes`.
        Images that cannot be read are left out.

    Raises:
        UserError: If the source is not the result of `moco_tf.load_source`, it has no such part,
            the backbone cannot be called or does not return features, the size is not an integer of
            1 or greater, or none of the images can be read.

    Example:
        >>> import moco_tf
        >>> source = moco_tf.load_source("photos")
        >>> backbone = moco_tf.encoders.random_backbone("resnet8", stem="small")
        >>> test = moco_tf.extract_features(backbone, source, "test", image_size=32)
        >>> test.features.shape, test.labels.shape
        ((1818, 64), (1818,))
    """
    require_source(source)
    image_size = checked("image_size", image_size, COUNT)
    return extract(backbone, source, source.part(part), image_size, f"{part} features")


def knn(
    train: Features | Sequence[ArrayLike],
    test: Features | Sequence[ArrayLike],
    k: int = KNNSettings.k,
    temperature: float = KNNSettings.temperature,
) -> dict[str, float]:
    """Classify test images by their nearest training images (weighted kNN, cosine similarity).

    Args:
        train: The labeled features to compare with: a result of `extract_features`, or a pair of
            arrays, features `[M, D]` and the numbers of the classes `[M]`. Images without a label,
            which is -1, are left out.
        test: The labeled features to classify, in the same form.
        k: Number of neighbors, 1 or greater; clipped to the number of training images.
        temperature: Temperature of the votes, greater than 0: a neighbor counts
            exp(similarity / temperature).

    Returns:
        `{"top1": float, "top5": float}`, accuracies in [0, 1].

    Raises:
        UserError: If `train` and `test` are not features with labels and the same number of
            dimensions, or `k` or `temperature` is out of range.

    Example:
        >>> import moco_tf
        >>> source = moco_tf.load_source("photos")
        >>> backbone = moco_tf.encoders.random_backbone("resnet8", stem="small")
        >>> train = moco_tf.extract_features(backbone, source, "train", image_size=32)
        >>> test = moco_tf.extract_features(backbone, source, "test", image_size=32)
        >>> sorted(moco_tf.knn(train, test, k=20))
        ['top1', 'top5']
        >>> moco_tf.knn(([[0, 1], [1, 0]], [7, 8]), ([[0.1, 1]], [7]), k=1)["top1"]
        1.0
    """
    train, test = _comparable(train, test)
    return knn_protocol.classify(train, test, KNNSettings(k, temperature))


def linear_probe(
    train: Features | Sequence[ArrayLike],
    test: Features | Sequence[ArrayLike],
    l2: float = ProbeSettings.l2,
    iterations: int = ProbeSettings.iterations,
) -> dict[str, float]:
    """Fit a logistic regression on features, and return its accuracy.

    Args:
        train: The labeled features to fit: a result of `extract_features`, or a pair of arrays,
            features `[M, D]` and the numbers of the classes `[M]`. Images without a label, which is
            -1, are left out.
        test: The labeled features to classify, in the same form.
        l2: Weight of the L2 penalty, greater than 0.
        iterations: Maximum number of L-BFGS iterations, 1 or greater.

    Returns:
        `{"top1": float, "top5": float}`, accuracies in [0, 1].

    Raises:
        UserError: If `train` and `test` are not features with labels and the same number of
            dimensions, a setting is out of range, or all training images are of one class.

    Example:
        >>> import moco_tf
        >>> source = moco_tf.load_source("photos")
        >>> backbone = moco_tf.encoders.random_backbone("resnet8", stem="small")
        >>> train = moco_tf.extract_features(backbone, source, "train", image_size=32)
        >>> test = moco_tf.extract_features(backbone, source, "test", image_size=32)
        >>> sorted(moco_tf.linear_probe(train, test, iterations=20))
        ['top1', 'top5']
    """
    train, test = _comparable(train, test)
    return logistic.probe(train, test, ProbeSettings(l2, iterations))


def _comparable(train: Any, test: Any) -> tuple[Features, Features]:
    """Return two arguments as features, with pairs of arrays replaced.

    Raises:
        UserError: If they cannot be compared.
    """
    train, test = _from_arrays("train", train), _from_arrays("test", test)
    require_comparable(train, test)
    num_classes = max(train.num_classes, test.num_classes)
    return (
        dataclasses.replace(train, num_classes=num_classes),
        dataclasses.replace(test, num_classes=num_classes),
    )


def _from_arrays(name: str, part: Any) -> Any:
    """Return a pair of features and labels as `Features`, and anything else as it is."""
    if not isinstance(part, tuple | list) or len(part) != 2:
        return part
    try:
        features, labels = np.asarray(part[0], np.float32), np.asarray(part[1])
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{name} is not a pair of arrays: {error}") from error
    is_valid = (
        features.ndim == 2 and labels.shape == features.shape[:1] and labels.dtype.kind in "iu"
    )
    if not is_valid or not len(labels) or labels.min() < -1 or labels.max() >= MAX_CLASSES:
        raise UserError(
            f"{name} has features of the shape {list(features.shape)} and labels of the shape "
            f"{list(labels.shape)} and the type {labels.dtype}: pass features [M, D] and the "
            f"numbers of the classes [M], integers from -1 to {MAX_CLASSES - 1:,}"
        )
    indices = np.arange(len(labels), dtype=np.int64)
    return Features(features, indices, labels.astype(np.int32), int(labels.max()) + 1)
