"""Accuracy of class scores."""

import numpy as np


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
