"""Weighted k-nearest-neighbour classification of frozen features (InstDisc, Wu et al. 2018)."""

import numpy as np

from moco_tf.evaluation.metrics import accuracies

BLOCK = 1024  # test features compared at a time; bounds the memory


def nearest(train, test, k):
    """The k nearest training features of each test feature by cosine similarity.

    Args:
        train: float32 `[M, D]`, the bank.
        test: float32 `[N, D]`.
        k: int; more than M counts as M.

    Returns:
        indices: int64 `[N, k]` into the bank, the most similar first.
        similarities: float32 `[N, k]`, -1 to 1.
    """
    k = min(k, len(train))
    train, test = _unit(train), _unit(test)
    indices, similarities = [], []
    for start in range(0, len(test), BLOCK):
        similarity = test[start : start + BLOCK] @ train.T
        best = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(similarity, best, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        indices.append(np.take_along_axis(best, order, axis=1))
        similarities.append(np.take_along_axis(found, order, axis=1))
    return np.concatenate(indices), np.concatenate(similarities)


def classify(train, train_labels, test, test_labels, num_classes, k=200, temperature=0.07):
    """Accuracy of weighted nearest neighbours.

    Each of the k neighbours votes for its class with the weight exp(similarity / temperature).

    Args:
        train, test: float32 `[M, D]` and `[N, D]`.
        train_labels, test_labels: int `[M]` and `[N]`, in 0 to `num_classes` - 1.
        num_classes: int.
        k: int, neighbours; clipped to M.
        temperature: float > 0.

    Returns:
        `{"top1": float, "top5": float}`, shares in 0 to 1.
    """
    indices, similarities = nearest(train, test, k)
    # Relative to the best, so that small temperatures cannot overflow.
    weights = np.exp((similarities - similarities[:, :1]).astype(np.float64) / temperature)
    scores = np.zeros((len(test), num_classes))
    rows = np.repeat(np.arange(len(test)), indices.shape[1])
    np.add.at(scores, (rows, train_labels[indices].ravel()), weights.ravel())
    return accuracies(scores, test_labels)


def _unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
