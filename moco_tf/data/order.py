"""The random order of an epoch, computed position by position in constant memory.

It is a keyed permutation: a Feistel network over pairs of digits, whose rounds add a random
function of one digit to the other (Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
2002, section 5). Any position of any epoch can be computed without the others, so a run on a
billion images starts and resumes as fast as one on a thousand.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from moco_tf.seeds import key_for

# With this many rounds, even orders of a few images are uniform, as the tests measure. For large
# sizes, four rounds cannot be told from a random permutation (Luby and Rackoff, 1988).
ROUNDS = 12
# Multipliers of the finalizer of MurmurHash3, which mixes 64 bits.
MULTIPLIERS = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)
# Both digits of a position are below 2**31.
MAX_SIZE = 2**62


def in_epoch(positions: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Return the images at the given positions of an epoch's random order.

    Args:
        positions: int64, of any shape, from 0 to `size - 1`.
        size: Number of images M, from 1 to 2**62.
        seed: Seed of the run, 0 or more.
        epoch: Number of the epoch, 0 or more.

    Returns:
        int64 of the same shape, from 0 to `size - 1`. Every number occurs at exactly one position.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> in_epoch(np.arange(10), size=10, seed=0, epoch=0).tolist()
        [4, 5, 0, 1, 7, 9, 2, 6, 3, 8]
        >>> in_epoch(np.array([999_999_999]), size=10**9, seed=0, epoch=3).tolist()
        [746047954]
    """
    return permuted(positions, size, key_for("order", seed, epoch))


def permuted(positions: np.ndarray, size: int, key: Sequence[int]) -> np.ndarray:
    """Return numbers at some positions of a random permutation, as `in_epoch`.

    Args:
        positions: int64, of any shape, from 0 to `size - 1`.
        size: Number of permuted numbers, from 1 to 2**62.
        key: Two integers, from 0 to 2**64 - 1, that determine the permutation.

    Returns:
        int64 of the same shape, from 0 to `size - 1`.

    Raises:
        ValueError: If a number is out of its range.
    """
    positions = np.asarray(positions, np.int64)
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"size={size}: use a number from 1 to 2**62")
    if positions.size and not (positions.min() >= 0 and positions.max() < size):
        raise ValueError(f"positions from {positions.min()} to {positions.max()}, but size={size}")
    # The network permutes rows * columns numbers, slightly more than `size`. Results that are too
    # large are permuted again until they are below `size` (cycle walking), so the result is a
    # permutation.
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    keys = _round_keys(*key)
    numbers = _network(positions.astype(np.uint64).ravel(), rows, columns, keys)
    while (outside := numbers >= size).any():
        numbers[outside] = _network(numbers[outside], rows, columns, keys)
    return numbers.astype(np.int64).reshape(positions.shape)


@functools.lru_cache(maxsize=16)
def _round_keys(*key: int) -> np.ndarray:
    """Return the keys of the rounds, uint64 `[ROUNDS]`."""
    return np.random.Philox(key=key).random_raw(ROUNDS)


def shares(mixture: Sequence[tuple[int, float]]) -> list[int]:
    """Return how many images of an epoch are from each source of a mixture with weights.

    Args:
        mixture: Number of images and weight of each source.

    Example:
        >>> shares([(4, 3), (4, 1)])
        [6, 2]
    """
    size, weights = sum(size for size, _ in mixture), [weight for _, weight in mixture]
    bounds = np.round(np.cumsum([0, *weights]) / np.sum(weights) * size)
    return np.diff(bounds).astype(np.int64).tolist()


def in_epoch_of_mixture(
    positions: np.ndarray, mixture: Sequence[tuple[int, float]], seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return which images are at some positions of an epoch of several sources with weights.

    An epoch has as many images as all sources together, divided by weight. Each source continues
    where it stopped in the previous epoch, so over the epochs its images are used equally often.
    Within an epoch they come in random order, so an image can be repeated before another is used.

    Args:
        positions: int64, of any shape, less than the number of images.
        mixture: Number of images and weight of each source.
        seed: Seed of the run.
        epoch: Number of the epoch.

    Returns:
        Two int64 arrays of the same shape. The first has positions among the images of all the
        sources, one source after the other; the second, how often each image was used before.

    Example:
        >>> images, passes = in_epoch_of_mixture(np.arange(8), [(4, 3), (4, 1)], seed=0, epoch=0)
        >>> images.tolist(), passes.tolist()
        ([6, 3, 1, 2, 0, 5, 0, 3], [0, 0, 0, 0, 1, 0, 0, 1])
    """
    sizes = np.array([size for size, _ in mixture])
    bounds = [0, *itertools.accumulate(shares(mixture))]
    draws = in_epoch(positions, bounds[-1], seed, epoch)
    images, passes = np.empty_like(draws), np.empty_like(draws)
    for number, size in enumerate(sizes.tolist()):
        first, end = bounds[number : number + 2]
        is_in = (draws >= first) & (draws < end)
        # Counted from the first draw of the run from this source.
        passes[is_in], places = np.divmod(epoch * (end - first) + draws[is_in] - first, size)
        for one_pass in np.unique(passes[is_in]).tolist():
            key = key_for("order_of_source", seed, one_pass * len(sizes) + number)
            is_in_pass = passes[is_in] == one_pass
            places[is_in_pass] = permuted(places[is_in_pass], size, key)
        images[is_in] = sizes[:number].sum() + places
    return images, passes


def _network(numbers: np.ndarray, rows: int, columns: int, keys: np.ndarray) -> np.ndarray:
    """Permute numbers from 0 to `rows * columns - 1`, uint64 `[n]`."""
    row, column = np.divmod(numbers, np.uint64(columns))
    for first, second in keys.reshape(-1, 2):
        row = _modulo(row + _random_below(rows, column, first), rows)
        column = _modulo(column + _random_below(columns, row, second), columns)
    return row * np.uint64(columns) + column


def _modulo(numbers: np.ndarray, size: int) -> np.ndarray:
    """Return numbers below `2 * size` modulo `size`, in less time than a division."""
    return np.where(numbers >= size, numbers - np.uint64(size), numbers)


def _random_below(size: int, numbers: np.ndarray, key: np.uint64) -> np.ndarray:
    """Return a random function of each number and the key, from 0 to `size - 1`."""
    mixed = numbers ^ key
    for multiplier in MULTIPLIERS:
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(multiplier)
    # The upper 32 bits, scaled.
    return ((mixed >> np.uint64(32)) * np.uint64(size)) >> np.uint64(32)
