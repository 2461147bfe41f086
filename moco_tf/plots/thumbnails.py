"""Thumbnails of a source's images, for the report and TensorBoard's projector."""

import math

import numpy as np
import tensorflow as tf

from moco_tf.data.evaluation_views import central_views
from moco_tf.data.photometric import to_levels
from moco_tf.data.sources.source import Source
from moco_tf.plots.visible import visible

BATCH_SIZE = 64


def thumbnails(
    source: Source, indices: np.ndarray, image_size: int, largest: int = 64
) -> np.ndarray:
    """Return the central views that features are computed on, as thumbnails.

    Args:
        source: The source of the images.
        indices: int64 `[N]`, images of the source. The thumbnail of an unreadable image is black.
        image_size: Side of the views in pixels.
        largest: Side of the thumbnails of views larger than 32 pixels; a multiple of 16.

    Returns:
        uint8 `[N, side, side, 3]`, with a side of 32 pixels for views of up to 32 pixels, and of
        `largest` for larger ones. `moco_tf.plots.images.visible` selects the channels.
    """
    # The sides are multiples of 16, the size of a JPEG block, so that the tiles of a sheet do not
    # bleed into each other.
    side = 32 if image_size <= 32 else largest
    tiles = [np.zeros([0, side, side, 3], np.uint8)]
    for _, views in central_views(source, indices, image_size, BATCH_SIZE):
        levels = to_levels(views, source.value_range)
        resized = tf.image.resize(levels, [side, side], antialias=True)
        tiles.append(np.clip(np.round(visible(resized.numpy())), 0, 255).astype(np.uint8))
    return np.concatenate(tiles)[: len(indices)]


def sheet(tiles: np.ndarray) -> np.ndarray:
    """Arrange tiles in one image, row by row from the left.

    Args:
        tiles: uint8 `[N, side, side, 3]`, N > 0.

    Returns:
        uint8 `[rows * side, columns * side, 3]`, with the number of columns that `columns` returns.

    Example:
        >>> sheet(np.zeros([5, 16, 16, 3], np.uint8)).shape
        (32, 48, 3)
    """
    num_columns, side = columns(len(tiles)), tiles.shape[1]
    num_rows = math.ceil(len(tiles) / num_columns)
    padded = np.zeros([num_rows * num_columns, *tiles.shape[1:]], np.uint8)
    padded[: len(tiles)] = tiles
    grid = padded.reshape(num_rows, num_columns, side, side, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(num_rows * side, num_columns * side, 3)


def columns(count: int) -> int:
    """Return the number of columns of a sheet of `count` tiles, which makes it nearly square."""
    return math.ceil(math.sqrt(count))


def jpeg(image: np.ndarray) -> bytes:
    """Encode an image, uint8 `[H, W, 3]`, as a JPEG file."""
    return tf.io.encode_jpeg(image, quality=90).numpy()
