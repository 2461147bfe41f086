"""Ascending indices that are computed when they are used, for sources with very many images."""

import bisect
import functools
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike


class Blocks:
    """Ascending indices in blocks, such as the records of files. The indices are not stored.

    It can be used like an int64 array of one dimension: it has a length, it can be indexed by an
    integer, a slice or an array of positions, and `np.asarray` returns all the indices.

    Args:
        starts: First index of each block, ascending.
        counts: Number of consecutive indices in each block.
        select: Function from the number of a block to a bool array `[count]`, True for the indices
            to keep. It is called when the length or an index is first needed. None keeps all of
            them.

    Example:
        >>> blocks = Blocks(starts=[0, 10**9], counts=[3, 2])
        >>> len(blocks), blocks[-1], blocks[1:4].tolist()
        (5, 1000000001, [1, 2, 1000000000])
    """

    def __init__(
        self,
        starts: ArrayLike,
        counts: ArrayLike,
        select: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self.starts = np.asarray(starts, np.int64)
        self.counts = np.asarray(counts, np.int64)
        self.select = select

    @functools.cached_property
    def _first_positions(self) -> np.ndarray:
        """The position of the first index of each block, then the number of all indices."""
        counts = self.counts
        if self.select is not None:
            blocks = range(len(counts))
            counts = np.array([self.select(block).sum() for block in blocks], np.int64)
        return np.cumsum([0, *counts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._first_positions[-1])

    @overload
    def __getitem__(self, positions: int | np.integer) -> int: ...

    @overload
    def __getitem__(self, positions: slice | np.ndarray) -> np.ndarray: ...

    def __getitem__(self, positions: int | np.integer | slice | np.ndarray) -> int | np.ndarray:
        if isinstance(positions, slice):
            return self._at(np.arange(*positions.indices(len(self))))
        array = np.asarray(positions)
        if array.dtype == bool:
            array = np.flatnonzero(array)
        if array.size and not (-len(self) <= array.min() and array.max() < len(self)):
            raise IndexError(f"positions {array.min()} to {array.max()} of {len(self)} indices")
        indices = self._at(np.where(array < 0, array + len(self), array).astype(np.int64))
        return indices if array.ndim else int(indices)

    def _at(self, positions: np.ndarray) -> np.ndarray:
        """Return the indices at positions that are not negative, of any shape."""
        blocks = np.searchsorted(self._first_positions, positions, side="right") - 1
        numbers = np.asarray(positions - self._first_positions[blocks])
        if self.select is not None:
            for block in np.unique(blocks):
                is_in = blocks == block
                numbers[is_in] = np.flatnonzero(self.select(block))[numbers[is_in]]
        return self.starts[blocks] + numbers

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.int64, copy=False)

    def tolist(self) -> list[int]:
        """Return all the indices."""
        return self[:].tolist()


Indices = np.ndarray | Blocks


def join(parts: Sequence[tuple[int, Indices]]) -> Blocks:
    """Return the indices of several concatenated sources as one `Blocks`.

    Args:
        parts: The first index of each source in the result, and indices of the source itself.

    Example:
        >>> join([(0, np.array([1, 2])), (10, Blocks([0], [3]))]).tolist()
        [1, 2, 10, 11, 12]
    """
    blocks = [
        (first, part if isinstance(part, Blocks) else _blocks_of(part)) for first, part in parts
    ]
    # The part that each block is from, and the block's number in it.
    origins = [(part, number) for _, part in blocks for number in range(len(part.starts))]

    def select(block: int) -> np.ndarray:
        part, number = origins[block]
        if part.select is None:
            return np.ones(part.counts[number], bool)
        return part.select(number)

    return Blocks(
        starts=np.concatenate([first + part.starts for first, part in blocks]),
        counts=np.concatenate([part.counts for _, part in blocks]),
        select=select if any(part.select is not None for _, part in blocks) else None,
    )


def _blocks_of(indices: np.ndarray) -> Blocks:
    """Return ascending indices as blocks of consecutive ones."""
    if not len(indices):
        return Blocks([], [])
    ends = np.flatnonzero(np.append(np.diff(indices) != 1, True)) + 1
    counts = np.diff(ends, prepend=0)
    return Blocks(indices[ends - counts], counts)


def is_in(index: int | np.integer, indices: Indices) -> bool:
    """Return whether an index is one of some ascending indices."""
    position = position_of(index, indices)
    return position < len(indices) and indices[position] == index


def position_of(index: int | np.integer, indices: Indices) -> int:
    """Return the position of an index among ascending indices.

    Example:
        >>> position_of(20, np.array([10, 20, 30]))
        1
    """
    return bisect.bisect_left(indices, int(index))
