"""Weighted k-nearest-neighbor classification of frozen features (InstDisc, Wu et al. 2018)."""

from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf.data.sources.source import sample
from moco_tf.evaluation.features import (
    Features,
    labeled,
    normalize,
    require_finite,
    with_classes_of,
)
from moco_tf.evaluation.metrics import accuracies
from moco_tf.evaluation.settings import KNNSettings

BLOCK = 1024  # Number of test features compared at a time, which bounds the memory.
# Maximum numbers of training images, the bank, and of test images, which are classified, where it
# has to be quick: in the monitor of a run and in reports.
MAX_TRAIN = 10_000
MAX_TEST = 2_000
MAX_QUERIES = 10_000  # Number of training images that choose k.


def nearest(bank: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest features of each query by cosine similarity.

    Args:
        bank: float32 `[M, D]`.
        queries: float32 `[N, D]`.
        k: Number of neighbors; clipped to M.

    Returns:
        The indices into the bank, int64 `[N, k]`, most similar first and in ascending order among
        equally similar ones, and their similarities, float32 `[N, k]`, in [-1, 1].
    """
    k = min(k, len(bank))
    bank, queries = normalize(bank), normalize(queries)
    indices, similarities = [], []
    for start in range(0, len(queries), BLOCK):
        similarity = queries[start : start + BLOCK] @ bank.T
        # It takes a third of the time of NumPy's argpartition. It runs on the CPU, where the
        # similarities are.
        with tf.device("CPU"):
            best_similarity, best = tf.math.top_k(similarity, k)
        indices.append(best.numpy().astype(np.int64))
        similarities.append(best_similarity.numpy())
    return np.concatenate(indices), np.concatenate(similarities)


def nearest_others(
    bank: np.ndarray,
    bank_indices: np.ndarray,
    queries: np.ndarray,
    query_indices: np.ndarray,
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest features of each query by cosine similarity, without the query itself.

    Args:
        bank: float32 `[M, D]`.
        bank_indices: int64 `[M]`, the images that these features belong to.
        queries: float32 `[N, D]`.
        query_indices: int64 `[N]`, the images that the queries belong to.
        count: Number of neighbors of each query; clipped to the number of other images.

    Returns:
        The rows of the bank, int64 `[N, count]`, nearest first, and their cosine similarities,
        float32 `[N, count]`.
    """
    rows, cosines = nearest(bank, queries, count + 1)
    excluded = bank_indices[rows] == query_indices[:, np.newaxis]
    if rows.shape[1] <= count and not excluded.any():
        return rows, cosines
    # If the query is not in the bank, its farthest neighbor is excluded instead.
    excluded[:, -1] |= ~excluded.any(axis=1)
    shape = len(queries), rows.shape[1] - 1
    return rows[~excluded].reshape(shape), cosines[~excluded].reshape(shape)


def classify(
    train: Features, test: Features, settings: KNNSettings = KNNSettings()
) -> dict[str, float]:
    """Classify test images by their nearest training images, and return the accuracy.

    Args:
        train: Labeled features of the training images. Images without a label are left out.
        test: Labeled features of the test images. Images without a label are left out.
        settings: Number of neighbors and temperature.

    Returns:
        `{"top1": float, "top5": float}`, in [0, 1].

    Raises:
        UserError: If a feature is not finite, there are no labels, or both have names of classes,
            and test images are of a class whose name the training images do not have.
    """
    test = with_classes_of(train, labeled(test))
    assert test.labels is not None
    return accuracies(scores(train, test, settings), test.labels)


def scores(train: Features, test: Features, settings: KNNSettings = KNNSettings()) -> np.ndarray:
    """Return the votes of the nearest training images for each class.

    Args:
        train: As for `classify`.
        test: Features of the test images, with labels or without.
        settings: As for `classify`.

    Returns:
        float64 `[N, classes]`. Classes without a vote have -infinity.

    Raises:
        UserError: If a feature is not finite, or there are no labels.
    """
    train = labeled(train)
    require_finite(train, test)
    assert train.labels is not None
    indices, similarities = nearest(train.features, test.features, settings.k)
    labels = train.labels[indices]
    return _votes(labels, similarities, train.num_classes, settings.temperature)


def choose_k(train: Features, settings: KNNSettings) -> tuple[int, list[dict[str, Any]]]:
    """Choose the number of neighbors by classifying training images, each without itself.

    Args:
        train: As for `classify`. A sample of up to 10,000 of the images is classified.
        settings: The numbers `ks` to compare, and the temperature.

    Returns:
        The best number, the smallest one of equal ones, and a list of dicts with each `k` and its
        `top1` on the training images.

    Raises:
        UserError: If a feature is not finite, or there are no labels.
    """
    train = labeled(train)
    require_finite(train)
    assert train.labels is not None
    queries = sample(np.arange(len(train.features)), MAX_QUERIES)
    indices, similarities = nearest_others(
        train.features,
        np.arange(len(train.features)),
        train.features[queries],
        queries,
        max(settings.ks),
    )
    labels = train.labels[indices]
    choices: list[dict[str, Any]] = []
    for k in settings.ks:
        votes = _votes(labels[:, :k], similarities[:, :k], train.num_classes, settings.temperature)
        choices.append({"k": k, "top1": accuracies(votes, train.labels[queries])["top1"]})
    best = min(choices, key=lambda choice: (-choice["top1"], choice["k"]))
    return best["k"], choices


def _votes(
    labels: np.ndarray, similarities: np.ndarray, num_classes: int, temperature: float
) -> np.ndarray:
    """Return the sum of the weights of the neighbors of each class, as `scores`."""
    # Relative to the best similarity, so that small temperatures do not overflow.
    relative = (similarities - similarities[:, :1]).astype(np.float64)
    weights = np.exp(relative / temperature)
    votes = np.zeros((len(labels), num_classes))
    rows = np.repeat(np.arange(len(labels)), labels.shape[1])
    np.add.at(votes, (rows, labels.ravel()), weights.ravel())
    return np.where(votes > 0, votes, -np.inf)
