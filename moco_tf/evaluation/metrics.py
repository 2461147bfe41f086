"""Accuracy of class scores."""

import numpy as np


def accuracies(scores, labels):
    """Top-1 and top-5 accuracy.

    Args:
        scores: float `[N, classes]`.
        labels: int `[N]`.

    Returns:
        `{"top1": float, "top5": float}`, shares in 0 to 1. With five classes or fewer, top-5 is 1.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    hits = best == labels[:, np.newaxis]
    return {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(axis=1).mean())}
