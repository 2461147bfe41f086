"""Pairs of arrays, features and labels, in place of the result of `moco_tf.extract_features`."""

import dataclasses
import warnings
from typing import Any

import numpy as np

from moco_tf.data import given
from moco_tf.errors import UserError
from moco_tf.evaluation.features import Features, labeled, require_comparable, with_classes_of

# Of an array beside the result of `extract_features`. The memory of an evaluation grows with it.
MAX_CLASSES = 10**6


def comparable(train: Any, test: Any) -> tuple[Features, Features]:
    """Return two arguments as features, with pairs of arrays replaced.

    Warns of test images whose class no training image has.

    Args:
        train: The argument `train` of `moco_tf.knn` or `moco_tf.linear_probe`.
        test: The argument `test`.

    Returns:
        Features of the same classes. Those of the test images all have labels.

    Raises:
        UserError: If they cannot be compared.

    Example:
        >>> train, test = comparable(([[0, 1], [1, 0]], ["dog", "cat"]), ([[0.1, 1]], ["dog"]))
        >>> train.labels.tolist(), test.labels.tolist(), test.class_names
        ([1, 0], [1], ['cat', 'dog'])
    """
    pairs = {name: _pair(name, part) for name, part in (("train", train), ("test", test))}
    both = [pair for pair in pairs.values() if pair is not None]
    if len(both) == 2:
        train, test = _with_classes(*both)
    else:
        train = train if pairs["train"] is None else _features("train", *pairs["train"])
        test = test if pairs["test"] is None else _features("test", *pairs["test"])
    require_comparable(train, test)
    test = with_classes_of(train, labeled(test))
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
        is_number = features.dtype.kind not in "cUSM"
        with np.errstate(over="ignore"):
            # Also of bfloat16, or of objects.
            numbers = features.astype(np.float32) if is_number else features
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"the features of {name} are not an array of numbers: {error}") from error
    if not is_number or features.ndim != 2 or not features.size:
        raise UserError(
            f"the features of {name} have the shape {list(features.shape)} and the type "
            f"{features.dtype}: pass a pair (features [M, D], labels [M]), with numbers as features"
        )
    is_finite = np.isfinite(numbers).all(axis=1)
    if not is_finite.all():
        raise UserError(
            f"the features of {name} have NaN, infinity or numbers beyond the range of float32 in "
            f"{(~is_finite).sum()} of {len(numbers)} rows, first in row {np.argmin(is_finite)}: "
            "leave these rows out, or correct them"
        )
    labels = given.as_labels(part[1], len(numbers), name)
    if labels.dtype.kind != "U":
        labels = labels.astype(np.int64)
        _require_no_negative_class(name, labels)
    return numbers, labels


def _require_no_negative_class(name: str, labels: np.ndarray) -> None:
    """Raise a `UserError` for negative labels that are not meant to be missing."""
    negative = labels[labels < 0]
    if (negative < -1).any():
        raise UserError(
            f"the labels of {name} have the number {negative.min()}: use numbers of 0 or greater, "
            "and -1 for an image without a label"
        )
    if negative.size and set(np.unique(labels)) == {-1, 1}:
        raise UserError(
            f"the labels of {name} are -1 and 1, but -1 stands for an image without a label: use 0 "
            "and 1"
        )


def _with_classes(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> tuple[Features, Features]:
    """Return two pairs as features, in which the sorted labels of both are the classes.

    The labels themselves may be texts, or numbers that are far apart.
    """
    known = [labels[_is_given(labels)] for _, labels in (train, test)]
    known = [labels for labels in known if labels.size]
    if len({labels.dtype.kind == "U" for labels in known}) > 1:
        raise UserError("the labels of train and test are texts and numbers: use the same for both")
    classes = np.unique(np.concatenate(known)) if known else np.array([], np.int64)

    def features(part: tuple[np.ndarray, np.ndarray]) -> Features:
        values, labels = part
        numbers = np.full(len(labels), -1, np.int32)
        is_given = _is_given(labels)
        numbers[is_given] = np.searchsorted(classes, labels[is_given])
        names = [str(label) for label in classes]
        return Features(values, np.arange(len(labels)), numbers, len(classes), class_names=names)

    return features(train), features(test)


def _is_given(labels: np.ndarray) -> np.ndarray:
    """Return which labels of `given.as_labels` are not missing, bool `[M]`."""
    return labels != "" if labels.dtype.kind == "U" else labels >= 0


def _features(name: str, features: np.ndarray, labels: np.ndarray) -> Features:
    """Return an array of features and one of the numbers of classes as `Features`."""
    if labels.dtype.kind == "U" or labels.max() >= MAX_CLASSES:
        raise UserError(
            f"the labels of {name} are not the numbers of classes below {MAX_CLASSES:,}, but the "
            "other features are the result of moco_tf.extract_features, whose labels are: pass two "
            "such results, or two pairs of arrays"
        )
    indices = np.arange(len(labels), dtype=np.int64)
    return Features(features, indices, labels.astype(np.int32), int(labels.max()) + 1)


def _warn_of_missing_classes(train: Features, test: Features) -> None:
    """Warn of test images whose class no training image has, as with labels that differ by 1."""
    train_labels, test_labels = labeled(train).labels, labeled(test).labels
    assert train_labels is not None
    assert test_labels is not None
    missing = np.setdiff1d(test_labels, train_labels)
    if len(missing):
        count = int(np.isin(test_labels, missing).sum())
        warnings.warn(
            f"{count} of {len(test_labels)} test images have a class that no training image has, "
            "and count as wrong: look at the labels of both parts",
            stacklevel=4,  # Where the function of `moco_tf` was called.
        )
