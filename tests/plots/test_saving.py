"""Figures that are saved as PNG files, whatever text they have."""

import matplotlib.figure
import numpy as np
import PIL.Image

from moco_tf.plots.saving import save_figure


def test_figure_is_saved_as_png(tmp_path):
    path = str(tmp_path / "figure.png")
    assert save_figure(matplotlib.figure.Figure(figsize=(6, 4)), path) == path
    with PIL.Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) > 400


def titled(title, path):
    figure = matplotlib.figure.Figure(figsize=(4, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([1, 2], label=title)
    axes.legend()
    axes.set_title(title)
    figure.suptitle(title)
    save_figure(figure, str(path))
    with PIL.Image.open(path) as image:
        return np.asarray(image)


def test_names_are_not_mathematics(tmp_path):
    titled(r"$\frac{$", tmp_path / "invalid.png")  # A syntax error, were it mathematics.
    escaped = matplotlib.figure.Figure(figsize=(4, 3))
    escaped.text(0.1, 0.5, r"\$x^2\$", parse_math=True)
    escaped.savefig(tmp_path / "escaped.png", dpi=110)
    literal = matplotlib.figure.Figure(figsize=(4, 3))
    literal.text(0.1, 0.5, "$x^2$")
    save_figure(literal, str(tmp_path / "literal.png"))
    images = [PIL.Image.open(tmp_path / f"{name}.png") for name in ("escaped", "literal")]
    np.testing.assert_array_equal(*map(np.asarray, images))


def test_characters_that_the_font_lacks_cause_no_warning(tmp_path, recwarn):
    titled("\N{CAT FACE} \u5024", tmp_path / "cat.png")
    assert not recwarn.list
