"""TFRecord files read in any order: where each record lies, and its bytes by its index.

A record is the length of its payload (8 bytes, little-endian), a checksum of the length (4 bytes),
the payload, and a checksum of the payload (4 bytes).
"""

import array
import concurrent.futures
import dataclasses
import os
import zlib

import numpy as np
import tensorflow as tf

from moco_tf.errors import UserError

HEADER, FRAME = 12, 16  # bytes before the payload; around it
SCANNED_AT_ONCE = 16  # files; the scan waits for the disk or the network, not for the processor


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of some files, one after the other; 8 bytes of memory a record.

    Attributes:
        paths: list of the files.
        firsts: int64 `[len(paths) + 1]`, the index of each file's first record; then their number.
        bounds: int64 `[N + len(paths)]`, of each file the bytes at which its records begin and the
            one at which its last record ends.
    """

    paths: list
    firsts: np.ndarray
    bounds: np.ndarray

    @property
    def size(self):
        """How many records there are, int."""
        return int(self.firsts[-1])

    def place(self, index):
        """Which file, and which record of it, from 0: int64 of the shape of `index`."""
        file = np.searchsorted(self.firsts, index, side="right") - 1
        return file, index - self.firsts[file]

    def describe(self, index):
        """The words that name a record to a person."""
        file, number = self.place(index)
        return f"record {number} of {self.paths[file]}"

    def reader(self):
        """A function from an index, int64 scalar tensor, to the record's payload, a string scalar.

        It works inside tf.data functions. A payload that does not agree with its checksum is an
        error there.
        """
        # Eager tensors: captured, not copied into every graph.
        paths, firsts, bounds = (tf.constant(a) for a in (self.paths, self.firsts, self.bounds))

        def read(index):
            file = tf.searchsorted(firsts, [index], side="right") - 1
            # One bound more than records in every file before.
            position = index + tf.cast(file, tf.int64)
            begin, end = bounds[position[0]], bounds[position[0] + 1]
            # The op behind tf.data.TFRecordDataset; the class itself has no way to give an offset.
            record = tf.raw_ops.TFRecordDatasetV2(
                filenames=tf.gather(paths, file),
                compression_type="",
                buffer_size=end - begin,  # one read, and none of what follows
                byte_offsets=begin[tf.newaxis],
            )
            spec = tf.TensorSpec([], tf.string)
            dataset = tf.data.experimental.from_variant(record, spec)
            return dataset.take(1).get_single_element()

        return read

    def held_out(self):
        """A fifth of the records, bool `[N]`, by a checksum of the file's name and the record's
        number in it, so that a new file does not move the records of others."""
        names = [zlib.crc32(os.path.basename(path).encode()) for path in self.paths]
        file, number = self.place(np.arange(self.size))
        key = (np.array(names, np.uint64)[file] << np.uint64(32)) ^ number.astype(np.uint64)
        # The finaliser of SplitMix64: neighbouring numbers come out unrelated.
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            key = (key ^ (key >> np.uint64(shift))) * np.uint64(factor)
        return (key ^ (key >> np.uint64(31))) % np.uint64(5) == 0


def scan(paths):
    """Finds the records of TFRecord files by their headers alone; payloads are passed over.

    Args:
        paths: list of str.

    Returns:
        `Records`, in the order of the files.

    Raises:
        UserError: a file that cannot be read, is compressed, is no TFRecord file, or is not whole.
    """
    with concurrent.futures.ThreadPoolExecutor(SCANNED_AT_ONCE) as pool:
        bounds = list(pool.map(_bounds, paths))
    counts = [len(of_file) - 1 for of_file in bounds]
    return Records(list(paths), np.cumsum([0, *counts], dtype=np.int64), np.concatenate(bounds))


def _bounds(path):
    """The bytes at which the records of a file begin, and that at which the last one ends."""
    begins, headers, end = array.array("q"), bytearray(), 0
    try:
        size = tf.io.gfile.stat(path).length
        with _open(path) as file:
            while end < size:
                begins.append(end)
                file.seek(end)
                headers += (header := file.read(HEADER))
                end += FRAME + int.from_bytes(header[:8], "little")
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    whole = np.frombuffer(headers[: len(headers) // HEADER * HEADER], np.uint8)
    whole = whole.reshape(-1, HEADER)
    right = _checksum(whole[:, :8]) == whole[:, 8:].copy().view("<u4")[:, 0]
    if not right.all():
        raise UserError(_what_it_is(path, int(np.argmin(right)), bytes(headers[:HEADER])))
    if end > size:
        raise UserError(f"{path} is cut short, within record {len(begins) - 1}: copy it again")
    return np.append(np.array(begins, np.int64), end)


def _open(path):
    # GFile reads half a megabyte wherever it seeks; no buffer is 12 times as fast.
    return tf.io.gfile.GFile(path, "rb") if "://" in path else open(path, "rb", buffering=0)


def _what_it_is(path, number, start):
    if number:
        return f"{path} is damaged: record {number} has no valid header; copy the file again"
    if start[:2] == b"\x1f\x8b" or (start[0] == 0x78 and start[1] in (0x01, 0x5E, 0x9C, 0xDA)):
        return f"{path} is compressed, and its records are read in any order: write it without"
    return f"{path} is not a TFRecord file: it begins with {start.hex()}"


def _checksum_table():
    """Of CRC-32C (Castagnoli), byte by byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    return table


_TABLE = _checksum_table()


def _checksum(lengths):
    """The masked CRC-32C that a file has of each length: of uint8 `[N, 8]` uint32 `[N]`."""
    crc = np.full(len(lengths), 0xFFFFFFFF, np.uint32)
    for column in lengths.T:
        crc = _TABLE[(crc ^ column) & 0xFF] ^ (crc >> np.uint32(8))
    crc = ~crc
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)
