"""Weighted k-nearest-neighbor classification of frozen features (InstDisc, Wu et al. 2018)."""

import numpy as np

from moco_tf.evaluation.features import Features, require_finite
from moco_tf.evaluation.metrics import accuracies
from moco_tf.evaluation.settings import KNNSettings

BLOCK = 1024  # Number of test features compared at a time, which bounds the memory.


def nearest(bank: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest features of each query by cosine similarity.

    Args:
        bank: float32 `[M, D]`.
        queries: float32 `[N, D]`.
        k: Number of neighbors; clipped to M.

    Returns:
        The indices into the bank, int64 `[N, k]`, most similar first, and their similarities,
        float32 `[N, k]`, in [-1, 1].
    """
    k = min(k, len(bank))
    bank, queries = normalize(bank), normalize(queries)
    indices, similarities = [], []
    for start in range(0, len(queries), BLOCK):
        similarity = queries[start : start + BLOCK] @ bank.T
        best = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        best_similarity = np.take_along_axis(similarity, best, axis=1)
        order = np.argsort(-best_similarity, axis=1, kind="stable")
        indices.append(np.take_along_axis(best, order, axis=1))
        similarities.append(np.take_along_axis(best_similarity, order, axis=1))
    return np.concatenate(indices), np.concatenate(similarities)


def classify(
    train: Features, test: Features, settings: KNNSettings = KNNSettings()
) -> dict[str, float]:
    """Classify test images by their nearest training images.

    Each of the k neighbors votes for its class with the weight exp(similarity / temperature).

    Args:
        train: Labeled features of the training images, the bank.
        test: Labeled features of the test images.
        settings: Number of neighbors and temperature.

    Returns:
        `{"top1": float, "top5": float}`, in [0, 1].

    Raises:
        UserError: If a feature is not finite.
    """
    require_finite(train, test)
    assert train.labels is not None
    assert test.labels is not None
    indices, similarities = nearest(train.features, test.features, settings.k)
    # Relative to the best similarity, so that small temperatures do not overflow.
    relative = (similarities - similarities[:, :1]).astype(np.float64)
    weights = np.exp(relative / settings.temperature)
    scores = np.zeros((len(test.features), train.num_classes))
    rows = np.repeat(np.arange(len(test.features)), indices.shape[1])
    np.add.at(scores, (rows, train.labels[indices].ravel()), weights.ravel())
    return accuracies(scores, test.labels)


def normalize(features: np.ndarray) -> np.ndarray:
    """Divide each row by its L2 norm; a row of zeros is left as it is."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
