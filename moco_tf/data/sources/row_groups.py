"""Values of a column of Parquet files by index, with the last row groups kept in memory.

A Parquet file is compressed in row groups, so that a value cannot be read without those around it.
"""

import collections
import contextlib
import io
import os
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

# Row groups are kept until they take more memory than this.
MAX_KEPT_BYTES = 256 << 20


class RowGroups:
    """The values of a column in several Parquet files.

    Args:
        paths: Paths of the files, local or of `tf.io.gfile`.
        metadata: The metadata of each file.
        column: Path of a binary column, such as `"image.bytes"`.
    """

    def __init__(
        self, paths: Sequence[str], metadata: Sequence[pq.FileMetaData], column: str
    ) -> None:
        self._paths, self._metadata, self._column = paths, metadata, column
        counts = [
            [file.row_group(number).num_rows for number in range(file.num_row_groups)]
            for file in metadata
        ]
        # The index of the first row of each group, and the number of the first group of each file.
        self._first_rows = np.cumsum([0, *(c for file in counts for c in file)], dtype=np.int64)
        self._first_groups = np.cumsum([0, *map(len, counts)], dtype=np.int64)
        self._kept: collections.OrderedDict[int, pa.ChunkedArray] = collections.OrderedDict()
        self._lock = threading.Lock()
        # Only one thread reads a group, while others wait for it.
        self._group_locks: dict[int, threading.Lock] = {}

    def note(self) -> str:
        """Return a line about slow reading in random order; "" if all groups are kept in memory."""
        sizes = [
            chunk.total_uncompressed_size
            for file in self._metadata
            for group in map(file.row_group, range(file.num_row_groups))
            for chunk in map(group.column, range(group.num_columns))
            if chunk.path_in_schema == self._column
        ]
        if sum(sizes) <= MAX_KEPT_BYTES:
            return ""
        return (
            f"warning: to read an image, {sum(sizes) / len(sizes) / 1e6:.3g} MB are read, its row "
            "group: moco_tf.prepare writes files from which images are read alone"
        )

    def value(self, index: int) -> bytes:
        """Return the value of a row.

        Raises:
            ValueError: If the row cannot be read, or its value is null.
        """
        group = int(np.searchsorted(self._first_rows, index, side="right")) - 1
        value = self._group(group)[index - int(self._first_rows[group])].as_py()
        # The values of a column of structs come as structs.
        value = value.get("bytes") if isinstance(value, dict) else value
        if value is None:
            raise ValueError("the row has no image")
        return value

    def _group(self, group: int) -> pa.ChunkedArray:
        with self._lock:
            if group in self._kept:
                self._kept.move_to_end(group)
                return self._kept[group]
            group_lock = self._group_locks.setdefault(group, threading.Lock())
        with group_lock:
            with self._lock:
                if group in self._kept:
                    return self._kept[group]
            values = self._read(group)
            with self._lock:
                self._kept[group] = values
                self._group_locks.pop(group, None)
                while len(self._kept) > 1 and (
                    sum(kept.nbytes for kept in self._kept.values()) > MAX_KEPT_BYTES
                ):
                    self._kept.popitem(last=False)
        return values

    def _read(self, group: int) -> pa.ChunkedArray:
        number = int(np.searchsorted(self._first_groups, group, side="right")) - 1
        try:
            with open_file(self._paths[number], self._metadata[number]) as file:
                table = file.read_row_group(
                    group - int(self._first_groups[number]), [self._column], use_threads=False
                )
        except (pa.ArrowException, OSError, tf.errors.OpError) as error:
            # TensorFlow turns it into a tf.errors.InvalidArgumentError.
            raise ValueError(f"the row group cannot be read: {error}") from error
        return table.column(0)


class _RemoteFile(io.RawIOBase):
    """A file of `tf.io.gfile` with the methods that pyarrow calls."""

    def __init__(self, path: str) -> None:
        self._file = tf.io.gfile.GFile(path, "rb")
        self._size = self._file.size()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        self._file.seek(start + offset)
        return start + offset

    def close(self) -> None:
        self._file.close()
        super().close()


@contextlib.contextmanager
def open_file(
    path: str, metadata: pq.FileMetaData | None = None, as_dictionary: Sequence[str] = ()
) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, local or of `tf.io.gfile`.

    Args:
        path: Path of the file.
        metadata: Its metadata, if they have been read before.
        as_dictionary: Columns of texts to read as distinct texts and indices into them.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_RemoteFile(path)) if "://" in path else path
        options = {"metadata": metadata, "read_dictionary": list(as_dictionary)}
        options["page_checksum_verification"] = True
        yield stack.enter_context(pq.ParquetFile(file, **options))
