"""Random access to TFRecord files: the location of every record, and its payload by index.

A record consists of the length of its payload (8 bytes, little-endian), a checksum of the length
(4 bytes), the payload, and a checksum of the payload (4 bytes).
"""

import array
import concurrent.futures
import dataclasses
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import BinaryIO

import google_crc32c
import numpy as np
import tensorflow as tf

from moco_tf.data.sources.indices import Blocks
from moco_tf.errors import UserError
from moco_tf.names import printable

HEADER = struct.Struct("<QI")  # The length of the payload, and the checksum of the length.
FRAME_BYTES = 16  # Bytes around a payload.
# Number of files that are scanned at the same time. A scan waits for the disk or the network.
SCAN_THREADS = 16


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of several files, numbered consecutively; 8 bytes of memory for each record.

    Attributes:
        paths: Paths of the files.
        first_indices: int64 `[len(paths) + 1]`, the index of the first record of each file, then
            the number of all records.
        offsets: int64 `[N + len(paths)]`, for each file the byte offsets of its records, then the
            offset at which its last record ends.
    """

    paths: list[str]
    first_indices: np.ndarray
    offsets: np.ndarray

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
        last_offsets = self.offsets[self.first_indices[1:] + np.arange(len(self.paths))]
        counts = np.diff(self.first_indices)
        return [
            f"{os.path.basename(path)}: {count} records in {size} bytes".encode()
            for path, count, size in zip(self.paths, counts, last_offsets, strict=True)
        ]

    def reader(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """Return a function from an index, an int64 scalar, to the payload, a string scalar.

        The function works inside tf.data functions. A payload that does not match its checksum
        raises a `tf.errors.DataLossError` there.
        """
        # Eager tensors are captured; arrays would be copied into every graph.
        paths = tf.constant(self.paths)
        first_indices = tf.constant(self.first_indices)
        offsets = tf.constant(self.offsets)

        def read(index: tf.Tensor) -> tf.Tensor:
            file = tf.searchsorted(first_indices, [index], side="right") - 1
            # Every earlier file has one offset more than it has records.
            position = index + tf.cast(file, tf.int64)
            begin, end = offsets[position[0]], offsets[position[0] + 1]
            # The operation behind tf.data.TFRecordDataset, which does not accept offsets itself.
            record = tf.raw_ops.TFRecordDatasetV2(
                filenames=tf.gather(paths, file),
                compression_type="",
                buffer_size=end - begin,  # A single read of nothing but this record.
                byte_offsets=begin[tf.newaxis],
            )
            spec = tf.TensorSpec([], tf.string)
            dataset = tf.data.experimental.from_variant(record, spec)
            return dataset.take(1).get_single_element()

        return read

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


def scan(paths: Sequence[str]) -> Records:
    """Find the records of TFRecord files. Only their headers are read, not their payloads.

    Args:
        paths: Paths of the files.

    Returns:
        The records, in the order of the files.

    Raises:
        UserError: If a file cannot be read, is compressed, is not a TFRecord file, or is damaged or
            incomplete.
    """
    with concurrent.futures.ThreadPoolExecutor(SCAN_THREADS) as pool:
        offsets = list(pool.map(_offsets, paths))
    counts = [len(file_offsets) - 1 for file_offsets in offsets]
    return Records(
        paths=list(paths),
        first_indices=np.cumsum([0, *counts], dtype=np.int64),
        offsets=np.concatenate(offsets),
    )


def _offsets(path: str) -> np.ndarray:
    """Return the offsets of the records of a file, and the end of the last one, int64."""
    offsets = array.array("q")
    end = 0
    try:
        size = tf.io.gfile.stat(path).length
        with _open(path) as file:
            while end < size:
                file.seek(end)
                header = file.read(HEADER.size)
                if len(header) < HEADER.size:
                    raise _truncated(path, len(offsets))
                length, checksum = HEADER.unpack(header)
                if _masked_crc(header[:8]) != checksum:
                    raise _invalid_header(path, len(offsets), header)
                offsets.append(end)
                end += FRAME_BYTES + length
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if end > size:
        raise _truncated(path, len(offsets) - 1)
    offsets.append(end)
    return np.array(offsets, np.int64)


def _open(path: str) -> BinaryIO:
    # GFile reads half a megabyte wherever it seeks; an unbuffered file is 12 times as fast.
    return tf.io.gfile.GFile(path, "rb") if "://" in path else open(path, "rb", buffering=0)


def _masked_crc(contents: bytes) -> int:
    """Return the checksum of TFRecord files: CRC-32C, rotated and shifted by a constant."""
    crc = google_crc32c.value(contents)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _truncated(path: str, number: int) -> UserError:
    return UserError(f"{path} is truncated in record {number}: copy the file again")


def _invalid_header(path: str, number: int, header: bytes) -> UserError:
    """Return the error for a record whose header does not match its checksum."""
    if number:
        return UserError(
            f"{path} is damaged: record {number} has no valid header; copy the file again"
        )
    is_gzip = header[:2] == b"\x1f\x8b"
    is_zlib = header[0] == 0x78 and header[1] in (0x01, 0x5E, 0x9C, 0xDA)
    if is_gzip or is_zlib:
        return UserError(
            f"{path} is compressed, which prevents random access: write it without compression"
        )
    return UserError(
        f"{path} is not a TFRecord file: it begins with {header.hex()}; use a pattern that matches "
        "TFRecord files only"
    )
