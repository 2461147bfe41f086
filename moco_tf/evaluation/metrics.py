"""Accuracy of class scores."""

from typing import Any

import numpy as np

from moco_tf.evaluation.bootstrap import mean_interval
from moco_tf.evaluation.features import Features


def accuracies(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return top-1 and top-5 accuracy.

    Args:
        scores: float `[N, classes]`; -infinity for a class that is not a possible answer.
        labels: int `[N]`.

    Returns:
        `{"top1": float, "top5": float}`, in [0, 1]. With five classes or fewer that are possible
        answers, top-5 is 1.

    Example:
        >>> accuracies(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
        {'top1': 0.5, 'top5': 1.0}
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    is_possible = np.take_along_axis(scores, best, axis=1) > -np.inf
    hits = (best == labels[:, np.newaxis]) & is_possible
    return {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(axis=1).mean())}


def classification(scores: np.ndarray, test: Features) -> dict[str, Any]:
    """Return the accuracies of class scores with an interval, and the accuracy of each class.

    Args:
        scores: float `[N, classes]`, scores of the test images.
        test: Labeled features of the test images.

    Returns:
        A dict with `top1` and `top5`, in [0, 1]; `top1_interval`, the 95 % interval of
        `moco_tf.evaluation.bootstrap.share_interval`; `per_class`, a list of dicts with `class`,
        its name, `num_test`, the number of its test images, and `top1`, for each class with test
        images; and `mean_per_class`, the mean of the accuracies of the classes, in which a class of
        few images counts as much as one of many.
    """
    assert test.labels is not None
    return {
        **accuracies(scores, test.labels),
        **details(first_hits(scores, test.labels), test),
    }


def first_hits(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return which images have the highest score for their own class.

    Args:
        scores: float `[N, classes]`.
        labels: int `[N]`.

    Returns:
        bool `[N]`.
    """
    return np.argsort(-scores, axis=1, kind="stable")[:, 0] == labels


def details(hits: np.ndarray, test: Features) -> dict[str, Any]:
    """Return the interval of a top-1 accuracy, and the accuracy of each class and their mean.

    Args:
        hits: bool `[N]`, whether each test image is classified correctly; or float `[N]`, how often
            it is, as a fraction of several classifiers.
        test: Labeled features of the test images.

    Returns:
        The entries `top1_interval`, `mean_per_class` and `per_class` of `classification`.
    """
    assert test.labels is not None
    names = class_names(test)
    rows = []
    for label in np.unique(test.labels):
        of_class = hits[test.labels == label]
        row = {"class": names[label], "num_test": len(of_class), "top1": float(of_class.mean())}
        rows.append(row)
    mean = float(np.mean([row["top1"] for row in rows]))
    return {"top1_interval": mean_interval(hits), "mean_per_class": mean, "per_class": rows}


def class_names(test: Features) -> list[str]:
    """Return the name of each label, which is its number if the classes have no names."""
    return test.class_names or [str(label) for label in range(test.num_classes)]
