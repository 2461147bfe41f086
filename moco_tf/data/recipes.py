"""Augmentation recipes: operations with their probabilities and strengths.

A config names a preset, and may change each of its numbers. `from_config` is the one place where
the two become a recipe. This module loads without TensorFlow, because the table of settings
depends on it.
"""

import dataclasses
from typing import Any

import ml_collections


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The parameters of an augmentation, for its geometric and its photometric half.

    Each of them but `gray_first` is a setting of a run, `config.augment.NAME`.

    Attributes:
        crop_scale: Smallest and largest share of the image's area in a random resized crop.
        aspect_ratio: Smallest and largest ratio of width to height of the crop.
        horizontal_flip: Probability that left and right are exchanged.
        vertical_flip: Probability that top and bottom are exchanged.
        quarter_turns: Probability of a turn by 0, 90, 180 or 270 degrees, each equally likely.
        brightness: Strength a; the factor is uniform in [1 - a, 1 + a].
        contrast: Strength of contrast changes, as for `brightness`.
        saturation: Strength of saturation changes, as for `brightness`.
        hue: Strength a; the shift is uniform in [-a, a], in turns of the color wheel.
        jitter_probability: Probability that the four operations above are applied to an image, in
            random order.
        gray_probability: Probability of conversion to grayscale.
        gray_first: Whether conversion to grayscale comes before the color jitter (v1 of the
            reference implementation) or after it (v2).
        blur_probability: Probability of Gaussian blur.
        blur_sigma: Smallest and largest standard deviation of the blur, in pixels.
        solarize_probability: Probability of solarization: values from a threshold on are inverted.
        solarize_threshold: This threshold, where 0 is black and 1 is white.
        noise_probability: Probability of Gaussian noise, which is independent for each pixel and
            channel.
        noise_std: Standard deviation of the noise, where 0 is black and 1 is white.

    Example:
        >>> RECIPES["v2"].blur_probability
        0.5
        >>> RECIPES["v1"].rgb_operations
        ['saturation', 'hue', 'gray']
    """

    crop_scale: tuple[float, float] = (0.2, 1.0)
    aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    quarter_turns: float = 0.0
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.4
    jitter_probability: float = 1.0
    gray_probability: float = 0.2
    gray_first: bool = True
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_probability: float = 0.0
    solarize_threshold: float = 0.5
    noise_probability: float = 0.0
    noise_std: float = 0.05

    @property
    def rgb_operations(self) -> list[str]:
        """Names of the operations in this recipe that are defined for RGB images only."""
        jitters = self.jitter_probability > 0
        amounts = {
            "saturation": self.saturation * jitters,
            "hue": self.hue * jitters,
            "gray": self.gray_probability,
        }
        return [name for name, amount in amounts.items() if amount > 0]

    def without_rgb_operations(self) -> "Recipe":
        """Return this recipe without its RGB operations, for images with any channels."""
        return dataclasses.replace(self, saturation=0.0, hue=0.0, gray_probability=0.0)

    @property
    def changes_orientation(self) -> bool:
        """Whether this recipe has vertical flips or quarter turns."""
        return self.vertical_flip > 0 or self.quarter_turns > 0


# A run directory holds the name of its preset, so the numbers of a preset never change.
RECIPES = {
    # MoCo v1, section 3.3; the same as InstDisc's.
    "v1": Recipe(),
    # MoCo v2, Table 1's "aug+".
    "v2": Recipe(hue=0.1, jitter_probability=0.8, gray_first=False, blur_probability=0.5),
    # The reference implementation's recipe for CIFAR-10, without blur.
    "cifar10": Recipe(crop_scale=(0.08, 1.0), hue=0.1, jitter_probability=0.8, gray_first=False),
    # Images without an up direction, such as overhead images and microscopy. Their colors are
    # often what distinguishes them, so they change little.
    "any_orientation": Recipe(
        vertical_flip=0.5,
        quarter_turns=1.0,
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
        hue=0.05,
        jitter_probability=0.8,
        gray_probability=0.1,
        gray_first=False,
    ),
}

RGB_SETTINGS = ("saturation", "hue", "gray_probability")
# Settings that have an effect only if the operation has a probability greater than 0.
STRENGTHS = {
    "jitter_probability": ("brightness", "contrast", "saturation", "hue"),
    "blur_probability": ("blur_sigma",),
    "solarize_probability": ("solarize_threshold",),
    "noise_probability": ("noise_std",),
}


def from_config(config: ml_collections.ConfigDict) -> Recipe:
    """Return the recipe that a config describes: its preset, with the numbers that it changes.

    Args:
        config: A config with the keys of `moco_tf.default_config`.

    Returns:
        The preset `config.augmentation` with those of `config.augment` that are not None, and
        without RGB operations if `config.rgb_operations` is False.

    Example:
        >>> import moco_tf
        >>> config = moco_tf.default_config()
        >>> config.augmentation, config.augment.hue = "v2", 0.2
        >>> recipe = from_config(config)
        >>> recipe.hue, recipe.blur_probability
        (0.2, 0.5)
    """
    recipe = dataclasses.replace(RECIPES[config.augmentation], **changes(config))
    return recipe if config.rgb_operations else recipe.without_rgb_operations()


def changes(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the settings `config.augment` that are not None, without their prefix."""
    return {name: value for name, value in config.augment.items() if value is not None}


def describe(config: ml_collections.ConfigDict) -> str:
    """Return the name of a config's preset and what the config changes of it.

    Example:
        >>> import moco_tf
        >>> config = moco_tf.default_config()
        >>> config.augment.hue, config.augment.blur_sigma = 0.2, (0.1, 1.0)
        >>> describe(config)
        'v1 with blur_sigma 0.1 to 1, hue 0.2'
    """
    parts = [
        f"{name} {' to '.join(f'{number:g}' for number in value)}"
        if isinstance(value, tuple)
        else f"{name} {value:g}"
        for name, value in sorted(changes(config).items())
    ]
    return f"{config.augmentation} with {', '.join(parts)}" if parts else config.augmentation
