"""How images with any number of channels are shown, and how figures are saved."""

import matplotlib.figure
import numpy as np
import PIL.Image
import pytest

from moco_tf.plots.images import channels_note, save_figure, visible


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2])])
def test_visible_channels_of_up_to_three(channels, shown):
    image = np.random.default_rng(0).integers(0, 256, [4, 5, channels], np.uint8)
    result = visible(image)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, image[..., shown])


def test_visible_channels_of_more_than_three_are_the_first_three():
    image = np.random.default_rng(0).uniform(size=[4, 5, 7])
    np.testing.assert_array_equal(visible(image), image[..., :3])


def test_note_states_which_channels_are_not_shown():
    assert channels_note(1) == channels_note(3) == ""
    assert "first of 2 channels" in channels_note(2)
    assert "first 3 of 7 channels" in channels_note(7)


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
