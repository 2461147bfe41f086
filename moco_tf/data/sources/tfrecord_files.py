"""TFRecord files: the offset of every record, and its payload by index.

A record consists of the length of its payload (8 bytes, little-endian), a checksum of the length
(4 bytes), the payload, and a checksum of the payload (4 bytes).
"""

import array
import concurrent.futures
import struct
from collections.abc import Callable, Sequence

import google_crc32c
import numpy as np
import tensorflow as tf

from moco_tf.data.sources.index_cache import cached
from moco_tf.data.sources.records import SCAN_THREADS, Records, open_binary
from moco_tf.errors import UserError

HEADER = struct.Struct("<QI")  # The length of the payload, and the checksum of the length.
FRAME_BYTES = 16  # Bytes around a payload.
BUFFER_BYTES = 8 << 20  # For reading all records in order.


def scan(paths: Sequence[str]) -> Records:
    """Find the records of TFRecord files. Only their headers are read, not their payloads.

    The offsets are kept in an index, so that this happens once for a file; see `index_cache`. They
    take 8 bytes of memory for each record.

    Args:
        paths: Paths of the files.

    Returns:
        The records, in the order of the files.

    Raises:
        UserError: If a file cannot be read, is compressed, is not a TFRecord file, or is damaged or
            incomplete.
    """
    return records_at(paths, offsets_of(paths))


def offsets_of(paths: Sequence[str]) -> list[np.ndarray]:
    """Return the offsets of the records of TFRecord files, as `records_at` takes them.

    Raises:
        UserError: As `scan`.
    """
    with concurrent.futures.ThreadPoolExecutor(SCAN_THREADS) as pool:
        return list(pool.map(lambda path: cached(path, "tfrecord", _index)["offsets"], paths))


def records_at(paths: Sequence[str], offsets: Sequence[np.ndarray]) -> Records:
    """Return the records of TFRecord files whose offsets are known.

    Args:
        paths: Paths of the files.
        offsets: For each file, the offsets of its records, then the offset at which its last record
            ends, int64 `[n + 1]`. They are not copied.

    Returns:
        The records, in the order of the files.
    """
    counts = [len(file_offsets) - 1 for file_offsets in offsets]
    first_indices = np.cumsum([0, *counts], dtype=np.int64)
    read = _reader(paths, first_indices, offsets)
    return Records(
        paths=list(paths),
        first_indices=first_indices,
        sizes=[int(file_offsets[-1]) for file_offsets in offsets],
        reader=lambda: read,
        in_order=lambda: tf.data.TFRecordDataset(list(paths), buffer_size=BUFFER_BYTES),
    )


def _reader(
    paths: Sequence[str], first_indices: np.ndarray, offsets: Sequence[np.ndarray]
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function from the index of a record to its payload; see `records_at`."""

    def locate(index: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
        file = int(np.searchsorted(first_indices, index, side="right")) - 1
        number = index - first_indices[file]
        return paths[file], offsets[file][number], offsets[file][number + 1]

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)], autograph=False)
    def read(index: tf.Tensor) -> tf.Tensor:
        # The offsets stay in Python, because tf.data makes several copies of captured tensors.
        location = tf.numpy_function(
            locate, [index], [tf.string, tf.int64, tf.int64], stateful=False
        )
        path, begin, end = (tf.ensure_shape(value, []) for value in location)
        # The operation behind tf.data.TFRecordDataset, which does not accept offsets itself.
        record = tf.raw_ops.TFRecordDatasetV2(
            filenames=path[tf.newaxis],
            compression_type="",
            buffer_size=end - begin,  # A single read of nothing but this record.
            byte_offsets=begin[tf.newaxis],
        )
        spec = tf.TensorSpec([], tf.string)
        dataset = tf.data.experimental.from_variant(record, spec)
        return dataset.take(1).get_single_element()

    return lambda index: read(tf.cast(index, tf.int64))


def _index(path: str) -> dict[str, np.ndarray]:
    """Return the offsets of the records of a file, and the end of the last one, int64."""
    offsets = array.array("q")
    end = 0
    try:
        size = tf.io.gfile.stat(path).length
        with open_binary(path) as file:
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
    return {"offsets": np.array(offsets, np.int64)}


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
