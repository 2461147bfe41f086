"""Augmentation recipes of the papers: operations with their probabilities and strengths."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The parameters of an augmentation, for its geometric and its photometric half.

    Attributes:
        crop_scale: Smallest and largest share of the image's area in a random resized crop.
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

    Example:
        >>> RECIPES["v2"].blur_probability
        0.5
        >>> RECIPES["v1"].rgb_operations
        ['saturation', 'hue', 'gray']
    """

    crop_scale: tuple[float, float] = (0.2, 1.0)
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.4
    jitter_probability: float = 1.0
    gray_probability: float = 0.2
    gray_first: bool = True
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)

    @property
    def rgb_operations(self) -> list[str]:
        """Names of the operations in this recipe that are defined for RGB images only."""
        amounts = {"saturation": self.saturation, "hue": self.hue, "gray": self.gray_probability}
        return [name for name, amount in amounts.items() if amount > 0]

    def without_rgb_operations(self) -> "Recipe":
        """Return this recipe without its RGB operations, for images with any channels."""
        return dataclasses.replace(self, saturation=0.0, hue=0.0, gray_probability=0.0)


RECIPES = {
    # MoCo v1, section 3.3; the same as InstDisc's.
    "v1": Recipe(),
    # MoCo v2, Table 1's "aug+".
    "v2": Recipe(hue=0.1, jitter_probability=0.8, gray_first=False, blur_probability=0.5),
    # The reference implementation's recipe for CIFAR-10, without blur.
    "cifar10": Recipe(crop_scale=(0.08, 1.0), hue=0.1, jitter_probability=0.8, gray_first=False),
}
