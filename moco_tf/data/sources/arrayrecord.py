"""The `arrayrecord` source: ArrayRecord files, whose own index gives random access."""

import concurrent.futures
import functools
import os
import resource
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from array_record.python.array_record_module import ArrayRecordReader

from moco_tf.data.decoding import decode
from moco_tf.data.sources import tfrecord
from moco_tf.data.sources.examples import MAX_ATTEMPTS
from moco_tf.data.sources.image_files import START_BYTES, begins_like_image
from moco_tf.data.sources.record_parts import matching_files, split
from moco_tf.data.sources.records import SCAN_THREADS, Records, read_in_python
from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError

RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"


def load(name: str, pattern: str, image_feature: str, label_feature: str) -> Source:
    """Open the records of ArrayRecord files, ordered by the paths of the files.

    The records are `tf.train.Example` messages, which are read as those of the source `tfrecord`,
    or image files, which have no labels. The first readable record decides which. The parts of the
    data set are also found as there.

    Args:
        name: The string that names the source.
        pattern: Path of local files with the wildcards `*`, `?` or `[...]`.
        image_feature: As in `tfrecord.load`.
        label_feature: As in `tfrecord.load`.

    Returns:
        The source.

    Raises:
        UserError: If a file cannot be read or is incomplete, or as `tfrecord.load`.
    """
    if "://" in pattern:
        raise UserError(f"data source '{name}': copy the files to a local disk, to read from it")
    records = scan(matching_files(name, pattern, "ArrayRecord"))
    if not _are_image_files(records):
        return tfrecord.open_records(name, records, image_feature, label_feature)
    read_file = records.reader()
    pretrain, train, test, part_names = split(name, records)
    return Source(
        name=name,
        size=records.size,
        read=lambda index: decode(read_file(index)),
        describe=records.describe,
        pretrain=pretrain,
        train=train,
        test=test,
        no_labels="the records are image files",
        part_names=part_names,
        list_contents=records.list_contents,
        list_files=records.list_files,
        read_file=read_file,
    )


def scan(paths: Sequence[str]) -> Records:
    """Open ArrayRecord files. Their indices take 8 bytes of memory for each record.

    Args:
        paths: Paths of the files.

    Returns:
        The records, in the order of the files.

    Raises:
        UserError: If a file cannot be read, is not an ArrayRecord file, or is incomplete.
    """
    with concurrent.futures.ThreadPoolExecutor(SCAN_THREADS) as pool:
        counts = list(pool.map(_count, paths))
    first_indices = np.cumsum([0, *counts], dtype=np.int64)
    return Records(
        paths=list(paths),
        first_indices=first_indices,
        sizes=[os.path.getsize(path) for path in paths],
        reader=lambda: _reader(paths, first_indices),
    )


def _reader(paths: Sequence[str], first_indices: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function from the index of a record to its payload."""
    # An open reader holds a file descriptor and the index of its file.
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    is_unlimited = limit == resource.RLIM_INFINITY
    open_file = functools.lru_cache(None if is_unlimited else max(limit // 2, 1))(_open)

    def payload(index: int) -> bytes:
        file = int(np.searchsorted(first_indices, index, side="right")) - 1
        try:
            [record] = open_file(paths[file]).read([int(index - first_indices[file])])
        except RuntimeError as error:
            # TensorFlow turns it into a tf.errors.InvalidArgumentError.
            raise ValueError(f"the record cannot be read: {error}") from error
        return record

    return read_in_python(payload)


def _open(path: str) -> ArrayRecordReader:
    """Open a file.

    Raises:
        RuntimeError: If that fails, with the reason.
    """
    reader = ArrayRecordReader(path, RANDOM_ACCESS)
    if not reader.ok():
        reader.close()  # It raises the error with the reason.
    return reader


def _count(path: str) -> int:
    """Return the number of records of a file."""
    try:
        reader = _open(path)
        count = reader.num_records()
        reader.close()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as an ArrayRecord file ({reason}): copy the file again, or use "
            "a pattern that matches ArrayRecord files only"
        ) from error
    return count


def _are_image_files(records: Records) -> bool:
    """Return whether the first readable record is an image file."""
    read = records.reader()
    for index in range(min(records.size, MAX_ATTEMPTS)):
        try:
            payload = read(tf.constant(index, tf.int64)).numpy()
        except tf.errors.OpError:
            continue
        return begins_like_image(payload[:START_BYTES])
    return False
