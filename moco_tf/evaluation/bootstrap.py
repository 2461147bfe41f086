"""Confidence intervals of results on test images.

Those of an accuracy are by Wilson (1927), and others by the bootstrap (Efron 1979). The bootstrap
draws the test images again, so it says nothing about an accuracy of 0 or 1, where every draw has
the same accuracy, however few the images are.
"""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.stats

SAMPLES = 2000
CONFIDENCE = 0.95
# Number of random choices of an image that are made at a time, which bounds the memory.
BLOCK = 10_000_000


def mean_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return a 95 % confidence interval of a mean.

    If all values are 0 or 1, such as whether an image is classified correctly, it is the interval
    of `share_interval`. Otherwise, such as for average precisions, it is between percentiles of the
    bootstrap: the images are drawn again with replacement, 2,000 times. The interval says how much
    the mean would differ with other test images of the same kind. It says nothing about another
    training.

    Args:
        values: float or bool `[N]`, a value for each test image.
        seed: Random seed of the draws.

    Returns:
        The lower and the upper end.

    Raises:
        ValueError: If there are no values.

    Example:
        >>> low, high = mean_interval(np.repeat([0.0, 0.5, 1.0], [10, 20, 70]))
        >>> round(low, 2), round(high, 2)
        (0.73, 0.86)
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        raise ValueError("values: give one or more")
    if np.isin(values, (0, 1)).all():
        return share_interval(int(values.sum()), len(values))
    generator = np.random.Generator(np.random.Philox(seed))
    means: list[float] = []
    while len(means) < SAMPLES:
        rows = min(SAMPLES - len(means), max(1, BLOCK // len(values)))
        drawn = values[generator.integers(0, len(values), (rows, len(values)))]
        means.extend(drawn.mean(axis=1))
    return _percentiles(means)


def share_interval(count: int, total: int) -> tuple[float, float]:
    """Return a 95 % confidence interval of a share, by Wilson (1927).

    It has a width for shares of 0 and 1 too.

    Args:
        count: Number of the images that count, such as those that are classified correctly.
        total: Number of all images, 1 or greater.

    Returns:
        The lower and the upper end, in [0, 1].

    Example:
        >>> low, high = share_interval(20, 20)
        >>> round(low, 2), round(high, 2)
        (0.84, 1.0)
    """
    ends = scipy.stats.binomtest(count, total).proportion_ci(CONFIDENCE, "wilson")
    return float(ends.low), float(ends.high)


def interval(
    statistic: Callable[[np.ndarray], float], groups: Sequence[np.ndarray], seed: int = 0
) -> tuple[float, float]:
    """Return a 95 % confidence interval of any statistic, between percentiles of the bootstrap.

    Args:
        statistic: Function of images that were drawn, int64 `[N]`, indices of test images.
        groups: Disjoint sets of test images. As many are drawn from each as there are in it, such
            as from the normal and from the anomalous ones.
        seed: Random seed of the draws.

    Returns:
        The lower and the upper end.

    Example:
        >>> values = np.repeat([0.0, 1.0], [20, 80])
        >>> interval(lambda drawn: values[drawn].mean(), [np.arange(100)])
        (0.72, 0.87)
    """
    generator = np.random.Generator(np.random.Philox(seed))
    values = []
    for _ in range(SAMPLES):
        drawn = [group[generator.integers(0, len(group), len(group))] for group in groups]
        values.append(statistic(np.concatenate(drawn)))
    return _percentiles(values)


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
