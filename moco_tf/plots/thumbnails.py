"""Small pictures of a source's images, as the report and TensorBoard's projector show them."""

import math

import numpy as np
import tensorflow as tf

from moco_tf.data.pipeline import central_views
from moco_tf.plots.images import visible

BATCH_SIZE = 64


def thumbnails(source, indices, image_size, largest=64):
    """The central views that features are computed on, as small pictures.

    Args:
        source: a `moco_tf.data.source.Source`.
        indices: int64 `[N]`, of images that can be read; another one's picture is black.
        image_size: int, side of the views in pixels.
        largest: int, side of the pictures of views of more than 32 pixels; a multiple of 16.

    Returns:
        uint8 `[N, side, side, 3]`, with a side of 32 pixels for views of up to 32 pixels and of
        `largest` for others; `moco_tf.pictures.visible` says what is shown of other channels than
        RGB.
    """
    # Multiples of 16, the blocks of a JPEG file: no tile of a sheet shines through to the next.
    side = 32 if image_size <= 32 else largest
    pictures = []
    for _, views in central_views(source, indices, image_size, BATCH_SIZE):
        small = tf.image.resize(views, [side, side], antialias=True)
        pictures.append(np.clip(np.round(visible(small.numpy())), 0, 255).astype(np.uint8))
    return np.concatenate(pictures)[: len(indices)]


def sheet(tiles):
    """The tiles of one large picture, row by row from the left.

    Args:
        tiles: uint8 `[N, side, side, 3]`, N > 0.

    Returns:
        uint8 `[rows * side, columns * side, 3]`, with as many columns as `columns` says.
    """
    across, side = columns(len(tiles)), tiles.shape[1]
    rows = math.ceil(len(tiles) / across)
    full = np.zeros([rows * across, *tiles.shape[1:]], np.uint8)
    full[: len(tiles)] = tiles
    grid = full.reshape(rows, across, side, side, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * side, across * side, 3)


def columns(count):
    """The columns of a sheet of `count` tiles, which make it a square or nearly one, int."""
    return math.ceil(math.sqrt(count))


def jpeg(picture):
    """A picture, uint8 `[H, W, 3]`, as the bytes of a JPEG file."""
    return tf.io.encode_jpeg(picture, quality=90).numpy()
