"""The geometric half of the augmentation, which runs on the host: crop, resize, flip and turn.

The random views of training are made with NumPy and OpenCV, in a fifth of the time that
TensorFlow's resize takes. The central view of evaluation, where accuracy matters, is resized by
TensorFlow, whose result differs from Pillow's by at most one gray level.
"""

import functools
import math

import cv2
import numpy as np
import tensorflow as tf

from moco_tf.data.recipes import Recipe
from moco_tf.seeds import key_for

ATTEMPTS = 10
ASPECT_RATIOS = Recipe.aspect_ratio
FLIP_PROBABILITY = Recipe.horizontal_flip
# Random numbers for one view: area, ratio, top and left of each attempt, and the horizontal flip.
DRAWS = 4 * ATTEMPTS + 1
# More of them for recipes that change the orientation: the vertical flip, whether to turn the view,
# and by how much.
ORIENTATION_DRAWS = 3

# tf.data already works on one image per core.
cv2.setNumThreads(1)


def view_draws(seed: int, epoch: int, index: int, changes_orientation: bool = False) -> np.ndarray:
    """Return the random numbers of the two views of an image in an epoch.

    Args:
        seed: Seed of the run.
        epoch: Number of the epoch.
        index: Index of the image.
        changes_orientation: Whether the recipe has vertical flips or quarter turns. The numbers for
            these follow the other ones, which they do not change.

    Returns:
        float64, uniform in [0, 1): `[2, DRAWS]`, or `[2, DRAWS + ORIENTATION_DRAWS]`.
    """
    draws = _uniform("views", seed, epoch, index, DRAWS)
    if not changes_orientation:
        return draws
    orientation = _uniform("orientations", seed, epoch, index, ORIENTATION_DRAWS)
    return np.concatenate([draws, orientation], axis=1)


def _uniform(purpose: str, seed: int, epoch: int, index: int, count: int) -> np.ndarray:
    """Return random numbers of the two views of an image, float64 `[2, count]` in [0, 1)."""
    generator = np.random.Philox(key=key_for(purpose, seed, epoch), counter=[0, 0, 0, index])
    # NumPy guarantees that the bits of a generator never change, but not the floats that it
    # computes from them.
    return (generator.random_raw(2 * count) >> 11).reshape(2, count) * 2.0**-53


def random_view(image: np.ndarray, size: int, recipe: Recipe, draws: np.ndarray) -> np.ndarray:
    """Return a random resized crop, which may be flipped and turned.

    Args:
        image: `[H, W, C]`, uint8, uint16 or float32.
        size: Side of the view in pixels.
        recipe: The recipe, for its geometric half.
        draws: Random numbers of the view, a row of `view_draws`.

    Returns:
        `[size, size, C]` of the same type.

    Example:
        >>> image = np.zeros([48, 64, 3], np.uint8)
        >>> query_draws, key_draws = view_draws(seed=0, epoch=0, index=0)
        >>> random_view(image, 32, Recipe(crop_scale=(0.5, 1.0)), query_draws).shape
        (32, 32, 3)
    """
    top, left, height, width = crop_window(
        image.shape[:2], recipe.crop_scale, draws[: 4 * ATTEMPTS], recipe.aspect_ratio
    )
    view = resample(image[top : top + height, left : left + width], size)
    flips_horizontally, flips_vertically, quarters = orientation(recipe, draws)
    if flips_horizontally:
        view = cv2.flip(view, 1)
    if flips_vertically:
        view = cv2.flip(view, 0)
    if quarters:
        view = np.rot90(view, quarters)
    return view.reshape(size, size, -1)


def orientation(recipe: Recipe, draws: np.ndarray) -> tuple[bool, bool, int]:
    """Return how a view is flipped and then turned.

    Args:
        recipe: The recipe.
        draws: Random numbers of the view, a row of `view_draws`.

    Returns:
        Whether left and right are exchanged, whether top and bottom are exchanged, and the number
        of counterclockwise quarter turns, from 0 to 3.
    """
    flips_horizontally = bool(draws[DRAWS - 1] < recipe.horizontal_flip)
    if not recipe.changes_orientation:
        return flips_horizontally, False, 0
    flip, turn, quarters = draws[DRAWS:]
    flips_vertically = bool(flip < recipe.vertical_flip)
    is_turned = turn < recipe.quarter_turns
    return flips_horizontally, flips_vertically, int(4 * quarters) if is_turned else 0


def describe_orientation(recipe: Recipe, draws: np.ndarray) -> list[str]:
    """Return the flips and the turn of a view, such as `["vertical flip", "turn 90°"]`.

    Args:
        recipe: The recipe.
        draws: Random numbers of the view, a row of `view_draws`.

    Returns:
        One string per operation, in the order in which they are applied. Turns are
        counterclockwise.
    """
    flips_horizontally, flips_vertically, quarters = orientation(recipe, draws)
    return [
        *["horizontal flip"] * flips_horizontally,
        *["vertical flip"] * flips_vertically,
        *[f"turn {90 * quarters}°"] * (quarters > 0),
    ]


def crop_window(
    shape: tuple[int, ...],
    crop_scale: tuple[float, float],
    draws: np.ndarray,
    aspect_ratio: tuple[float, float] = ASPECT_RATIOS,
) -> tuple[int, int, int, int]:
    """Return the window of a random resized crop, as torchvision's algorithm chooses it.

    The algorithm draws an area, uniform within `crop_scale`, and an aspect ratio, log-uniform
    within `aspect_ratio`, up to ten times until the window fits into the image. If none fits, the
    result is the largest central window with an aspect ratio in that range.

    Args:
        shape: Height and width of the image.
        crop_scale: Smallest and largest share of the image's area.
        draws: Random numbers `[4 * ATTEMPTS]`, uniform in [0, 1).
        aspect_ratio: Smallest and largest ratio of width to height.

    Returns:
        Top, left, height and width of the window in pixels.
    """
    height, width = shape
    low, high = crop_scale
    narrow, wide = aspect_ratio
    for area_draw, ratio_draw, top_draw, left_draw in np.reshape(draws, [4, ATTEMPTS]).T.tolist():
        area = height * width * (low + (high - low) * area_draw)
        ratio = narrow * (wide / narrow) ** ratio_draw
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1)), h, w
    ratio = min(max(width / height, narrow), wide)
    h, w = min(height, max(1, round(width / ratio))), min(width, max(1, round(height * ratio)))
    return (height - h) // 2, (width - w) // 2, h, w


def resample(image: np.ndarray, size: int) -> np.ndarray:
    """Resize an image to a square with antialiased bilinear interpolation, approximating Pillow.

    To shrink an image, Pillow weights its pixels by a triangle around each pixel of the result.
    This function smooths the image with the same triangle around whole pixels, and OpenCV
    interpolates between them, which is faster. If a side of the image has more than four pixels per
    pixel of the result, blocks of pixels are averaged first. Enlarged images differ from Pillow's
    by at most one gray level; shrunk photographs differ by about half a level on average.

    Args:
        image: `[H, W, C]`, uint8, uint16 or float32.
        size: Side of the result in pixels.

    Returns:
        `[size, size, C]` of the same type, or `[size, size]` for one channel.
    """
    sides = image.shape[:2]
    blocks = [max(1, side // (2 * size)) for side in sides]
    if blocks != [1, 1]:
        height, width = (round(side / block) for side, block in zip(sides, blocks, strict=True))
        # OpenCV averages at most four channels at a time.
        parts = [
            cv2.resize(
                np.ascontiguousarray(image[..., first : first + 4]),
                (width, height),
                interpolation=cv2.INTER_AREA,
            ).reshape(height, width, -1)
            for first in range(0, image.shape[-1], 4)
        ]
        image = np.concatenate(parts, axis=-1)
    kernels = [
        _smoothing_kernel(before / size, before / after)
        for before, after in zip(sides, image.shape[:2], strict=True)
    ]
    if any(len(kernel) > 1 for kernel in kernels):
        row_kernel, column_kernel = kernels
        image = cv2.sepFilter2D(
            image, -1, column_kernel, row_kernel, borderType=cv2.BORDER_REPLICATE
        )
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


@functools.lru_cache(maxsize=4096)
def _smoothing_kernel(scale: float, block: float) -> np.ndarray:
    """Return the kernel that turns linear interpolation into Pillow's filter.

    Together they have the variance of Pillow's filter.

    Args:
        scale: Pixels of the image per pixel of the result.
        block: Pixels of the image per pixel that is left after averaging.

    Returns:
        float32 `[taps]`, an odd number of them.
    """
    # Variances: s^2/6 for a triangle of half width s, and (b^2 - 1)/12 for the mean of b pixels.
    # Linear interpolation is a triangle of half width b.
    variance = ((scale**2 - block**2) / 6 - (block**2 - 1) / 12) / block**2
    # A triangle of half width h on whole pixels has variance (h^2 - 1)/6 if h is whole. For
    # variances in between, two such triangles are mixed.
    half_width = math.sqrt(max(1.0, 6 * variance + 1))
    narrow = math.floor(half_width)
    share = (half_width**2 - narrow**2) / (2 * narrow + 1)
    distance = np.abs(np.arange(-narrow, narrow + 1))
    wide = narrow + 1
    kernel = (1 - share) * np.maximum(0, narrow - distance) / narrow**2
    kernel += share * np.maximum(0, wide - distance) / wide**2
    return np.trim_zeros(kernel).astype(np.float32)


def resized_side(size: int) -> int:
    """Return the length in pixels of the shorter side of an image before its center is cropped.

    Args:
        size: Side of the central view in pixels.

    Example:
        >>> resized_side(224)
        256
    """
    return round(size * 256 / 224)


def central_view(image: tf.Tensor, size: int) -> tf.Tensor:
    """Return the central view of an image, which evaluations use (section 4.1).

    The shorter side is resized to 256/224 of `size`, and the center is cropped. An image of `size`
    by `size` pixels is returned unchanged.

    Args:
        image: `[H, W, C]`, uint8, uint16 or float32.
        size: Side of the view in pixels.

    Returns:
        `[size, size, C]` of the same type.
    """

    def resize_and_crop() -> tf.Tensor:
        shape = tf.shape(image, tf.int64)[:2]
        # As in torchvision, the longer side is truncated, and the offsets are rounded half to even.
        resized_shape = resized_side(size) * shape // tf.reduce_min(shape)
        corner = tf.round(tf.cast(resized_shape - size, tf.float64) / 2)
        return _resized_window(image, resized_shape, corner, size)

    view = tf.cond(tf.reduce_all(tf.shape(image)[:2] == size), lambda: image, resize_and_crop)
    return tf.ensure_shape(view, [size, size, image.shape[-1]])


def _resized_window(
    image: tf.Tensor, resized_shape: tf.Tensor, corner: tf.Tensor, size: int
) -> tf.Tensor:
    """Return a square window of a resized image without the rest of the resized image.

    The rest can be much larger: a strip of 1,000 x 1 pixels, resized to a height of 256, takes
    gigabytes.

    Args:
        image: `[H, W, C]`.
        resized_shape: int64 `[2]`, height and width of the resized image.
        corner: float64 `[2]`, top and left of the window in the resized image.
        size: Side of the window.

    Returns:
        `[size, size, C]` of the same type.
    """
    shape = tf.shape(image, tf.int64)[:2]
    scale = tf.cast(resized_shape, tf.float64) / tf.cast(shape, tf.float64)
    # A pixel of the result depends on the pixels of the image within this distance.
    radius = tf.maximum(1 / scale, 1) + 1
    start = tf.cast(tf.floor(corner / scale - radius), tf.int64)
    end = tf.cast(tf.math.ceil((corner + size) / scale + radius), tf.int64)
    (top, left), (bottom, right) = tf.unstack(tf.maximum(start, 0)), tf.unstack(end)
    part = image[top:bottom, left:right]
    # `tf.image.resize` with antialiasing is this operation without a translation.
    window = tf.raw_ops.ScaleAndTranslate(
        images=part[tf.newaxis],
        size=[size, size],
        scale=tf.cast(scale, tf.float32),
        translation=tf.cast(tf.cast([top, left], tf.float64) * scale - corner, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )[0]
    return _rounded(window, image.dtype)


def resize(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """Resize an image with antialiased bilinear interpolation, as Pillow does.

    Args:
        image: uint8 `[H, W, C]`.
        height: Height of the result in pixels.
        width: Width of the result in pixels.

    Returns:
        uint8 `[height, width, C]`.
    """
    resized = tf.image.resize(image, [height, width], antialias=True)
    return _rounded(resized, image.dtype)


def _rounded(image: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Return float32 values in the type of the image that was resized."""
    if dtype.is_floating:
        return tf.cast(image, dtype)
    return tf.cast(tf.clip_by_value(tf.round(image), dtype.min, dtype.max), dtype)
