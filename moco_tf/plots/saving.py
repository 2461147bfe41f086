"""Figures as PNG files."""

import warnings

import matplotlib.figure
import matplotlib.text
import tensorflow as tf


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
