"""The photometric half of the augmentation, on the device: one vectorised layer.

Every image gets parameters of its own, a function of the seed of the step and of the image's row
in the global batch, so views do not depend on the number of devices that share the batch.
"""

import math

import tensorflow as tf

from moco_tf.data.normalization import mean_and_std
from moco_tf.errors import UserError

# ITU-R 601 luma, as Pillow and torchvision convert to grey.
GREY = (0.299, 0.587, 0.114)


class Augment:
    """Colour jitter, grey, blur and normalisation of a batch of uint8 images.

    Args:
        recipe: a `Recipe`.
        channels: int, of the images; 3 is RGB.

    Raises:
        UserError: the recipe has operations of RGB, and the images other channels.

    Example:
        >>> augment = Augment(RECIPES["v2"])
        >>> views = augment(images, rows=tf.range(256), count=256, seed=[0, step])
    """

    DRAWS = 12  # uniform numbers that one image needs

    def __init__(self, recipe, channels=3):
        if channels != 3 and recipe.rgb_operations:
            raise UserError(
                f"the recipe has operations of RGB ({', '.join(recipe.rgb_operations)}), and the "
                f"images have {channels} channels: give Augment recipe.without_rgb_operations()"
            )
        self.recipe = recipe
        self.mean, self.std = mean_and_std(channels)

    def __call__(self, images, rows, count, seed):
        """Augments one view.

        Args:
            images: uint8 `[n, H, W, channels]`.
            rows: int32 `[n]`, where the images stand in the global batch.
            count: int, the size of the global batch.
            seed: int64 `[2]`.

        Returns:
            float32 `[n, H, W, channels]`, normalised by `mean_and_std`.
        """
        return self._augment(images, tf.gather(self.draws(count, seed), rows))

    def draws(self, count, seed):
        """The random numbers of each image of the global batch, float32 `[count, DRAWS]`."""
        # Philox by name: the algorithm that "auto" takes depends on the device. Integers, since
        # TensorFlow and XLA make different floats of the same bits.
        bits = tf.random.stateless_uniform(
            [count, self.DRAWS], seed, None, None, tf.int32, alg="philox"
        )
        return tf.cast(tf.bitwise.bitwise_and(bits, 2**24 - 1), tf.float32) * 2.0**-24

    def describe(self, draws):
        """What an image with these numbers, float `[DRAWS]`, goes through, as a list of words in
        the order in which it happens. What the recipe leaves out, by an amount of 0, has none."""
        recipe = self.recipe
        jitter, brightness, contrast, saturation, hue, grey, blur, sigma, *order = map(float, draws)
        colours = [
            (recipe.brightness, f"brightness {_factor(brightness, recipe.brightness):.2f}"),
            (recipe.contrast, f"contrast {_factor(contrast, recipe.contrast):.2f}"),
            (recipe.saturation, f"saturation {_factor(saturation, recipe.saturation):.2f}"),
            (recipe.hue, f"hue {360 * (2 * hue - 1) * recipe.hue:+.0f}°"),
        ]
        words = []
        if jitter < recipe.jitter_probability:
            in_order = [colours[turn] for turn in sorted(range(4), key=order.__getitem__)]
            words = [word for amount, word in in_order if amount > 0]
        if grey < recipe.grey_probability:
            words.insert(0 if recipe.grey_first else len(words), "grey")
        if blur < recipe.blur_probability:
            low, high = recipe.blur_sigma
            words.append(f"blur {low + sigma * (high - low):.1f} px")
        return words

    # Compiled even on the CPU, where it is several times faster so and the rest of the step is not.
    @tf.function(jit_compile=True)
    def _augment(self, images, draws):
        recipe = self.recipe
        draws = tf.unstack(draws[:, :, tf.newaxis, tf.newaxis, tf.newaxis], axis=1)  # N x 1 x 1 x 1
        jitter, brightness, contrast, saturation, hue, grey, blur, sigma, *order = draws

        # Channels first: over planes of one colour, the compiler vectorises every operation.
        x = tf.transpose(tf.cast(images, tf.float32) / 255.0, [0, 3, 1, 2])
        if recipe.grey_first and recipe.grey_probability > 0:
            x = tf.where(grey < recipe.grey_probability, to_grey(x), x)
        brightness = _factor(brightness, recipe.brightness)
        contrast = _factor(contrast, recipe.contrast)
        if recipe.saturation > 0 or recipe.hue > 0:
            jittered = jitter_colours(
                x,
                brightness,
                contrast,
                _factor(saturation, recipe.saturation),
                (2.0 * hue - 1.0) * recipe.hue,
                tf.argsort(tf.concat(order, axis=1), axis=1),
            )
        else:
            # Without the other two, these keep the order that they have among the four.
            order = tf.argsort(tf.concat(order[:2], axis=1), axis=1)
            jittered = jitter_light(x, brightness, contrast, order)
        x = tf.where(jitter < recipe.jitter_probability, jittered, x)
        if not recipe.grey_first and recipe.grey_probability > 0:
            x = tf.where(grey < recipe.grey_probability, to_grey(x), x)
        if recipe.blur_probability > 0:
            low, high = recipe.blur_sigma
            # Three standard deviations hold 99.7 % of the kernel.
            blurred = gaussian_blur(x, low + sigma * (high - low), radius=math.ceil(3 * high))
            x = tf.where(blur < recipe.blur_probability, blurred, x)
        return (tf.transpose(x, [0, 2, 3, 1]) - self.mean) / self.std


def _factor(draw, amount):
    """Uniform in [1 - amount, 1 + amount], but never below 0."""
    low, high = max(0.0, 1.0 - amount), 1.0 + amount
    return low + draw * (high - low)


def to_grey(x):
    """Grey of images `[N, 3, H, W]`, as one plane: `[N, 1, H, W]`."""
    return tf.reduce_sum(x * tf.reshape(tf.constant(GREY, x.dtype), [3, 1, 1]), 1, keepdims=True)


def jitter_colours(x, brightness, contrast, saturation, hue, order):
    """Brightness, contrast, saturation and hue of each image, in an order of its own.

    Args:
        x: `[N, 3, H, W]`, values in 0 to 1.
        brightness, contrast, saturation: `[N, 1, 1, 1]` factors; 1 changes nothing.
        hue: `[N, 1, 1, 1]` shifts in turns of the colour wheel; 0 changes nothing.
        order: int `[N, 4, 1, 1]`, each row a permutation of brightness 0,
            contrast 1, saturation 2, hue 3.

    Returns:
        `[N, 3, H, W]`, values in 0 to 1.
    """
    # Hue is the dear one: it is turned once, and the other three each have a turn before it and one
    # after, in one of which they change nothing.
    order = tf.unstack(order[..., tf.newaxis], axis=1)  # N x 1 x 1 x 1
    turn_of_hue = tf.add_n([turn * tf.cast(order[turn] == 3, tf.int32) for turn in range(4)])

    def blend(x, turn, takes_place):
        # These three are one operation: a blend with black, with the image's mean grey, or with its
        # grey.
        operation = tf.where(turn < turn_of_hue, order[turn], order[turn + 1])
        grey = to_grey(x)
        factor = tf.where(
            operation == 0, brightness, tf.where(operation == 1, contrast, saturation)
        )
        mean = tf.reduce_mean(grey, axis=[2, 3], keepdims=True)
        other = tf.where(operation == 2, grey, tf.where(operation == 1, mean, 0.0))
        factor = tf.where(takes_place, factor, 1.0)
        return tf.clip_by_value(factor * x + (1.0 - factor) * other, 0.0, 1.0)

    for turn in range(3):
        x = blend(x, turn, turn < turn_of_hue)
    x = shift_hue(x, hue)
    for turn in range(3):
        x = blend(x, turn, turn >= turn_of_hue)
    return x


def jitter_light(x, brightness, contrast, order):
    """Brightness and contrast of each image, of whatever channels, in an order of its own.

    Contrast is about the mean of the image's grey where it is RGB, and about its mean over all
    channels otherwise.

    Args:
        x: `[N, C, H, W]`, values in 0 to 1.
        brightness, contrast: `[N, 1, 1, 1]` factors; 1 changes nothing.
        order: int `[N, 2, 1, 1]`, each row a permutation of brightness 0, contrast 1.

    Returns:
        `[N, C, H, W]`, values in 0 to 1.
    """
    for turn in range(2):
        is_contrast = tf.reshape(order[:, turn], [-1, 1, 1, 1]) == 1
        grey = to_grey(x) if x.shape[1] == 3 else x
        mean = tf.reduce_mean(grey, axis=[1, 2, 3], keepdims=True)
        factor = tf.where(is_contrast, contrast, brightness)
        other = tf.where(is_contrast, mean, 0.0)
        x = tf.clip_by_value(factor * x + (1.0 - factor) * other, 0.0, 1.0)
    return x


def shift_hue(x, shift):
    """Turns the hue of images in HSV, and leaves saturation and value.

    Args:
        x: `[N, 3, H, W]`, values in 0 to 1.
        shift: `[N, 1, 1, 1]`, in turns of the colour wheel.

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
        # Each channel falls from value by chroma, along a trapezium over the colour wheel.
        k = offset + hue
        k -= 6.0 * tf.floor(k / 6.0)
        channels.append(value - chroma * tf.clip_by_value(tf.minimum(k, 4.0 - k), 0.0, 1.0))
    return tf.stack(channels, axis=1)


def gaussian_blur(x, sigma, radius):
    """Separable Gaussian blur; beyond its edges an image goes on as its outermost pixels.

    Args:
        x: `[N, C, H, W]`.
        sigma: `[N, 1, 1, 1]`, standard deviations in pixels, > 0.
        radius: int, pixels at which the kernel is cut off.

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
