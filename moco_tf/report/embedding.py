"""Geometry of features: a map in two dimensions, and nearest neighbors."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from moco_tf.evaluation import knn

# With fewer images PCA replaces t-SNE, whose neighborhoods have about 30 images.
MIN_IMAGES_FOR_TSNE = 100


def map_to_plane(features: np.ndarray) -> np.ndarray:
    """Map features to two dimensions, so that features with a high cosine similarity are close.

    t-SNE maps 100 features or more, starting from their first two principal components. Fewer
    features are mapped to these components. The result is deterministic.

    Args:
        features: float32 `[N, D]`.

    Returns:
        Positions, float `[N, 2]`, in [0, 1], with the same scale on both axes.

    Example:
        >>> map_to_plane(np.array([[1.0, 0.0], [0.0, 1.0]])).shape
        (2, 2)
    """
    unit = knn.normalize(features)
    if np.ptp(unit, axis=0).max() < 1e-6:
        return np.full([len(unit), 2], 0.5)
    if len(unit) >= MIN_IMAGES_FOR_TSNE:
        positions = TSNE(2, init="pca", perplexity=30, random_state=0).fit_transform(unit)
    else:
        positions = PCA(min(2, *unit.shape), random_state=0).fit_transform(unit)
        positions = np.pad(positions, [(0, 0), (0, 2 - positions.shape[1])])
    low, high = positions.min(axis=0), positions.max(axis=0)
    return 0.5 + (positions - (low + high) / 2) / (high - low).max()


def neighbors(
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
    rows, cosines = knn.nearest(bank, queries, count + 1)
    excluded = bank_indices[rows] == query_indices[:, np.newaxis]
    # If the query is not in the bank, its farthest neighbor is excluded instead.
    excluded[:, -1] |= ~excluded.any(axis=1)
    shape = len(queries), rows.shape[1] - 1
    return rows[~excluded].reshape(shape), cosines[~excluded].reshape(shape)
