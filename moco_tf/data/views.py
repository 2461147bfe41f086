"""The geometric half of the augmentation, which runs on the host: crop, flip and resize, in uint8.

The random views of training are made with NumPy and OpenCV, in a fifth of the time that
TensorFlow's resize takes. The central view of evaluation, where accuracy matters, is resized by
TensorFlow, whose result differs from Pillow's by at most one gray level.
"""

import functools
import math

import cv2
import numpy as np
import tensorflow as tf

from moco_tf.seeds import key_for

ATTEMPTS = 10
ASPECT_RATIOS = (3 / 4, 4 / 3)
FLIP_PROBABILITY = 0.5
# Random numbers for one view: area, ratio, top and left of each attempt, and the flip.
DRAWS = 4 * ATTEMPTS + 1

# tf.data already works on one image per core.
cv2.setNumThreads(1)


def view_draws(seed: int, epoch: int, index: int) -> np.ndarray:
    """Return the random numbers of the two views of an image in an epoch.

    Args:
        seed: Seed of the run.
        epoch: Number of the epoch.
        index: Index of the image.

    Returns:
        float64 `[2, DRAWS]`, uniform in [0, 1).
    """
    generator = np.random.Philox(key=key_for("views", seed, epoch), counter=[0, 0, 0, index])
    # NumPy guarantees that the bits of a generator never change, but not the floats that it
    # computes from them.
    return (generator.random_raw(2 * DRAWS) >> 11).reshape(2, DRAWS) * 2.0**-53


def random_view(
    image: np.ndarray, size: int, crop_scale: tuple[float, float], draws: np.ndarray
) -> np.ndarray:
    """Return a random resized crop, flipped with probability 1/2.

    Args:
        image: uint8 `[H, W, C]`.
        size: Side of the view in pixels.
        crop_scale: Smallest and largest share of the image's area.
        draws: Random numbers `[DRAWS]`, uniform in [0, 1).

    Returns:
        uint8 `[size, size, C]`.

    Example:
        >>> image = np.zeros([48, 64, 3], np.uint8)
        >>> query_draws, key_draws = view_draws(seed=0, epoch=0, index=0)
        >>> random_view(image, 32, (0.2, 1.0), query_draws).shape
        (32, 32, 3)
    """
    top, left, height, width = crop_window(image.shape[:2], crop_scale, draws[:-1])
    view = resample(image[top : top + height, left : left + width], size)
    return (cv2.flip(view, 1) if draws[-1] < FLIP_PROBABILITY else view).reshape(size, size, -1)


def crop_window(
    shape: tuple[int, ...], crop_scale: tuple[float, float], draws: np.ndarray
) -> tuple[int, int, int, int]:
    """Return the window of a random resized crop, as torchvision's algorithm chooses it.

    The algorithm draws an area, uniform within `crop_scale`, and an aspect ratio, log-uniform
    between 3/4 and 4/3, up to ten times until the window fits into the image. If none fits, the
    result is the largest central window with an aspect ratio in that range.

    Args:
        shape: Height and width of the image.
        crop_scale: Smallest and largest share of the image's area.
        draws: Random numbers `[4 * ATTEMPTS]`, uniform in [0, 1).

    Returns:
        Top, left, height and width of the window in pixels.
    """
    height, width = shape
    low, high = crop_scale
    narrow, wide = ASPECT_RATIOS
    for area_draw, ratio_draw, top_draw, left_draw in np.reshape(draws, [4, ATTEMPTS]).T.tolist():
        area = height * width * (low + (high - low) * area_draw)
        ratio = narrow * (wide / narrow) ** ratio_draw
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1)), h, w
    ratio = min(max(width / height, narrow), wide)
    h, w = min(height, round(width / ratio)), min(width, round(height * ratio))
    return (height - h) // 2, (width - w) // 2, h, w


def resample(image: np.ndarray, size: int) -> np.ndarray:
    """Resize an image to a square with antialiased bilinear interpolation, approximating Pillow.

    To shrink an image, Pillow weights its pixels by a triangle around each pixel of the result.
    This function smooths the image with the same triangle around whole pixels, and OpenCV
    interpolates between them, which is faster. If a side of the image has more than four pixels per
    pixel of the result, blocks of pixels are averaged first. Enlarged images differ from Pillow's
    by at most one gray level; shrunk photographs differ by about half a level on average.

    Args:
        image: uint8 `[H, W, C]`.
        size: Side of the result in pixels.

    Returns:
        uint8 `[size, size, C]`, or `[size, size]` for one channel.
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


def central_view(image: tf.Tensor, size: int) -> tf.Tensor:
    """Return the central view of an image, which evaluations use (section 4.1).

    The shorter side is resized to 256/224 of `size`, and the center is cropped. An image of `size`
    by `size` pixels is returned unchanged.

    Args:
        image: uint8 `[H, W, C]`.
        size: Side of the view in pixels.

    Returns:
        uint8 `[size, size, C]`.
    """

    def resize_and_crop() -> tf.Tensor:
        shape = tf.shape(image, tf.int64)[:2]
        # As in torchvision, the longer side is truncated, and the offsets are rounded half to even.
        resized_shape = round(size * 256 / 224) * shape // tf.reduce_min(shape)
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
        image: uint8 `[H, W, C]`.
        resized_shape: int64 `[2]`, height and width of the resized image.
        corner: float64 `[2]`, top and left of the window in the resized image.
        size: Side of the window.

    Returns:
        uint8 `[size, size, C]`.
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
    return _to_uint8(window)


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
    return _to_uint8(resized)


def _to_uint8(image: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
