"""The photometric half of the augmentation, which runs on the device as one vectorized function.

The random parameters of an image depend only on the seed of the step and on the image's row in the
global batch, so views do not depend on the number of devices that share the batch.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from moco_tf.data.normalization import mean_and_std
from moco_tf.data.recipes import Recipe
from moco_tf.errors import UserError

# ITU-R 601 luma, with which Pillow and torchvision convert to grayscale.
LUMA = (0.299, 0.587, 0.114)


class Augment:
    """Color jitter, grayscale, blur and normalization of a batch of uint8 images.

    Args:
        recipe: Operations to apply, with their probabilities and strengths.
        channels: Number of channels of the images; 3 is RGB.

    Attributes:
        recipe: The recipe.
        mean: Mean of each channel, subtracted from the views; see `mean_and_std`.
        std: Standard deviation of each channel, by which the views are divided.

    Raises:
        UserError: If the recipe has operations that are defined for RGB only and the images have
            other channels.

    Example:
        >>> from moco_tf.data.recipes import RECIPES
        >>> augment = Augment(RECIPES["v1"])
        >>> images = tf.zeros([4, 32, 32, 3], tf.uint8)
        >>> augment(images, rows=tf.range(4), count=4, seed=[0, 0]).shape
        TensorShape([4, 32, 32, 3])
    """

    DRAWS = 12  # Random numbers per image.

    def __init__(self, recipe: Recipe, channels: int = 3) -> None:
        if channels != 3 and recipe.rgb_operations:
            raise UserError(
                f"the recipe has operations for RGB ({', '.join(recipe.rgb_operations)}), and the "
                f"images have {channels} channels: pass recipe.without_rgb_operations() to Augment"
            )
        self.recipe = recipe
        self.mean, self.std = mean_and_std(channels)

    def __call__(
        self,
        images: tf.Tensor,
        rows: tf.Tensor,
        count: int | tf.Tensor,
        seed: tf.Tensor | Sequence[int],
    ) -> tf.Tensor:
        """Return one augmented and normalized view of each image.

        Args:
            images: uint8 `[n, H, W, channels]`.
            rows: Rows of the images in the global batch, int32 `[n]`.
            count: Size of the global batch.
            seed: int64 `[2]`.

        Returns:
            float32 `[n, H, W, channels]`, normalized by `mean_and_std`.
        """
        return self._augment(images, tf.gather(self.draws(count, seed), rows))

    def draws(self, count: int | tf.Tensor, seed: tf.Tensor | Sequence[int]) -> tf.Tensor:
        """Return the random numbers of each image of the global batch.

        Args:
            count: Size of the global batch.
            seed: int64 `[2]`.

        Returns:
            float32 `[count, DRAWS]`, uniform in [0, 1).
        """
        # Philox by name, because the algorithm that "auto" selects depends on the device. Integers,
        # because TensorFlow and XLA compute different floats from the same bits.
        bits = tf.random.stateless_uniform(
            [count, self.DRAWS], seed, None, None, tf.int32, alg="philox"
        )
        return tf.cast(tf.bitwise.bitwise_and(bits, 2**24 - 1), tf.float32) * 2.0**-24

    def describe(self, draws: np.ndarray | tf.Tensor) -> list[str]:
        """Return the operations that an image with given random numbers goes through.

        Args:
            draws: Random numbers of the image, float `[DRAWS]`.

        Returns:
            One string per operation, such as `"brightness 1.10"`, in the order in which they are
            applied. Operations with strength 0 in the recipe are left out.
        """
        recipe = self.recipe
        jitter, brightness, contrast, saturation, hue, gray, blur, sigma, *order = map(float, draws)
        color_operations = [
            (recipe.brightness, f"brightness {_factor(brightness, recipe.brightness):.2f}"),
            (recipe.contrast, f"contrast {_factor(contrast, recipe.contrast):.2f}"),
            (recipe.saturation, f"saturation {_factor(saturation, recipe.saturation):.2f}"),
            (recipe.hue, f"hue {360 * (2 * hue - 1) * recipe.hue:+.0f}°"),
        ]
        operations = []
        if jitter < recipe.jitter_probability:
            in_order = [color_operations[i] for i in sorted(range(4), key=order.__getitem__)]
            operations = [operation for strength, operation in in_order if strength > 0]
        if gray < recipe.gray_probability:
            operations.insert(0 if recipe.gray_first else len(operations), "gray")
        if blur < recipe.blur_probability:
            low, high = recipe.blur_sigma
            operations.append(f"blur {low + sigma * (high - low):.1f} px")
        return operations

    # Compiled on the CPU too, where it is then several times faster, unlike the rest of the step.
    @tf.function(jit_compile=True)
    def _augment(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        recipe = self.recipe
        draws = tf.unstack(draws[:, :, tf.newaxis, tf.newaxis, tf.newaxis], axis=1)  # N x 1 x 1 x 1
        jitter, brightness, contrast, saturation, hue, gray, blur, sigma, *order = draws

        # Channels first: the compiler vectorizes every operation over planes of one color.
        x = tf.transpose(tf.cast(images, tf.float32) / 255.0, [0, 3, 1, 2])
        if recipe.gray_first and recipe.gray_probability > 0:
            x = tf.where(gray < recipe.gray_probability, to_grayscale(x), x)
        brightness = _factor(brightness, recipe.brightness)
        contrast = _factor(contrast, recipe.contrast)
        if recipe.saturation > 0 or recipe.hue > 0:
            jittered = jitter_colors(
                x,
                brightness,
                contrast,
                _factor(saturation, recipe.saturation),
                (2.0 * hue - 1.0) * recipe.hue,
                tf.argsort(tf.concat(order, axis=1), axis=1),
            )
        else:
            # The order of brightness and contrast is the one that they have among all four.
            order = tf.argsort(tf.concat(order[:2], axis=1), axis=1)
            jittered = jitter_brightness_and_contrast(x, brightness, contrast, order)
        x = tf.where(jitter < recipe.jitter_probability, jittered, x)
        if not recipe.gray_first and recipe.gray_probability > 0:
            x = tf.where(gray < recipe.gray_probability, to_grayscale(x), x)
        if recipe.blur_probability > 0:
            low, high = recipe.blur_sigma
            # Three standard deviations hold 99.7 % of the kernel.
            blurred = gaussian_blur(x, low + sigma * (high - low), radius=math.ceil(3 * high))
            x = tf.where(blur < recipe.blur_probability, blurred, x)
        return (tf.transpose(x, [0, 2, 3, 1]) - self.mean) / self.std


def _factor(draw: float | tf.Tensor, strength: float) -> float | tf.Tensor:
    """Return a factor that is uniform in [1 - strength, 1 + strength], but never below 0."""
    low, high = max(0.0, 1.0 - strength), 1.0 + strength
    return low + draw * (high - low)


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
