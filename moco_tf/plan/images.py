"""What the images of a source are, from a sample of them: sizes, colors and near-duplicates.

Near-duplicates are found by the difference hash (N. Krawetz, "Kind of Like That", 2013): 64 bits
that say whether a pixel of a gray thumbnail of 9x8 pixels is brighter than its left neighbor.
Hashes of unrelated images differ in about half of the bits, and those of near-duplicates in few.
"""

import dataclasses
import os
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf.data import readers, sources
from moco_tf.data.photometric import to_levels
from moco_tf.data.pipeline import first_readable
from moco_tf.data.pixels import BYTES
from moco_tf.data.sources.source import Source
from moco_tf.data.tuning import without_tuning
from moco_tf.plan.facts import MANY_CONSECUTIVE, MAX_DIFFERING_BITS, Images
from moco_tf.progress_bar import progress_bar

MAX_PAIRS = 512  # Number of pairs of consecutive images in the sample.
MAX_PIXELS = 2_000_000_000  # The sample ends at so many pixels, which take some seconds.
# The distances of frames that are compared to find how many of a video are near-duplicates, and
# the number of pairs for each.
STRIDES = (2, 4, 8, 16, 32, 64, 128, 256)
STRIDE_PAIRS = 64
MAX_NAMES = 3
MAX_FILES = 64  # Number of files in the sample whose EXIF orientation is read.
THUMBNAIL = (8, 9)
GRAY_LEVELS = 2.0  # Largest difference between the channels of a gray thumbnail, of 0 to 255.


class _Look(NamedTuple):
    """What is kept of an image.

    Attributes:
        height: Its height in pixels.
        width: Its width in pixels.
        is_gray: Whether its thumbnail is gray.
        bits: Its difference hash, bool `[64]`.
        checksum: Checksum of its thumbnail, the same for identical images.
    """

    height: int
    width: int
    is_gray: bool
    bits: np.ndarray
    checksum: int

    @property
    def side(self) -> int:
        """The shorter side in pixels."""
        return min(self.height, self.width)


def look(source: Source, seed: int = 0) -> Images:
    """Look at a sample of the images for pre-training.

    Args:
        source: The data source. About a thousand of its images are read, and fewer large ones.
        seed: Seed of the sample. The same seed gives the same sample.

    Raises:
        UserError: If none of the images can be read.
    """
    count = len(source.pretrain)
    pairs = max(count - 1, 1)
    drawn = np.random.default_rng(seed).choice(pairs, min(pairs, MAX_PAIRS), replace=False)
    first = drawn.tolist()
    looks, missing = _read(source, (p for start in first for p in (start, start + 1)))
    sampled = len(looks) + len(missing)
    if not looks:
        position = int(np.searchsorted(source.pretrain, first_readable(source)))
        looks, _ = _read(source, [position])
    sides = sorted(seen.side for seen in looks.values())
    smallest = min(looks.values(), key=lambda seen: seen.side)
    largest = max(looks.values(), key=lambda seen: seen.height * seen.width)
    random, copies = _shares_of_distant_pairs(looks, count // 10)
    images = Images(
        number=count,
        channels=source.channels,
        sampled=sampled,
        unreadable=len(missing),
        side=sides[len(sides) // 2],
        smallest=(smallest.height, smallest.width),
        largest=(largest.height, largest.width),
        sides=tuple(sides),
        is_gray=all(seen.is_gray for seen in looks.values()),
        consecutive=_share_at(looks, looks, 1),
        random=random,
        copies=copies,
        stride=1,
        pixels=source.dtype,
        value_range=source.value_range,
        unreadable_names=tuple(
            source.describe(int(source.pretrain[position])) for position in missing[:MAX_NAMES]
        ),
        turned=_share_turned(source, list(looks)[:MAX_FILES]),
    )
    if not images.is_video:
        return images
    return dataclasses.replace(images, stride=_stride(source, looks))


def _read(source: Source, positions: Iterable[int]) -> tuple[dict[int, _Look], list[int]]:
    """Read images until there are `MAX_PIXELS`, in parallel.

    Returns:
        What is kept of each image, by its position among those for pre-training; and the positions
        of the images that cannot be read.
    """
    order = [p for p in dict.fromkeys(positions) if p < len(source.pretrain)]
    looks: dict[int, _Look] = {}
    indices = source.pretrain[np.array(order, np.int64)]
    data = without_tuning(
        tf.data.Dataset.from_tensor_slices((np.array(order, np.int64), indices))
        .map(
            lambda position, index: (
                position,
                *_thumbnail(source.read(index), source.value_range),
            ),
            num_parallel_calls=os.cpu_count(),
            deterministic=True,
        )
        .ignore_errors(log_warning=False)
        .prefetch(1)
    )
    pixels, reached = 0, len(order)
    with progress_bar(len(order), "looking at images", "image", brief=True) as bar:
        for position, height, width, thumbnail in data.as_numpy_iterator():
            looks[int(position)] = _Look(int(height), int(width), *_describe(thumbnail))
            bar.update()
            pixels += int(height) * int(width)
            if pixels >= MAX_PIXELS:
                reached = order.index(int(position))
                break
    return looks, [position for position in order[:reached] if position not in looks]


def _share_turned(source: Source, positions: list[int]) -> float:
    """Return the share of files with an EXIF orientation that the source could apply, and does not.

    Args:
        source: The data source.
        positions: Positions of readable images among those for pre-training.
    """
    is_applied = source.turns or not sources.applies("orientation", source.name)
    if source.read_file is None or is_applied:
        return 0.0
    indices = source.pretrain[np.array(positions, np.int64)]
    files = tf.data.Dataset.from_tensor_slices(indices).map(source.read_file)
    turned = [readers.orientation(contents) != 1 for contents in files.as_numpy_iterator()]
    return float(np.mean(turned))


def _thumbnail(
    image: tf.Tensor, value_range: tuple[float, float] = BYTES
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the height and the width of an image, and a thumbnail, float32 `[8, 9, C]`."""
    shape = tf.shape(image)
    # Every second or further pixel of a large image, because the average of all takes time.
    step = tf.maximum(tf.minimum(shape[0], shape[1]) // 256, 1)
    smaller = tf.ensure_shape(image[::step, ::step], [None, None, image.shape[-1]])
    smaller = to_levels(smaller, value_range)
    return shape[0], shape[1], tf.image.resize(smaller, THUMBNAIL, antialias=True)


def _describe(thumbnail: np.ndarray) -> tuple[bool, np.ndarray, int]:
    """Return whether a thumbnail is gray, its difference hash, and its checksum."""
    is_gray = float(np.ptp(thumbnail, axis=-1).max()) <= GRAY_LEVELS
    gray = thumbnail.mean(axis=-1)
    bits = (gray[:, 1:] > gray[:, :-1]).reshape(-1)
    return is_gray, bits, zlib.crc32(thumbnail.tobytes())


def _stride(source: Source, looks: dict[int, _Look]) -> int:
    """Return after how many frames of a video few are near-duplicates of each other."""
    starts = list(looks)[:: max(len(looks) // STRIDE_PAIRS, 1)][:STRIDE_PAIRS]
    others, _ = _read(source, (start + stride for stride in STRIDES for start in starts))
    first = {start: looks[start] for start in starts}
    for stride in STRIDES:
        if _share_at(first, others, stride) < MANY_CONSECUTIVE:
            return stride
    return STRIDES[-1]


def _share_at(first: dict[int, _Look], second: dict[int, _Look], distance: int) -> float:
    """Return the share of near-duplicates among the images at a distance, 0 without any."""
    differing = [
        int((first[p].bits != second[p + distance].bits).sum())
        for p in first
        if p + distance in second
    ]
    return float(np.mean(np.array(differing) <= MAX_DIFFERING_BITS)) if differing else 0.0


def _shares_of_distant_pairs(looks: dict[int, _Look], distance: int) -> tuple[float, float]:
    """Return the shares of near-duplicates and of copies among pairs at more than a distance."""
    positions = np.array(list(looks))
    signs = np.array([seen.bits for seen in looks.values()]) * 2.0 - 1.0
    differing = (signs.shape[1] - signs @ signs.T) / 2
    is_distant = positions[None] - positions[:, None] > max(distance, 1)
    if not is_distant.any():
        return 0.0, 0.0
    checksums = np.array([seen.checksum for seen in looks.values()])
    is_copy = checksums[None] == checksums[:, None]
    near = np.mean(differing[is_distant] <= MAX_DIFFERING_BITS)
    return float(near), float(np.mean(is_copy[is_distant]))
