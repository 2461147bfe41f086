"""Accuracy of class scores."""

from typing import Any

import numpy as np

from moco_tf.evaluation.bootstrap import mean_interval
from moco_tf.evaluation.features import Features


def accuracies(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return top-1 and top-5 accuracy.

    Args:
        scores: float `[N, classes]`.
        labels: int `[N]`.

    Returns:
        `{"top1": float, "top5": float}`, in [0, 1]. With five classes or fewer, top-5 is 1.

    Example:
        >>> accuracies(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
        {'top1': 0.5, 'top5': 1.0}
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    hits = best == labels[:, np.newaxis]
    return {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(axis=1).mean())}


def classification(scores: np.ndarray, test: Features) -> dict[str, Any]:
    """Return the accuracies of class scores with an interval, and the accuracy of each class.

    Args:
        scores: float `[N, classes]`, scores of the test images.
        test: Labeled features of the test images.

    Returns:
        A dict with `top1` and `top5`, in [0, 1]; `top1_interval`, the 95 % interval of
        `moco_tf.evaluation.bootstrap.mean_interval`; and `per_class`, a list of dicts with `class`,
        its name, `num_test`, the number of its test images, and `top1`, for each class with test
        images.
    """
    assert test.labels is not None
    hits = np.argsort(-scores, axis=1, kind="stable")[:, 0] == test.labels
    names = test.class_names or [str(label) for label in range(test.num_classes)]
    per_class = []
    for label in np.unique(test.labels):
        of_class = hits[test.labels == label]
        row = {"class": names[label], "num_test": len(of_class), "top1": float(of_class.mean())}
        per_class.append(row)
    return {
        **accuracies(scores, test.labels),
        "top1_interval": mean_interval(hits),
        "per_class": per_class,
    }
