"""Helpers of all plots, which show an image and save a figure."""

import warnings

import matplotlib.figure
import matplotlib.text
import numpy as np
import tensorflow as tf

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


def save_figure(figure: matplotlib.figure.Figure, path: str) -> str:
    """Save a figure as a PNG file and return its path.

    No text in it is read as mathematics or TeX, because it may have names of files or classes,
    such as `a$b$c`. A character that the font lacks is shown as a box.
    """
    for text in figure.findobj(matplotlib.text.Text):
        text.set_parse_math(False)
        text.set_usetex(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        _write_png(figure, path)
    return path


def _write_png(figure: matplotlib.figure.Figure, path: str) -> None:
    with tf.io.gfile.GFile(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)
