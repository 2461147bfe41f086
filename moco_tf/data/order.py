"""The random order of an epoch, computed position by position in constant memory.

It is a keyed permutation: a Feistel network over pairs of digits, whose rounds add a random
function of one digit to the other (Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
2002, section 5). Any position of any epoch can be computed without the others, so a run on a
billion images starts and resumes as fast as one on a thousand.
"""

import functools
import math

import numpy as np

from moco_tf.seeds import key_for

# Enough for orders of a few images to be uniform among all orders, as the tests measure. For large
# sizes, four rounds cannot be told from a random permutation (Luby and Rackoff, 1988).
ROUNDS = 12
# Multipliers of the finalizer of MurmurHash3, which mixes 64 bits.
MULTIPLIERS = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)
# Both digits of a position are below 2**31.
MAX_SIZE = 2**62


def in_epoch(positions: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Return which images are at some positions of an epoch's random order.

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
    positions = np.asarray(positions, np.int64)
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"size={size}: use a number from 1 to 2**62")
    if positions.size and not (positions.min() >= 0 and positions.max() < size):
        raise ValueError(f"positions from {positions.min()} to {positions.max()}, but size={size}")
    # The network permutes rows * columns numbers, hardly more than `size`. One that is too large
    # is permuted again: its cycle leads back to a number below `size`, and no two of them meet.
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    keys = _round_keys(seed, epoch)
    permuted = _network(positions.astype(np.uint64).ravel(), rows, columns, keys)
    while (outside := permuted >= size).any():
        permuted[outside] = _network(permuted[outside], rows, columns, keys)
    return permuted.astype(np.int64).reshape(positions.shape)


@functools.lru_cache(maxsize=16)
def _round_keys(seed: int, epoch: int) -> np.ndarray:
    """Return the keys of the rounds, uint64 `[ROUNDS]`."""
    return np.random.Philox(key=key_for("order", seed, epoch)).random_raw(ROUNDS)


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
