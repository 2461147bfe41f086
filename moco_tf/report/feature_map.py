"""A map of features in two dimensions."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from moco_tf.evaluation.features import normalize

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
    unit = normalize(features)
    if np.ptp(unit, axis=0).max() < 1e-6:
        return np.full([len(unit), 2], 0.5)
    if len(unit) >= MIN_IMAGES_FOR_TSNE:
        positions = TSNE(2, init="pca", perplexity=30, random_state=0).fit_transform(unit)
    else:
        positions = PCA(min(2, *unit.shape), random_state=0).fit_transform(unit)
        positions = np.pad(positions, [(0, 0), (0, 2 - positions.shape[1])])
    low, high = positions.min(axis=0), positions.max(axis=0)
    return 0.5 + (positions - (low + high) / 2) / (high - low).max()
