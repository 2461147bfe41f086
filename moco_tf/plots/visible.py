"""The channels of an image that a picture can show."""

import numpy as np
import tensorflow as tf

from moco_tf.data.photometric import to_levels
from moco_tf.data.sources.source import Source


def visible(image: np.ndarray) -> np.ndarray:
    """Return the part of an image that a picture can show.

    Args:
        image: `[H, W, C]`, uint8 or floats in [0, 1].

    Returns:
        `[H, W, 3]` of the same type: the first channel in gray if there are one or two, and the
        first three as red, green and blue otherwise.
    """
    return image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)


def shown(image: tf.Tensor, source: Source) -> np.ndarray:
    """Return the part of an image of a source that a picture can show.

    Args:
        image: `[H, W, C]`, with values in the value range of the source.
        source: The source.

    Returns:
        uint8 `[H, W, 3]`, as `visible`.
    """
    levels = np.asarray(to_levels(image, source.value_range))
    return visible(np.round(np.clip(levels, 0, 255)).astype(np.uint8))


def channels_note(channels: int) -> str:
    """Return a sentence that says which channels `visible` shows, or "" for one and for three."""
    if channels == 2:
        return "Only the first of 2 channels is shown, in gray."
    if channels > 3:
        return f"Only the first 3 of {channels} channels are shown, as red, green and blue."
    return ""


def title_with_note(title: str, source: Source) -> str:
    """Return a figure's title with `channels_note` on a line of its own where it is needed."""
    return "\n".join(filter(None, [title, channels_note(source.channels)]))
