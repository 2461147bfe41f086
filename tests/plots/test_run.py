"""The pictures: that what they show, and say, is what a run trains on and what was measured."""

import matplotlib.figure
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from moco_tf.config import default_config
from moco_tf.data.augment import Augment
from moco_tf.data.normalization import MEAN, STD
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.recipes import RECIPES
from moco_tf.plots import features, run
from moco_tf.seeds import seed_for
from moco_tf.training.build import build_data
from moco_tf.training.run import preview
from tests import in_process
from tests.images import patch, write_folder

SIZE = 48


@pytest.fixture
def config(tmp_path):
    config = default_config()
    config.data.source = f"folder:{write_folder(tmp_path / 'images', each=3, side=80)}"
    config.augmentation, config.image_size = "v2", SIZE
    config.batch_size, config.bn_groups = 6, 2
    return config


@pytest.fixture
def drawn(config, tmp_path, monkeypatch):
    """The figure of a preview."""
    figures = []
    for module in (run, features):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.append(figure))
    preview(config, str(tmp_path / "preview.png"))
    [figure] = figures
    assert isinstance(figure, matplotlib.figure.Figure)
    return [figure.axes[i : i + 3] for i in range(0, 18, 3)]


def shown(axes):
    return np.asarray(axes.images[0].get_array())


def test_the_views_shown_are_those_of_the_first_step(config, drawn):
    source, batches = build_data(config)
    assert isinstance(batches, TwoViews)
    views = next(batches.between(0, 1).as_numpy_iterator())
    for column, (name, images) in enumerate(zip(("query", "key"), views, strict=True), start=1):
        seed = seed_for(f"{name}_view", config.seed, 0)
        augmented = Augment(RECIPES["v2"])(images, tf.range(6), 6, seed).numpy()
        for row in range(6):
            expected = np.clip(augmented[row] * STD + MEAN, 0, 1)
            np.testing.assert_allclose(shown(drawn[row][column]), expected, atol=1e-5)


def test_the_frames_are_the_crops_and_a_mirrored_one_says_so(config, drawn):
    _, batches = build_data(config)
    views = next(batches.between(0, 1).as_numpy_iterator())
    mirrored = 0
    for row, (original, *augmented) in enumerate(drawn):
        for frame, view, axes in zip(original.patches, views, augmented, strict=True):
            x, y = np.add(frame.get_xy(), 0.5)
            box = (x, y, x + frame.get_width(), y + frame.get_height())
            image = PIL.Image.fromarray(shown(original)).crop(box)
            expected = np.asarray(image.resize((SIZE, SIZE), PIL.Image.Resampling.BILINEAR))
            flipped = "flipped" in axes.get_title()
            mirrored += flipped
            expected = expected[:, ::-1] if flipped else expected
            assert np.abs(view[row].astype(int) - expected).mean() < 1.2  # see resample
    assert 0 < mirrored < 12


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_said_of_a_view_is_what_was_done(name):
    augment, count = Augment(RECIPES[name]), 200
    draws = augment.draws(count, [3, 4]).numpy()
    images = np.stack([patch()] * count)  # of many colours
    found = augment(images, tf.range(count), count, [3, 4]).numpy() * STD + MEAN
    kinds = set()
    for image, result, words in zip(images / 255, found, map(augment.describe, draws), strict=True):
        grey = np.abs(result - result.mean(axis=2, keepdims=True)).max() < 1e-3
        # A shift of the hue makes grey stay grey; nothing but "grey" makes it so.
        assert grey == ("grey" in words)
        assert np.allclose(result, image, atol=1e-5) == (not words)
        kinds |= {word.split()[0] for word in words}
    expected = {"brightness", "contrast", "saturation", "hue", "grey"}
    assert kinds == expected | ({"blur"} if name == "v2" else set())


def test_the_script_draws_and_ends(config, tmp_path):
    path = tmp_path / "preview.png"
    overrides = ["--config.image_size=48", "--config.batch_size=6", "--config.bn_groups=2"]
    output = in_process.run(
        "train.py",
        "--config=configs/imagenet_v2.py",
        f"--config.data.source={config.data.source}",
        *overrides,
        f"--preview={path}",
    )
    assert output == f"wrote {path}\n"
    with PIL.Image.open(path) as picture:
        assert picture.format == "PNG" and min(picture.size) > 500
    assert not (tmp_path / "checkpoints").exists()


def test_the_curves_of_a_comparison_are_drawn(tmp_path, monkeypatch):
    curves = []
    for number, (name, layers) in enumerate(
        [("random", "head"), ("random", "all"), ("ours", "head"), ("ours", "all")]
    ):
        points = [
            {"epoch": epoch, "top1": 0.1 * number + 0.01 * epoch, "top5": 0.5 + 0.1 * number}
            for epoch in (1, 2, 3)
        ]
        curve = {"initialisation": name, "layers": layers, "curve": points}
        curves.append({**curve, "label_fraction": 0.1, "num_train": 1234})
    result = {"data": "folder:mine", "curves": curves}
    path = str(tmp_path / "comparison.png")
    assert features.plot_comparison(path, result) == path
    with PIL.Image.open(path) as picture:
        assert picture.format == "PNG" and min(picture.size) > 500

    figures = []
    for module in (run, features):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.append(figure))
    features.plot_comparison(path, result)
    [figure] = figures
    assert "folder:mine, 10 % of the labels: 1,234 training images" in figure.get_suptitle()
    for axes, key in zip(figure.axes, ("top1", "top5"), strict=True):
        assert len(axes.lines) == 4 and key.replace("top", "top-") in axes.get_title()
        for line, curve in zip(axes.lines, curves, strict=True):
            assert list(line.get_xdata()) == [1, 2, 3]
            expected = [100 * point[key] for point in curve["curve"]]
            np.testing.assert_allclose(line.get_ydata(), expected)
        looks = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
        assert len(set(looks)) == 4
        assert [color for color, _ in looks] == ["C0", "C0", "C1", "C1"]
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "random: all layers trained",
        "ours: all layers trained",
        "random: only the new layer trained",
        "ours: only the new layer trained",
    ]


def test_a_place_that_cannot_be_written_is_named(config, tmp_path):
    line = in_process.run_mistake(
        "train.py",
        "--config=configs/photos.py",
        f"--preview={tmp_path}/nowhere/preview.png",
    )
    assert f"--preview={tmp_path}/nowhere/preview.png cannot be written" in line
