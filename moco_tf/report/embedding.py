"""Features as a map, as neighbourhoods, and in two numbers."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from moco_tf.evaluation import knn

# Images below which t-SNE, whose neighbourhoods are of some thirty, gives way to PCA.
FEW = 100
BLOCK = 500  # features compared with all others at a time


def flat_map(features):
    """Places in the plane for features, alike where their cosine is high.

    By t-SNE, of 100 features or more, which begins with their first two principal components; of
    fewer these components themselves. The same features always come to lie at the same places.

    Args:
        features: float32 `[N, D]`.

    Returns:
        float `[N, 2]`, in 0 to 1, both axes to the same scale.
    """
    unit = unit_rows(features)
    if np.ptp(unit, axis=0).max() < 1e-6:
        return np.full([len(unit), 2], 0.5)
    if len(unit) >= FEW:
        places = TSNE(2, init="pca", perplexity=30, random_state=0).fit_transform(unit)
    else:
        places = PCA(min(2, *unit.shape), random_state=0).fit_transform(unit)
        places = np.pad(places, [(0, 0), (0, 2 - places.shape[1])])
    low, high = places.min(axis=0), places.max(axis=0)
    return 0.5 + (places - (low + high) / 2) / (high - low).max()


def neighbours(bank, bank_indices, features, indices, count):
    """The nearest features of a bank by cosine, an image itself left out.

    Args:
        bank: float32 `[M, D]`.
        bank_indices: int64 `[M]`, the images that they are of.
        features: float32 `[N, D]`.
        indices: int64 `[N]`, the images that these are of.
        count: int, neighbours of each; at most those that there are.

    Returns:
        rows: int64 `[N, count]` of the bank, the nearest first.
        cosines: float32 `[N, count]`.
    """
    rows, cosines = knn.nearest(bank, features, count + 1)
    itself = bank_indices[rows] == indices[:, np.newaxis]
    # Of an image that is not in the bank, the farthest goes.
    itself[:, -1] |= ~itself.any(axis=1)
    shape = len(features), rows.shape[1] - 1
    return rows[~itself].reshape(shape), cosines[~itself].reshape(shape)


def cosines_of_pairs(features):
    """The cosines between the features of all pairs of different images.

    Args:
        features: float32 `[N, D]`, N > 1.

    Returns:
        float32 `[N * (N - 1) / 2]`.
    """
    unit = unit_rows(features)
    blocks = []
    for start in range(0, len(unit), BLOCK):
        block = unit[start : start + BLOCK] @ unit.T
        blocks.append(block[np.arange(len(unit)) > start + np.arange(len(block))[:, np.newaxis]])
    return np.concatenate(blocks)


def effective_rank(features):
    """In how many directions features vary: the exponential of the entropy of the singular values
    of the centred unit features (Roy and Vetterli, EUSIPCO 2007).

    Args:
        features: float32 `[N, D]`.

    Returns:
        float, from 1 (along one line, or not at all) to the smaller of N - 1 and D.
    """
    unit = unit_rows(features).astype(np.float64)
    values = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)
    shares = values / max(values.sum(), 1e-6)
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def unit_rows(x):
    """Each row of `x`, `[N, D]`, divided by its norm; a row of zeros stays."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
