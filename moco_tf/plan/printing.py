"""What a plan prints."""

import shlex
from collections.abc import Sequence
from typing import Any

import ml_collections

from moco_tf.data.pixels import BYTES, range_text
from moco_tf.plan.facts import Devices, Images


def table(config: ml_collections.ConfigDict, reasons: dict[str, str]) -> str:
    """Return the planned settings with their values and reasons, in aligned columns.

    Args:
        config: The config of the plan.
        reasons: The reason of each setting to list, by its key.
    """
    rows = [("setting", "value", "reason")]
    rows += [(key, value_text(config[key]), reason) for key, reason in reasons.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{key:{widths[0]}}  {value:{widths[1]}}  {why}" for key, value, why in rows)


def value_text(value: Any) -> str:
    """Return a value as it is written on the command line."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def facts(images: Images, devices: Devices) -> str:
    """Return lines about the images and the devices."""
    colors = "gray" if images.is_gray else f"{images.channels} channels"
    if not images.is_gray and images.channels == 3:
        colors = "color"
    if images.pixels != "uint8" or images.value_range != BYTES:
        colors += f", {images.pixels} values from {range_text(images).replace(', ', ' to ')}"
    sizes = _size(images.smallest)
    if images.smallest != images.largest:
        sizes += f" to {_size(images.largest)}"
    pairs = f"near-duplicates: {images.consecutive:.1%} of consecutive images, "
    pairs += f"{images.random:.1%} of random pairs"
    return (
        f"sample of {images.sampled:,} images: {sizes} pixels, {colors}; {pairs}\n"
        f"devices: {_devices(devices)}"
    )


def _size(size: tuple[int, int]) -> str:
    height, width = size
    return f"{width}x{height}"


def _devices(devices: Devices) -> str:
    memory = "unknown memory" if devices.memory is None else f"{devices.memory / 1e9:.1f} GB"
    if devices.replicas == 1:
        return f"{devices.names} with {memory}; {devices.cores} CPU cores"
    return f"{devices.replicas} x {devices.names} with {memory} each; {devices.cores} CPU cores"


def warning_lines(warnings: Sequence[str]) -> list[str]:
    """Return a line for each warning."""
    return [f"warning: {warning}" for warning in warnings]


def duration(seconds: float) -> str:
    """Return a duration in a readable unit.

    Example:
        >>> duration(90), duration(5400), duration(200_000)
        ('1.5 minutes', '1.5 hours', '2.3 days')
    """
    if seconds < 60:
        return f"{seconds:.0f} seconds"
    if seconds < 3600:
        return f"{seconds / 60:.2g} minutes"
    if seconds < 2 * 86_400:
        return f"{seconds / 3600:.2g} hours"
    return f"{seconds / 86_400:.2g} days"


def size(number: int) -> str:
    """Return a number of bytes in a readable unit.

    Example:
        >>> size(3_340_000), size(1_520_000_000)
        ('3.3 MB', '1.5 GB')
    """
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def command(program: str, arguments: Sequence[str]) -> str:
    """Return a command for the shell, with a backslash where a line is long."""
    words = [program, *map(shlex.quote, arguments)]
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) > 90:
            lines[-1] += " \\"
            lines.append("    " + word)
        else:
            lines[-1] += " " + word
    return "\n".join(lines)
