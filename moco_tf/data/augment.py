"""The photometric half of the augmentation, which runs on the device as one vectorized function.

The random parameters of an image depend only on the seed of the step and on the image's row in the
global batch, so views do not depend on the number of devices that share the batch.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from moco_tf.data.photometric import (
    gaussian_blur,
    jitter_brightness_and_contrast,
    jitter_colors,
    random_bits,
    solarize,
    standard_normal,
    to_fraction,
    to_grayscale,
    to_unit,
)
from moco_tf.data.pixels import Pixels, default
from moco_tf.data.recipes import Recipe
from moco_tf.errors import UserError
from moco_tf.ranges import COUNT, checked, plain
from moco_tf.settings import SETTINGS

# Purposes of the random numbers that were added later, which are drawn from seeds of their own so
# that all earlier numbers stay the same. Like those in seeds.py, they never change.
LATER, NOISE = 1, 2


class Augment:
    """Color jitter, grayscale, blur, solarization, noise and normalization of images.

    Args:
        recipe: Operations to apply, with their probabilities and strengths.
        channels: Number of channels of the images; 3 is RGB.
        pixels: The pixel values of the images, and their mean and deviation; by default those of
            images with 8 bits per channel.

    Attributes:
        recipe: The recipe.
        value_range: The pixel values of black and white.
        dtype: Type of the pixel values, one of `moco_tf.data.pixels.DTYPES`.
        mean: Mean of each channel, subtracted from the views; see `mean_and_std`.
        std: Standard deviation of each channel, by which the views are divided.

    Raises:
        UserError: If an argument is not of its type or out of range, or the recipe has operations
            that are defined for RGB only and the images have other channels.

    Example:
        >>> from moco_tf.data.recipes import RECIPES
        >>> augment = Augment(RECIPES["v1"])
        >>> images = tf.zeros([4, 32, 32, 3], tf.uint8)
        >>> augment(images, rows=tf.range(4), count=4, seed=[0, 0]).shape
        TensorShape([4, 32, 32, 3])
    """

    DRAWS = 12  # Random numbers per image.
    # More of them for recipes with solarization or noise: whether to apply each of the two.
    LATER_DRAWS = 2

    def __init__(self, recipe: Recipe, channels: int = 3, pixels: Pixels | None = None) -> None:
        if not isinstance(recipe, Recipe):
            raise UserError(f'recipe={recipe!r:.100}: pass a recipe, such as moco_tf.RECIPES["v2"]')
        _require_valid(recipe)
        channels = checked("channels", channels, COUNT)
        if channels != 3 and recipe.rgb_operations:
            raise UserError(
                f"the recipe has operations for RGB ({', '.join(recipe.rgb_operations)}), and the "
                f"images have {channels} channels: pass recipe.without_rgb_operations() to Augment"
            )
        self.recipe = recipe
        pixels = pixels or default(channels)
        if not isinstance(pixels, Pixels) or len(pixels.mean) != channels:
            raise UserError(
                f"pixels={pixels!r:.100}: pass a moco_tf.data.pixels.Pixels with a mean and a "
                f"standard deviation for each of the {channels} channels, or None"
            )
        self.mean, self.std, self.value_range = pixels.mean, pixels.std, pixels.value_range
        self.dtype = pixels.dtype
        # Compiled on the CPU too, where it is then several times faster, unlike the rest of the
        # step. TensorFlow's build for TPUs cannot compile for the CPU, and compiles the whole step
        # for the TPU.
        compiled = not tf.config.list_physical_devices("TPU_SYSTEM")
        self._change = tf.function(self._augment, jit_compile=compiled, autograph=False)
        # By itself: on the CPU, the augmentation takes twice as long if XLA fuses the two.
        self._normal = tf.function(standard_normal, jit_compile=compiled, autograph=False)

    @functools.cached_property
    def in_graph(self) -> Callable[..., tf.Tensor]:
        """This augmentation in a graph, as in the training step, which then compiles it once."""
        return tf.function(self.__call__, autograph=False)

    def __call__(
        self,
        images: tf.Tensor,
        rows: tf.Tensor,
        count: int | tf.Tensor,
        seed: tf.Tensor | Sequence[int],
    ) -> tf.Tensor:
        """Return one augmented and normalized view of each image.

        Args:
            images: `[n, H, W, channels]`, with values in the value range.
            rows: Rows of the images in the global batch, int32 `[n]`.
            count: Size of the global batch.
            seed: int64 `[2]`.

        Returns:
            float32 `[n, H, W, channels]`, normalized by the mean and the deviation.

        Raises:
            UserError: If the images have another shape.
        """
        if len(images.shape) != 4 or images.shape[-1] != len(self.mean):
            raise UserError(
                f"the views have the shape {list(images.shape)}, but this Augment takes "
                f"[n, H, W, {len(self.mean)}]: pass the number of channels to Augment, and put the "
                "channels last"
            )
        draws = tf.gather(self.draws(count, seed), rows)
        if self.recipe.noise_probability == 0:
            return self._change(images, draws)
        noise_seeds = tf.gather(random_bits([count, 2], _fold_in(seed, NOISE)), rows)
        return self._change(images, draws, self._normal(noise_seeds, tuple(images.shape[1:])))

    def draws(self, count: int | tf.Tensor, seed: tf.Tensor | Sequence[int]) -> tf.Tensor:
        """Return the random numbers of each image of the global batch.

        Args:
            count: Size of the global batch.
            seed: int64 `[2]`.

        Returns:
            float32, uniform in [0, 1): `[count, DRAWS]`, or `[count, DRAWS + LATER_DRAWS]` if the
            recipe has solarization or noise, which do not change the other numbers.
        """
        draws = to_unit(random_bits([count, self.DRAWS], seed))
        if not self._has_later_operations:
            return draws
        later = to_unit(random_bits([count, self.LATER_DRAWS], _fold_in(seed, LATER)))
        return tf.concat([draws, later], axis=1)

    @property
    def _has_later_operations(self) -> bool:
        return self.recipe.solarize_probability > 0 or self.recipe.noise_probability > 0

    def describe(self, draws: np.ndarray | tf.Tensor) -> list[str]:
        """Return the operations that an image with given random numbers goes through.

        Args:
            draws: Random numbers of the image, a row of `draws`.

        Returns:
            One string per operation, such as `"brightness 1.10"`, in the order in which they are
            applied. Operations with strength 0 in the recipe are left out.
        """
        recipe = self.recipe
        jitter, brightness, contrast, saturation, hue, gray, blur, sigma, *rest = map(float, draws)
        order, later = rest[:4], rest[4:]
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
        if later:
            inversion, noise = later
            if inversion < recipe.solarize_probability:
                operations.append(f"solarize {recipe.solarize_threshold:.2f}")
            if noise < recipe.noise_probability:
                operations.append(f"noise {recipe.noise_std:.2f}")
        return operations

    def _augment(
        self, images: tf.Tensor, draws: tf.Tensor, normal: tf.Tensor | None = None
    ) -> tf.Tensor:
        recipe = self.recipe
        draws = tf.unstack(draws[:, :, tf.newaxis, tf.newaxis, tf.newaxis], axis=1)  # N x 1 x 1 x 1

        # Channels first: the compiler vectorizes every operation over planes of one color.
        x = tf.transpose(to_fraction(images, self.value_range), [0, 3, 1, 2])
        x = self._change_colors(x, draws[: self.DRAWS])
        if recipe.blur_probability > 0:
            blur, sigma = draws[6:8]
            low, high = recipe.blur_sigma
            # Three standard deviations hold 99.7 % of the kernel.
            blurred = gaussian_blur(x, low + sigma * (high - low), radius=math.ceil(3 * high))
            x = tf.where(blur < recipe.blur_probability, blurred, x)
        if self._has_later_operations:
            inversion, noise = draws[self.DRAWS :]
            if recipe.solarize_probability > 0:
                solarized = solarize(x, recipe.solarize_threshold)
                x = tf.where(inversion < recipe.solarize_probability, solarized, x)
            if normal is not None:
                std = tf.where(noise < recipe.noise_probability, recipe.noise_std, 0.0)
                x = tf.clip_by_value(x + std * tf.transpose(normal, [0, 3, 1, 2]), 0.0, 1.0)
        return (tf.transpose(x, [0, 2, 3, 1]) - self.mean) / self.std

    def _change_colors(self, x: tf.Tensor, draws: list[tf.Tensor]) -> tf.Tensor:
        """Apply color jitter and grayscale to images `[N, C, H, W]` in [0, 1]."""
        recipe = self.recipe
        jitter, brightness, contrast, saturation, hue, gray, _, _, *order = draws
        if recipe.gray_first and recipe.gray_probability > 0:
            x = tf.where(gray < recipe.gray_probability, to_grayscale(x), x)
        if recipe.jitter_probability > 0:
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
        return x


def _require_valid(recipe: Recipe) -> None:
    """Raise a `UserError` if a number of a recipe is out of the range of its setting."""
    for setting in SETTINGS:
        group, _, name = setting.key.rpartition(".")
        if group != "augment":
            continue
        value = getattr(recipe, name)
        numbers = tuple(map(plain, value)) if isinstance(value, tuple) else plain(value)
        if problem := setting.range.error(numbers):
            raise UserError(f"recipe.{name}={value!r:.100}: {problem}")


def _fold_in(seed: tf.Tensor | Sequence[int], purpose: int) -> tf.Tensor:
    """Return a seed, int64 `[2]`, that is a function of a step's seed and of a purpose."""
    return tf.random.experimental.stateless_fold_in(
        tf.cast(seed, tf.int64), tf.constant(purpose, tf.int64), alg="philox"
    )


def _factor(draw: float | tf.Tensor, strength: float) -> float | tf.Tensor:
    """Return a factor that is uniform in [1 - strength, 1 + strength], but never below 0."""
    low, high = max(0.0, 1.0 - strength), 1.0 + strength
    return low + draw * (high - low)
