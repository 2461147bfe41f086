"""Measures of features that need no labels: whether they differ between images, and how much.

All of them are of unit features, which have been divided by their length, because the loss and the
nearest neighbors see only these.
"""

import numpy as np

from moco_tf.evaluation.features import Features, normalize, require_finite

BLOCK = 500  # Number of features that are compared with all others at a time.
# Features have collapsed if 95 % of the pairs of images have a cosine similarity above the first
# number, or if their effective rank is below the second one. On `photos`, the similarity is 0.94 to
# 0.99 for untrained encoders and 0.39 after four epochs, and the rank 38 to 155 and 31.
COLLAPSED_COSINE, COLLAPSED_RANK = 0.995, 2.0


def measure(features: Features) -> dict[str, float]:
    """Return all measures of the features of different images.

    Args:
        features: Features of two images or more.

    Returns:
        A dict with `effective_rank`, `uniformity`, `feature_std`, `dead_dimensions`, `low_cosine`,
        and `collapsed`, which is 1 if the features have collapsed and 0 otherwise.

    Raises:
        UserError: If a feature is not finite.
    """
    require_finite(features)
    cosines = pairwise_cosines(features.features)
    rank, low = effective_rank(features.features), low_cosine(cosines)
    return {
        "effective_rank": rank,
        "uniformity": uniformity(cosines),
        "feature_std": feature_std(features.features),
        "dead_dimensions": dead_dimensions(features.features),
        "low_cosine": low,
        "collapsed": float(has_collapsed(low, rank)),
    }


def has_collapsed(low_cosine: float, effective_rank: float) -> bool:
    """Return whether features are nearly the same for all images, or vary along one line."""
    return low_cosine >= COLLAPSED_COSINE or effective_rank < COLLAPSED_RANK


def effective_rank(features: np.ndarray) -> float:
    """Return the number of directions in which features vary.

    It is the exponential of the entropy of the singular values of the unit features (Roy and
    Vetterli, EUSIPCO 2007). RankMe (Garrido et al., ICML 2023) is the same, except that here the
    mean is subtracted, so that a direction that all images share does not count.

    Args:
        features: float32 `[N, D]`.

    Returns:
        From 1 (they vary along one line, or not at all) to the smaller of N - 1 and D.

    Example:
        >>> round(effective_rank(np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])), 6)
        2.0
    """
    unit = normalize(features).astype(np.float64)
    unit -= unit.mean(axis=0)
    # The singular values are the roots of the eigenvalues of the smaller product, in less time.
    product = unit @ unit.T if len(unit) < unit.shape[1] else unit.T @ unit
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(product), 0))
    # Below this share, an eigenvalue is rounding.
    values = values[values > 1e-7 * max(values.max(), 1e-6)]
    shares = values / max(values.sum(), 1e-6)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def pairwise_cosines(features: np.ndarray) -> np.ndarray:
    """Return the cosine similarities of all pairs of different images.

    Args:
        features: float32 `[N, D]`, N > 1.

    Returns:
        float32 `[N * (N - 1) / 2]`. Two features of zeros are equal, so that it is 1.

    Example:
        >>> pairwise_cosines(np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])).tolist()
        [0.0, 1.0, 0.0]
    """
    is_zero = ~features.any(axis=1, keepdims=True)
    unit = np.concatenate([normalize(features), is_zero.astype(features.dtype)], axis=1)
    blocks = []
    for start in range(0, len(unit), BLOCK):
        block = unit[start : start + BLOCK] @ unit.T
        blocks.append(block[np.arange(len(unit)) > start + np.arange(len(block))[:, np.newaxis]])
    return np.concatenate(blocks)


def low_cosine(cosines: np.ndarray) -> float:
    """Return the cosine similarity that 95 % of the pairs of images exceed."""
    return float(np.percentile(cosines, 5))


def uniformity(cosines: np.ndarray) -> float:
    """Return how evenly unit features are spread over the sphere (Wang and Isola, ICML 2020).

    It is the logarithm of the mean of exp(-2 d) over pairs of images, where d is the squared
    distance of their unit features, which is 2 - 2 cos.

    Args:
        cosines: Result of `pairwise_cosines`.

    Returns:
        From -4 in high dimensions (spread evenly) or less in low ones, up to 0 (all are equal).

    Example:
        >>> uniformity(np.array([1.0, 1.0]))
        0.0
    """
    distances = 2 - 2 * cosines.astype(np.float64)
    return float(np.log(np.exp(-2 * distances).mean()))


def alignment(queries: np.ndarray, keys: np.ndarray) -> float:
    """Return how close the features of two views of an image are (Wang and Isola, ICML 2020).

    It is the mean squared distance of their unit features.

    Args:
        queries: float32 `[N, D]`, features of one view of each image.
        keys: float32 `[N, D]`, features of another view of the same images.

    Returns:
        From 0 (the views of an image have equal features) to 4; 2 on average for features that are
        independent and spread evenly.

    Example:
        >>> alignment(np.array([[2.0, 0.0]]), np.array([[0.0, 1.0]]))
        2.0
    """
    difference = normalize(queries).astype(np.float64) - normalize(keys)
    return float((difference**2).sum(axis=1).mean())


def feature_std(features: np.ndarray) -> float:
    """Return the mean standard deviation of a dimension of unit features, times the root of D.

    SimSiam (Chen and He, CVPR 2021) shows the collapse of features by this deviation.

    Args:
        features: float32 `[N, D]`.

    Returns:
        From 0 (all are equal) to 1 (spread evenly over the sphere).
    """
    unit = normalize(features).astype(np.float64)
    return float(unit.std(axis=0).mean() * np.sqrt(unit.shape[1]))


def dead_dimensions(features: np.ndarray) -> float:
    """Return the share of dimensions that have the same value for all images, in [0, 1].

    Args:
        features: float32 `[N, D]`, before their division by their length.
    """
    return float((np.ptp(features, axis=0) == 0).mean())
