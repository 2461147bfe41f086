"""Evaluation in a notebook; `moco_tf.evaluation` has all protocols and settings."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from moco_tf.data import given
from moco_tf.data.sources.source import Source, require_source
from moco_tf.encoders import preprocessing
from moco_tf.errors import UserError
from moco_tf.evaluation import knn as knn_protocol
from moco_tf.evaluation import logistic
from moco_tf.evaluation.features import Features, extract, labeled, require_comparable
from moco_tf.evaluation.settings import KNNSettings, ProbeSettings
from moco_tf.ranges import COUNT, checked


def extract_features(
    backbone: Callable[[tf.Tensor], tf.Tensor],
    source: Source,
    part: str | ArrayLike,
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
            images of pre-training; `"all"`; or the indices of the images, int64 `[M]`.
        image_size: Side of the central view in pixels. Use that of the evaluations of the
            backbone's training, which is `moco_tf.Run.evaluation_size` for a run.

    Returns:
        An object with `features`, float32 `[M, D]`; `indices`, int64 `[M]`, of the images in the
        source; `labels`, int32 `[M]`, -1 for an image without a label, or None; and `num_classes`.
        Images that cannot be read are left out.

    Raises:
        UserError: If the source is not the result of `moco_tf.load_source`, it has no such part or
            index, the backbone cannot be called, takes other pixel values or does not return
            features, the size is not an integer of 1 or greater, or none of the images can be read.

    Example:
        >>> import moco_tf
        >>> source = moco_tf.load_source("photos")
        >>> backbone = moco_tf.encoders.random_backbone("resnet8", stem="small")
        >>> test = moco_tf.extract_features(backbone, source, "test", image_size=32)
        >>> test.features.shape, test.labels.shape
        ((1818, 64), (1818,))
    """
    require_source(source)
    preprocessing.require_images(backbone, source)
    image_size = checked("image_size", image_size, COUNT)
    if isinstance(part, str):
        return extract(backbone, source, source.part(part), image_size, f"{part} features")
    return extract(backbone, source, source.chosen(part), image_size, "features")


def knn(
    train: Features | Sequence[ArrayLike],
    test: Features | Sequence[ArrayLike],
    k: int = KNNSettings.k,
    temperature: float = KNNSettings.temperature,
) -> dict[str, float]:
    """Classify test images by their nearest training images (weighted kNN, cosine similarity).

    This is the classifier of Wu et al. (2018), with their k = 200 and temperature 0.07. The paper
    of MoCo has no kNN accuracies. A test image of a class that no training image has counts as
    wrong, and the function warns of it.

    Args:
        train: The labeled features to compare with: a result of `extract_features`, or a pair of
            arrays, features `[M, D]` and labels `[M]`, which are integers or texts. Images without
            a label, which is -1, an empty text, None or NaN, are left out.
        test: The labeled features to classify, in the same form.
        k: Number of neighbors, 1 or greater; clipped to the number of training images.
        temperature: Temperature of the votes, greater than 0: a neighbor counts
            exp(similarity / temperature).

    Returns:
        `{"top1": float, "top5": float}`, accuracies in [0, 1]. With 5 classes or fewer, top-5
        counts every class that one of the neighbors has.

    Raises:
        UserError: If `train` and `test` are not finite features with labels and the same number of
            dimensions, or `k` or `temperature` is out of range.

    Example:
        >>> import moco_tf
        >>> source = moco_tf.load_source("photos")
        >>> backbone = moco_tf.encoders.random_backbone("resnet8", stem="small")
        >>> train = moco_tf.extract_features(backbone, source, "train", image_size=32)
        >>> test = moco_tf.extract_features(backbone, source, "test", image_size=32)
        >>> sorted(moco_tf.knn(train, test, k=20))
        ['top1', 'top5']
        >>> moco_tf.knn(([[0, 1], [1, 0]], ["cat", "dog"]), ([[0.1, 1]], ["cat"]), k=1)["top1"]
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

    Each dimension is scaled to zero mean and unit variance on the training images. The sum of the
    mean log loss and l2 / 2 times the squared norm of the weights is minimized. This is not the
    linear protocol of the paper (section 4.1), which trains the layer by SGD on random crops:
    `moco-evaluate --protocol=linear` does. A test image of a class that no training image has
    counts as wrong, and the function warns of it.

    Args:
        train: The labeled features to fit: a result of `extract_features`, or a pair of arrays,
            features `[M, D]` and labels `[M]`, which are integers or texts. Images without a label,
            which is -1, an empty text, None or NaN, are left out.
        test: The labeled features to classify, in the same form.
        l2: Weight of the L2 penalty, greater than 0.
        iterations: Maximum number of L-BFGS iterations, 1 or greater. The accuracy usually settles
            long before the weights do, so a fit that ends there gives no warning.

    Returns:
        `{"top1": float, "top5": float}`, accuracies in [0, 1].

    Raises:
        UserError: If `train` and `test` are not finite features with labels and the same number of
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
    pairs = {name: _pair(name, part) for name, part in (("train", train), ("test", test))}
    both = [pair for pair in pairs.values() if pair is not None]
    if len(both) == 2:
        pairs = dict(zip(pairs, _with_numbers(*both), strict=True))
    train = train if pairs["train"] is None else _features("train", *pairs["train"])
    test = test if pairs["test"] is None else _features("test", *pairs["test"])
    require_comparable(train, test)
    num_classes = max(train.num_classes, test.num_classes)
    train = dataclasses.replace(train, num_classes=num_classes)
    test = dataclasses.replace(test, num_classes=num_classes)
    _warn_of_missing_classes(train, test)
    return train, test


def _pair(name: str, part: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a pair of features and labels as two arrays, or None for anything else."""
    if not isinstance(part, tuple | list) or len(part) != 2:
        return None
    try:
        features = np.asarray(part[0])
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"the features of {name} are not an array: {error}") from error
    if features.dtype.kind not in "biuf" or features.ndim != 2 or not features.size:
        raise UserError(
            f"the features of {name} have the shape {list(features.shape)} and the type "
            f"{features.dtype}: pass a pair (features [M, D], labels [M]), with numbers as features"
        )
    with np.errstate(over="ignore"):
        features = features.astype(np.float32)
    is_finite = np.isfinite(features).all(axis=1)
    if not is_finite.all():
        raise UserError(
            f"the features of {name} have NaN, infinity or numbers beyond the range of float32 in "
            f"{(~is_finite).sum()} of {len(features)} rows, first in row {np.argmin(is_finite)}: "
            "leave these rows out, or correct them"
        )
    return features, given.as_labels(part[1], len(features), name)


def _with_numbers(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return two pairs of features and labels, with the positions of the labels in their order.

    The labels themselves may be texts, or numbers that are far apart.
    """
    kinds = {"texts" if labels.dtype.kind == "U" else "numbers" for _, labels in (train, test)}
    if len(kinds) > 1:
        raise UserError("the labels of train and test are texts and numbers: use the same for both")
    classes = np.unique(np.concatenate([labels[_is_given(labels)] for _, labels in (train, test)]))
    return [
        (features, np.where(_is_given(labels), np.searchsorted(classes, labels), -1))
        for features, labels in (train, test)
    ]


def _is_given(labels: np.ndarray) -> np.ndarray:
    """Return which labels of `given.as_labels` are not missing, bool `[M]`."""
    return labels != "" if labels.dtype.kind == "U" else labels >= 0


def _features(name: str, features: np.ndarray, labels: np.ndarray) -> Features:
    """Return an array of features and one of the numbers of classes as `Features`."""
    if labels.dtype.kind == "U" or labels.max() > np.iinfo(np.int32).max:
        raise UserError(
            f"the labels of {name} are not the numbers of classes, but the other features are the "
            "result of moco_tf.extract_features, whose labels are: pass two such results, or two "
            "pairs of arrays"
        )
    indices = np.arange(len(labels), dtype=np.int64)
    return Features(features, indices, labels.astype(np.int32), int(labels.max()) + 1)


def _warn_of_missing_classes(train: Features, test: Features) -> None:
    """Warn of classes of test images that no training image has, as with labels that differ by 1.

    Features of two sources are compared by the names of their classes, so they are not compared
    here.
    """
    if train.class_names != test.class_names and train.class_names and test.class_names:
        return
    train_labels, test_labels = labeled(train).labels, labeled(test).labels
    assert train_labels is not None
    assert test_labels is not None
    missing = np.setdiff1d(test_labels, train_labels)
    if len(missing):
        count = int(np.isin(test_labels, missing).sum())
        warnings.warn(
            f"{count} of {len(test_labels)} test images are of {len(missing)} classes that no "
            "training image has, so they count as wrong: look at the labels of both parts",
            stacklevel=4,
        )
