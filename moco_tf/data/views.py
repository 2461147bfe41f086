"""The geometric half of the augmentation, on the host: crops, flips and resizes; uint8 out.

The random views of training are made in NumPy and OpenCV, which does in a fifth of the time what
TensorFlow's resize does. The central view of evaluation, where a digit counts, stays with
TensorFlow's, which is Pillow's to a grey level.
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
# Numbers that one view needs: area, ratio, top and left of each attempt, and the flip.
DRAWS = 4 * ATTEMPTS + 1

# tf.data has an image in hand on every core already.
cv2.setNumThreads(1)


def view_draws(seed, epoch, index):
    """The random numbers of the two views that an image gives in an epoch.

    Args:
        seed: int, the run's.
        epoch, index: int.

    Returns:
        float64 `[2, DRAWS]`, uniform in [0, 1).
    """
    generator = np.random.Philox(key=key_for("views", seed, epoch), counter=[0, 0, 0, index])
    # The generator's own bits: NumPy promises them to stay, and what it makes of them not.
    return (generator.random_raw(2 * DRAWS) >> 11).reshape(2, DRAWS) * 2.0**-53


def random_view(image, size, crop_scale, draws):
    """One random resized crop, flipped with probability one half.

    Args:
        image: uint8 `[H, W, C]`.
        size: int, side of the view in pixels.
        crop_scale: smallest and largest share of the image's area.
        draws: floats `[DRAWS]`, uniform in [0, 1).

    Returns:
        uint8 `[size, size, C]`.
    """
    top, left, height, width = crop_window(image.shape[:2], crop_scale, draws[:-1])
    view = resample(image[top : top + height, left : left + width], size)
    return (cv2.flip(view, 1) if draws[-1] < FLIP_PROBABILITY else view).reshape(size, size, -1)


def crop_window(shape, crop_scale, draws):
    """The window of a random resized crop, by the algorithm of torchvision.

    An area uniform within `crop_scale` and an aspect ratio log-uniform in 3/4 to 4/3 are drawn up
    to ten times, until the window fits; failing that, the largest central window of a permitted
    aspect ratio is taken.

    Args:
        shape: two ints, height and width of the image.
        crop_scale: smallest and largest share of the image's area.
        draws: floats `[4 * ATTEMPTS]`, uniform in [0, 1).

    Returns:
        Four ints: top, left, height, width.
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


def resample(image, size):
    """Bilinear, with the support widened when the image shrinks: close to Pillow, and faster.

    Where the image shrinks, Pillow weighs the pixels by a triangle around each pixel of the
    result. Here the same triangle, around whole pixels, smooths the image, and OpenCV interpolates
    between them. Beyond four pixels a pixel, blocks of them are averaged before. Enlarged images
    are Pillow's to a grey level; shrunk photographs differ by half a level or so in the mean.

    Args:
        image: uint8 `[H, W, C]`.
        size: int, side of the result in pixels.

    Returns:
        uint8 `[size, size, C]`, or `[size, size]` of one channel.
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
        rows, columns = kernels
        image = cv2.sepFilter2D(image, -1, columns, rows, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


@functools.lru_cache(maxsize=4096)
def _smoothing_kernel(scale, block):
    """What turns linear interpolation into Pillow's filter, of the same variance, float32 `[odd]`.

    Args:
        scale: float, pixels of the image to a pixel of the result.
        block: float, pixels of the image to a pixel that is left after averaging.
    """
    # Variances: of a triangle of half width s, s^2/6; of the mean of b pixels, (b^2 - 1)/12; and
    # linear interpolation is a triangle of half width b.
    variance = ((scale**2 - block**2) / 6 - (block**2 - 1) / 12) / block**2
    # A triangle of half width h on whole pixels has the variance (h^2 - 1)/6 where h is whole;
    # between two of them, the mixture that has it.
    half_width = math.sqrt(max(1.0, 6 * variance + 1))
    narrow = math.floor(half_width)
    share = (half_width**2 - narrow**2) / (2 * narrow + 1)
    distance = np.abs(np.arange(-narrow, narrow + 1))
    kernel = sum(
        part * np.maximum(0, h - distance) / h**2
        for part, h in ((1 - share, narrow), (share, narrow + 1))
    )
    return np.trim_zeros(kernel).astype(np.float32)


def central_view(image, size):
    """The view that features are evaluated on: the shorter side to 256/224 of `size`, then the
    centre (section 4.1). An image that is `size` by `size` already is taken as it is.

    Args:
        image: uint8 `[H, W, C]`.
        size: int, side of the view in pixels.

    Returns:
        uint8 `[size, size, C]`.
    """

    def resize_and_crop():
        shape = tf.shape(image)[:2]
        # As torchvision: the longer side truncated, the offsets rounded, halves to even.
        height, width = tf.unstack(round(size * 256 / 224) * shape // tf.reduce_min(shape))
        resized = resize(image, height, width)
        top, left = (tf.cast(tf.round((side - size) / 2), tf.int32) for side in (height, width))
        return resized[top : top + size, left : left + size]

    view = tf.cond(tf.reduce_all(tf.shape(image)[:2] == size), lambda: image, resize_and_crop)
    return tf.ensure_shape(view, [size, size, image.shape[-1]])


def resize(image, height, width):
    """Bilinear, with the support widened when the image shrinks, as in Pillow.

    Args:
        image: uint8 `[H, W, C]`.
        height, width: int, of the result in pixels.

    Returns:
        uint8 `[height, width, C]`.
    """
    resized = tf.image.resize(image, [height, width], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
