"""What the pixel values of images are, and how they become the numbers that a network takes.

This module loads without TensorFlow, because the checks of a config depend on it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from moco_tf.data.normalization import mean_and_std
from moco_tf.errors import UserError

DTYPES = ("uint8", "uint16", "float32")
AUTO, MEASURE, IMAGENET = "auto", "measure", "imagenet"
# The whole range of each integer type. Floats have none that would be of use.
WHOLE_RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}
BYTES = WHOLE_RANGES["uint8"]
# The settings that `MEASURE` is a value of.
MEASURABLE = ("value_range", "mean", "std")


@dataclasses.dataclass(frozen=True)
class Form:
    """What the images of a source have in common.

    Attributes:
        dtype: Type of the pixel values: `"uint8"`, `"uint16"` or `"float32"`.
        channels: Number of channels.
        orientation: Whether images are turned as their EXIF orientation says.
    """

    dtype: str = "uint8"
    channels: int = 3
    orientation: bool = False


RGB = Form()


@dataclasses.dataclass(frozen=True)
class Pixels:
    """How the pixel values of images become the numbers that a network takes.

    A value range is mapped to [0, 1], to which values outside of the range are clipped. Then the
    mean is subtracted, and the result is divided by the standard deviation.

    Attributes:
        mean: Mean of each channel, where 0 and 1 are the ends of the value range.
        std: Standard deviation of each channel, as for `mean`.
        dtype: Type of the pixel values, one of `DTYPES`.
        value_range: The values that are mapped to 0 and to 1.

    Example:
        >>> pixels = Pixels((0.5,), (0.25,), "uint16", (0.0, 4095.0))
        >>> pixels.values
        '[0, 4095]; values outside are clipped'
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str = "uint8"
    value_range: tuple[float, float] = BYTES

    @property
    def are_bytes(self) -> bool:
        """Whether the values are bytes in their whole range, as of most images."""
        return self.dtype == "uint8" and self.value_range == BYTES

    @property
    def values(self) -> str:
        """The value range in words, for model cards."""
        return f"[{range_text(self)}]" + ("" if self.are_bytes else "; values outside are clipped")

    def scale_and_offset(self) -> tuple[list[float], list[float]]:
        """Return the normalization as `x * scale + offset` for values in the value range.

        Returns:
            Two lists of a float for each channel, the scales and the offsets.

        Example:
            >>> scale, offset = default(3).scale_and_offset()
            >>> round(255 * 0.485 * scale[0] + offset[0], 6)
            0.0
        """
        low, high = self.value_range
        scale = [1 / ((high - low) * std) for std in self.std]
        offset = [
            (-low / (high - low) - mean) / std
            for mean, std in zip(self.mean, self.std, strict=True)
        ]
        return scale, offset


def default(channels: int) -> Pixels:
    """Return the pixels of images with 8 bits per channel, with the usual mean and deviation."""
    return Pixels(*mean_and_std(channels))


def range_text(pixels: Any) -> str:
    """Return a value range as it is written in a setting.

    Args:
        pixels: An object with a `value_range`, such as a `Pixels` or a `Source`.

    Example:
        >>> range_text(default(3))
        '0, 255'
    """
    return ", ".join(number_text(value) for value in pixels.value_range)


def same_range(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return whether two value ranges are the same but for their last digits, as from a file.

    Example:
        >>> same_range((0.0, 0.123456789012), (0.0, 0.123456789)), same_range((0, 255), (0, 1))
        (True, False)
    """
    return all(math.isclose(*pair, rel_tol=1e-6) for pair in zip(first, second, strict=True))


def number_text(value: float) -> str:
    """Return a number in the fewest digits that give the same number when they are read."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


def rounded(value: float) -> float:
    """Return a number that layers have computed with, without the error of its last digits."""
    return float(f"{value:.9g}")


def from_config(config: ml_collections.ConfigDict, channels: int) -> Pixels:
    """Return the pixels of the images of a run.

    Args:
        config: Config of the run, in which nothing is left to measure.
        channels: Number of channels of its images.

    Raises:
        UserError: If a setting is invalid, or does not fit the number of channels.
    """
    data = config.data
    dtype, value_range = data.pixels, parse_range(data.value_range, data.pixels)
    assert value_range is not None, "the value range has not been measured"
    mean, std = mean_and_std(channels)
    if data.mean != IMAGENET:
        mean = _per_channel("mean", data.mean, channels)
    if data.std != IMAGENET:
        std = _per_channel("std", data.std, channels)
    return Pixels(mean, std, dtype, value_range)


def of_images(pixels: Pixels, images: Any) -> Pixels:
    """Return pixels with the type and the value range of images, and the mean that they have.

    Args:
        pixels: The pixels.
        images: An object with a `dtype` and a `value_range`, such as a `Source`.
    """
    return dataclasses.replace(pixels, dtype=images.dtype, value_range=images.value_range)


def to_json(pixels: Pixels) -> dict[str, Any]:
    """Return pixels as the values of a JSON object."""
    return dataclasses.asdict(pixels)


def from_json(values: Mapping[str, Any]) -> Pixels:
    """Return the pixels that `to_json` was called with.

    Raises:
        TypeError: If the values are others.
    """
    changed = {name: tuple(values[name]) for name in ("mean", "std", "value_range")}
    return Pixels(**{**values, **changed})


def unmeasured(config: ml_collections.ConfigDict) -> list[str]:
    """Return the names of the settings of a config's data that have to be measured."""
    return [name for name in MEASURABLE if config.data[name] == MEASURE]


def check(config: ml_collections.ConfigDict) -> None:
    """Check the settings of a config that are about pixel values.

    Raises:
        UserError: For the first mistake.
    """
    parse_range(config.data.value_range, config.data.pixels)
    for name in ("mean", "std"):
        value = config.data[name]
        if value in (IMAGENET, MEASURE):
            continue
        numbers = _numbers(value)
        is_valid = bool(numbers) and (name == "mean" or min(numbers) > 0)
        if not is_valid:
            kind = "numbers" if name == "mean" else "numbers greater than 0"
            raise UserError(
                f"config.data.{name}={value!r}: use {IMAGENET}, {MEASURE}, or {kind} separated by "
                "commas, one or as many as there are channels, where 0 and 1 are the ends of the "
                "value range"
            )


def parse_range(text: str, dtype: str) -> tuple[float, float] | None:
    """Return the value range that a setting names, or None if it has to be measured.

    Args:
        text: The setting: `"auto"`, `"measure"`, or two numbers, such as `"0,4095"`.
        dtype: Type of the pixel values.

    Raises:
        UserError: If the text is none of these, or the type has no range of its own.

    Example:
        >>> parse_range("auto", "uint16"), parse_range("-1000, 400", "float32")
        ((0.0, 65535.0), (-1000.0, 400.0))
    """
    if text == MEASURE:
        return None
    if text == AUTO:
        if dtype in WHOLE_RANGES:
            return WHOLE_RANGES[dtype]
        raise UserError(
            f"config.data.pixels={dtype} has no value range of its own: set "
            "config.data.value_range to the values of black and white, such as -1000,400, or to "
            f"{MEASURE}"
        )
    numbers = _numbers(text)
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise UserError(
            f"config.data.value_range={text!r}: use {AUTO}, {MEASURE}, or the values of black and "
            "white, the smaller one first, such as 0,4095"
        )
    return numbers[0], numbers[1]


def _numbers(text: str) -> list[float]:
    """Return the finite numbers in a text, or none if it holds anything else."""
    try:
        numbers = [float(part) for part in str(text).split(",")]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def _per_channel(name: str, text: str, channels: int) -> tuple[float, ...]:
    numbers: Sequence[float] = _numbers(text)
    if len(numbers) == 1:
        return (*numbers,) * channels
    if len(numbers) != channels:
        raise UserError(
            f"config.data.{name}={text!r} has {len(numbers)} numbers, but the images have "
            f"{channels} channels: use one number, or {channels}"
        )
    return tuple(numbers)
