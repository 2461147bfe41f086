"""Records in files, numbered consecutively: the location of each, and its payload by index."""

import dataclasses
import os
import zlib
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np
import tensorflow as tf

from moco_tf.data.sources.indices import Blocks
from moco_tf.names import printable

# Number of files that are scanned at the same time. A scan waits for the disk or the network.
SCAN_THREADS = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """The records of several files, numbered consecutively.

    Attributes:
        paths: Paths of the files.
        first_indices: int64 `[len(paths) + 1]`, the index of the first record of each file, then
            the number of all records.
        sizes: The size of each file in bytes.
        reader: Function that returns a function from an index, an int64 scalar tensor, to the
            payload, a scalar string tensor. The latter works inside tf.data functions. A payload
            that is damaged raises a `tf.errors.OpError` there.
        in_order: Function that returns a dataset of all payloads in order, which is faster than
            reading them by index; None if the format has no such way.
    """

    paths: list[str]
    first_indices: np.ndarray
    sizes: list[int]
    reader: Callable[[], Callable[[tf.Tensor], tf.Tensor]]
    in_order: Callable[[], tf.data.Dataset] | None = None

    @property
    def size(self) -> int:
        """Number of records."""
        return int(self.first_indices[-1])

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which file each record is in, and its number in this file.

        Args:
            indices: int64 `[M]`.

        Returns:
            Positions in `paths` and numbers of the records, both int64 `[M]` and counted from 0.
        """
        files = np.searchsorted(self.first_indices, indices, side="right") - 1
        return files, indices - self.first_indices[files]

    def describe(self, index: int) -> str:
        """Return a description of a record for messages: its number and its file."""
        files, numbers = self.locate(np.array([index]))
        return f"record {numbers[0]} of {printable(self.paths[files[0]])}"

    def list_contents(self) -> list[bytes]:
        """Return a line about each file: its name, its number of records and their size."""
        counts = np.diff(self.first_indices)
        return [
            f"{os.path.basename(path)}: {count} records in {size} bytes".encode()
            for path, count, size in zip(self.paths, counts, self.sizes, strict=True)
        ]

    def list_files(self) -> list[bytes]:
        """Return the paths of the files, encoded."""
        return [os.fsencode(path) for path in self.paths]

    def of_files(self, files: Sequence[int] | None = None, held_out: bool | None = None) -> Blocks:
        """Return the indices of the records of some files, in ascending order.

        Args:
            files: Positions of the files in `paths`, ascending; None for all files.
            held_out: True for the fifth of the records that is held out for testing, False for the
                others, None for all of them.

        Returns:
            The indices, which are computed when they are used.
        """
        chosen = np.arange(len(self.paths)) if files is None else np.asarray(files, np.int64)

        def select(block: int) -> np.ndarray:
            return self._held_out(int(chosen[block])) == held_out

        return Blocks(
            starts=self.first_indices[chosen],
            counts=np.diff(self.first_indices)[chosen],
            select=None if held_out is None else select,
        )

    def _held_out(self, file: int) -> np.ndarray:
        """Choose a fifth of the records of a file at random, to be held out for testing.

        Whether a record is held out depends only on the base name of its file and on its number in
        this file, so additional files, or records appended to a file, do not move other records.

        Returns:
            bool `[records of the file]`, True for a record that is held out.
        """
        key = zlib.crc32(os.path.basename(self.paths[file]).encode())
        count = self.first_indices[file + 1] - self.first_indices[file]
        return np.random.Philox(key=[key, 0]).random_raw(int(count)) % 5 == 0


def read_in_python(read: Callable[[int], bytes]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function of tensors that calls a function in Python; see `Records.reader`.

    Args:
        read: Function from an index to the payload. It may raise a `ValueError` or an `OSError`.
    """

    # A tf.function, so that errors are TensorFlow's in eager execution too.
    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)], autograph=False)
    def payload(index: tf.Tensor) -> tf.Tensor:
        contents = tf.numpy_function(
            lambda index: read(int(index)), [index], tf.string, stateful=False
        )
        return tf.ensure_shape(contents, [])

    return lambda index: payload(tf.cast(index, tf.int64))


def read_range(path: str, offset: int, size: int) -> bytes:
    """Return a part of a file, local or one that `tf.io.gfile` supports.

    Raises:
        OSError: If the file cannot be read, or ends before.
        tf.errors.OpError: The same, on a file system of TensorFlow.
    """
    with open_binary(path) as file:
        file.seek(offset)
        contents = file.read(size)
    if len(contents) < size:
        raise OSError(f"{path} ends within a record")
    return contents


def open_binary(path: str) -> BinaryIO:
    """Open a file, local or one that `tf.io.gfile` supports, for reads of small parts."""
    # GFile reads half a megabyte wherever it seeks; an unbuffered file is 12 times as fast.
    return tf.io.gfile.GFile(path, "rb") if "://" in path else open(path, "rb", buffering=0)
