"""The images of a source at a bounded size, in order, computed on all cores."""

import concurrent.futures
import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf.data import readers
from moco_tf.data.sources.source import Source
from moco_tf.data.tuning import without_autograph, without_tuning
from moco_tf.files import error_reason
from moco_tf.machine import usable_cores
from moco_tf.preparation.images import PreparedImage, prepare_file, prepare_pixels

TURNED = range(2, 9)  # The EXIF orientations of images that are not upright.
AHEAD = 4  # Images that wait for each core.


@dataclasses.dataclass(frozen=True)
class Result:
    """An image, or why it cannot be read.

    Attributes:
        index: Index of the image in the source.
        image: The image; None if it cannot be read.
        reason: Why it cannot be read; "" if it can.
        source_bytes: Size of its file in the source; 0 if it is an array or cannot be read.
    """

    index: int
    image: PreparedImage | None
    reason: str
    source_bytes: int


def results(source: Source, indices: np.ndarray, max_side: int, quality: int) -> Iterator[Result]:
    """Yield the result of each image, in order, while the next ones are computed.

    Args:
        source: The source, with RGB images.
        indices: Indices of the images, int64 `[M]`, all different.
        max_side: As in `images.prepare_file`.
        quality: As in `images.prepare_file`.
    """
    read = source.read_file or source.read

    def result(index: int, value: Any) -> Result:
        try:
            if value is None:
                value = read(tf.constant(index, tf.int64)).numpy()  # It raises the reason.
            if source.read_file is None:
                return Result(index, prepare_pixels(value, max_side, quality), "", 0)
            # A file that is upright is copied or shrunk as it is.
            if source.turns and readers.orientation(value) in TURNED:
                pixels = source.read(tf.constant(index, tf.int64)).numpy()
                return Result(index, prepare_pixels(pixels, max_side, quality), "", len(value))
            return Result(index, prepare_file(value, max_side, quality), "", len(value))
        except tf.errors.OpError as error:
            return Result(index, None, error_reason(error), 0)

    cores = usable_cores()
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        waiting: deque[concurrent.futures.Future[Result]] = deque()
        for index, value in _values(read, indices):
            waiting.append(pool.submit(result, index, value))
            if len(waiting) > AHEAD * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _values(
    read: Callable[[tf.Tensor], tf.Tensor], indices: np.ndarray
) -> Iterator[tuple[int, Any]]:
    """Yield each index and what is read there; None if it cannot be read."""
    values = (
        tf.data.Dataset.from_tensor_slices(indices)
        .map(
            without_autograph(lambda index: (index, read(index))),
            num_parallel_calls=usable_cores(),
            deterministic=True,
        )
        .ignore_errors(log_warning=False)
    )
    remaining = iter(indices.tolist())
    for found, value in without_tuning(values).as_numpy_iterator():
        for index in remaining:
            if index == found:
                yield index, value
                break
            yield index, None
    for index in remaining:
        yield index, None
