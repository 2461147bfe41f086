"""Photometric operations on batches of images, and the random numbers that they need.

Images have their channels first, `[N, C, H, W]`, and values in [0, 1].
"""

import math
from collections.abc import Sequence

import tensorflow as tf

from moco_tf.data.pixels import BYTES

# ITU-R 601 luma, with which Pillow and torchvision convert to grayscale.
LUMA = (0.299, 0.587, 0.114)


def to_fraction(images: tf.Tensor, value_range: tuple[float, float]) -> tf.Tensor:
    """Return pixel values as fractions of their range, where 0 is black and 1 is white.

    Args:
        images: Numbers of any type and shape.
        value_range: The values of black and white. Values outside are clipped.

    Returns:
        float32 of the same shape.
    """
    low, high = value_range
    if value_range == BYTES and tf.as_dtype(images.dtype) == tf.uint8:
        return tf.cast(images, tf.float32) / 255.0
    return tf.clip_by_value((tf.cast(images, tf.float32) - low) / (high - low), 0.0, 1.0)


def to_levels(images: tf.Tensor, value_range: tuple[float, float]) -> tf.Tensor:
    """Return pixel values as gray levels from 0 to 255, for pictures.

    Args:
        images: As for `to_fraction`.
        value_range: As for `to_fraction`.

    Returns:
        float32 of the same shape; the images themselves if they are bytes in their whole range.
    """
    is_whole = value_range == BYTES and tf.as_dtype(images.dtype) == tf.uint8
    return images if is_whole else 255.0 * to_fraction(images, value_range)


def to_grayscale(x: tf.Tensor) -> tf.Tensor:
    """Convert RGB images `[N, 3, H, W]` to grayscale, `[N, 1, H, W]`."""
    return tf.reduce_sum(x * tf.reshape(tf.constant(LUMA, x.dtype), [3, 1, 1]), 1, keepdims=True)


def jitter_colors(
    x: tf.Tensor,
    brightness: tf.Tensor,
    contrast: tf.Tensor,
    saturation: tf.Tensor,
    hue: tf.Tensor,
    order: tf.Tensor,
) -> tf.Tensor:
    """Change brightness, contrast, saturation and hue of each image, in its own order.

    Args:
        x: `[N, 3, H, W]`, values in [0, 1].
        brightness: Factors `[N, 1, 1, 1]`; 1 changes nothing.
        contrast: Factors `[N, 1, 1, 1]`; 1 changes nothing.
        saturation: Factors `[N, 1, 1, 1]`; 1 changes nothing.
        hue: Shifts `[N, 1, 1, 1]` in turns of the color wheel; 0 changes nothing.
        order: int `[N, 4, 1, 1]`. Each row is a permutation of brightness 0, contrast 1,
            saturation 2, hue 3.

    Returns:
        `[N, 3, H, W]`, values in [0, 1].
    """
    # Shifting the hue is expensive, so it is done once, in the middle. There are three turns for
    # the other operations before it and three after it, and only three of the six are active.
    order = tf.unstack(order[..., tf.newaxis], axis=1)  # N x 1 x 1 x 1
    turn_of_hue = tf.add_n([turn * tf.cast(order[turn] == 3, tf.int32) for turn in range(4)])

    def blend(x: tf.Tensor, turn: int, is_active: tf.Tensor) -> tf.Tensor:
        # The three are one operation: a blend with black, with the mean of the image's grayscale,
        # or with its grayscale.
        operation = tf.where(turn < turn_of_hue, order[turn], order[turn + 1])
        gray = to_grayscale(x)
        factor = tf.where(
            operation == 0, brightness, tf.where(operation == 1, contrast, saturation)
        )
        mean = tf.reduce_mean(gray, axis=[2, 3], keepdims=True)
        other = tf.where(operation == 2, gray, tf.where(operation == 1, mean, 0.0))
        factor = tf.where(is_active, factor, 1.0)
        return tf.clip_by_value(factor * x + (1.0 - factor) * other, 0.0, 1.0)

    for turn in range(3):
        x = blend(x, turn, turn < turn_of_hue)
    x = shift_hue(x, hue)
    for turn in range(3):
        x = blend(x, turn, turn >= turn_of_hue)
    return x


def jitter_brightness_and_contrast(
    x: tf.Tensor, brightness: tf.Tensor, contrast: tf.Tensor, order: tf.Tensor
) -> tf.Tensor:
    """Change brightness and contrast of images with any channels, each image in its own order.

    Contrast changes about the mean of the grayscale for RGB images, and about the mean over all
    channels for others.

    Args:
        x: `[N, C, H, W]`, values in [0, 1].
        brightness: Factors `[N, 1, 1, 1]`; 1 changes nothing.
        contrast: Factors `[N, 1, 1, 1]`; 1 changes nothing.
        order: int `[N, 2, 1, 1]`. Each row is a permutation of brightness 0, contrast 1.

    Returns:
        `[N, C, H, W]`, values in [0, 1].
    """
    for turn in range(2):
        is_contrast = tf.reshape(order[:, turn], [-1, 1, 1, 1]) == 1
        gray = to_grayscale(x) if x.shape[1] == 3 else x
        mean = tf.reduce_mean(gray, axis=[1, 2, 3], keepdims=True)
        factor = tf.where(is_contrast, contrast, brightness)
        other = tf.where(is_contrast, mean, 0.0)
        x = tf.clip_by_value(factor * x + (1.0 - factor) * other, 0.0, 1.0)
    return x


def shift_hue(x: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """Shift the hue of images in HSV, without changing saturation or value.

    Args:
        x: `[N, 3, H, W]`, values in [0, 1].
        shift: `[N, 1, 1, 1]`, in turns of the color wheel.

    Returns:
        `[N, 3, H, W]`.
    """
    r, g, b = tf.unstack(x, axis=1)
    value = tf.maximum(tf.maximum(r, g), b)
    chroma = value - tf.minimum(tf.minimum(r, g), b)
    inverse = 1.0 / tf.where(chroma > 0, chroma, 1.0)
    hue = tf.where(
        value == r,
        (g - b) * inverse,
        tf.where(value == g, 2.0 + (b - r) * inverse, 4.0 + (r - g) * inverse),
    )  # in sixths of a turn
    hue += 6.0 * shift[:, 0]
    channels = []
    for offset in (5.0, 3.0, 1.0):
        # Each channel falls from value by chroma, along a trapezoid over the color wheel.
        k = offset + hue
        k -= 6.0 * tf.floor(k / 6.0)
        channels.append(value - chroma * tf.clip_by_value(tf.minimum(k, 4.0 - k), 0.0, 1.0))
    return tf.stack(channels, axis=1)


def gaussian_blur(x: tf.Tensor, sigma: tf.Tensor, radius: int) -> tf.Tensor:
    """Blur images with a separable Gaussian kernel; outside an image its edge pixels are repeated.

    Args:
        x: `[N, C, H, W]`.
        sigma: Standard deviations in pixels, `[N, 1, 1, 1]`, greater than 0.
        radius: Distance in pixels at which the kernel is cut off.

    Returns:
        `[N, C, H, W]`.
    """
    offsets = tf.range(-radius, radius + 1, dtype=x.dtype)
    kernel = tf.exp(-0.5 * tf.square(offsets / sigma[:, :, 0, 0]))  # N x taps
    kernel /= tf.reduce_sum(kernel, axis=1, keepdims=True)
    weights = tf.unstack(kernel[:, :, tf.newaxis, tf.newaxis, tf.newaxis], axis=1)
    height, width = x.shape[2:]
    rows = tf.concat(
        [tf.repeat(x[:, :, :1], radius, 2), x, tf.repeat(x[:, :, -1:], radius, 2)], axis=2
    )
    x = tf.add_n([weight * rows[:, :, i : i + height] for i, weight in enumerate(weights)])
    columns = tf.concat(
        [tf.repeat(x[..., :1], radius, 3), x, tf.repeat(x[..., -1:], radius, 3)], axis=3
    )
    return tf.add_n([weight * columns[..., i : i + width] for i, weight in enumerate(weights)])


def solarize(x: tf.Tensor, threshold: float) -> tf.Tensor:
    """Invert the values of images that are `threshold` or greater.

    Args:
        x: `[N, C, H, W]`, values in [0, 1].
        threshold: A value in [0, 1].

    Returns:
        `[N, C, H, W]`.
    """
    return tf.where(x >= threshold, 1.0 - x, x)


def random_bits(shape: Sequence[int | tf.Tensor], seed: tf.Tensor | Sequence[int]) -> tf.Tensor:
    """Return random int32 numbers, uniform over all of them, that every device computes alike."""
    # Philox by name, because the algorithm that "auto" selects depends on the device. Integers,
    # because TensorFlow and XLA compute different floats from the same bits.
    return tf.random.stateless_uniform(shape, seed, None, None, tf.int32, alg="philox")


def to_unit(bits: tf.Tensor) -> tf.Tensor:
    """Convert random int32 numbers to float32, uniform in [0, 1)."""
    return tf.cast(tf.bitwise.bitwise_and(bits, 2**24 - 1), tf.float32) * 2.0**-24


def standard_normal(seeds: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Return numbers of the standard normal distribution for each image, from its own seed.

    An image has the same numbers whichever other images are in the batch.

    Args:
        seeds: Seed of each image, int32 `[N, 2]`.
        shape: Shape of an image.

    Returns:
        float32 `[N, *shape]`.
    """
    # One image after the other: the generator takes one seed at a time.
    bits = tf.map_fn(lambda seed: random_bits(shape, seed), seeds, fn_output_signature=tf.int32)
    # The centers of 2**23 equal parts of (-1, 1), all of which float32 can represent.
    uniform = 2.0 * to_unit(tf.bitwise.bitwise_or(tf.bitwise.left_shift(bits, 1), 1)) - 1.0
    return math.sqrt(2.0) * tf.math.erfinv(uniform)
