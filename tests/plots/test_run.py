"""Plots of a run show the images that it trains on and the metrics that it measured."""

import json
import math

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from moco_tf import run_directory
from moco_tf.config import default_config
from moco_tf.data.augment import Augment
from moco_tf.data.normalization import MEAN, STD
from moco_tf.data.recipes import RECIPES
from moco_tf.errors import UserError
from moco_tf.plots import run
from moco_tf.run_data import RunData
from moco_tf.seeds import seed_for
from moco_tf.training.build import build_augment, build_data
from moco_tf.training.preview import preview
from tests import in_process
from tests.images import patch, write_folder

SIZE = 48
GRAY = "gray"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("images") / "photos", images_per_class=3, side=80)
    config = default_config()
    config.data.source = f"folder:{folder}"
    config.augmentation, config.image_size = "v1", SIZE
    config.batch_size, config.bn_groups = 6, 2
    return config


@pytest.fixture(scope="module")
def views(config):
    """The views of the first step, before and after the augmentation: two arrays each."""
    _, batches = build_data(config)
    cropped = next(batches.between(0, 1).as_numpy_iterator())
    augment = build_augment(config, channels=3)
    augmented = [
        augment(images, tf.range(6), 6, seed_for(f"{name}_view", config.seed, 0)).numpy()
        for name, images in zip(("query", "key"), cropped, strict=True)
    ]
    return cropped, augmented, augment


@pytest.fixture(scope="module")
def preview_axes(config, views):
    """The axes of a preview: for each image those of the original and of its two views."""
    source, batches = build_data(config)
    _, _, augment = views
    figures = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "save_figure", lambda figure, path: figures.append(figure))
        run.plot_preview("preview.png", config, source, batches, augment)
    [figure] = figures
    return [figure.axes[i : i + 3] for i in range(0, 18, 3)]


def image_in(axes):
    return np.asarray(axes.images[0].get_array())


def test_preview_shows_the_views_of_the_first_step(views, preview_axes):
    _, augmented, _ = views
    for column, images in enumerate(augmented, start=1):
        for row, image in enumerate(images):
            expected = np.clip(image * STD + MEAN, 0, 1)
            np.testing.assert_allclose(image_in(preview_axes[row][column]), expected, atol=1e-5)


def test_preview_frames_the_crops_and_labels_the_flipped_views(views, preview_axes):
    cropped, _, _ = views
    num_flipped = 0
    for row, (original, *augmented) in enumerate(preview_axes):
        for frame, view, axes in zip(original.patches, cropped, augmented, strict=True):
            x, y = np.add(frame.get_xy(), 0.5)
            box = (x, y, x + frame.get_width(), y + frame.get_height())
            image = PIL.Image.fromarray(image_in(original)).crop(box)
            expected = np.asarray(image.resize((SIZE, SIZE), PIL.Image.Resampling.BILINEAR))
            flipped = "horizontal flip" in axes.get_title()
            num_flipped += flipped
            expected = expected[:, ::-1] if flipped else expected
            # Pillow resamples with slightly different weights.
            assert np.abs(view[row].astype(int) - expected).mean() < 1.2
    assert 0 < num_flipped < 12


@pytest.mark.parametrize("name", RECIPES)
def test_description_of_a_view_lists_the_operations_that_were_applied(name):
    augment, count = Augment(RECIPES[name]), 200
    draws = augment.draws(count, [3, 4]).numpy()
    images = np.stack([patch()] * count)  # The patch has many colors.
    tf.config.run_functions_eagerly(True)  # To compile it would take longer.
    try:
        results = augment(images, tf.range(count), count, [3, 4]).numpy() * STD + MEAN
    finally:
        tf.config.run_functions_eagerly(False)
    operations = set()
    for image, result, draw in zip(images / 255, results, draws, strict=True):
        description = augment.describe(draw)
        # A hue shift keeps gray images gray; only grayscale makes a colored image gray.
        is_gray = np.abs(result - result.mean(axis=2, keepdims=True)).max() < 1e-3
        assert is_gray == (GRAY in description)
        assert np.allclose(result, image, atol=1e-5) == (not description)
        operations |= {operation.split()[0] for operation in description}
    expected = {"brightness", "contrast", "saturation", "hue", GRAY}
    assert operations == expected | ({"blur"} if name == "v2" else set())


@pytest.mark.slow
def test_preview_is_written_by_the_script_without_a_run(config, tmp_path):
    path = tmp_path / "preview.png"
    output = in_process.run(
        "train.py",
        "--config=configs/imagenet_v1.py",
        f"--config.data.source={config.data.source}",
        "--config.image_size=48",
        "--config.batch_size=6",
        "--config.bn_groups=2",
        f"--preview={path}",
    )
    assert str(path) in output
    with PIL.Image.open(path) as image:
        assert image.format == "PNG"
    assert [entry.name for entry in tmp_path.iterdir()] == ["preview.png"]


def test_preview_at_an_unwritable_path_is_refused(config, monkeypatch):
    def fail(*args):
        raise OSError(2, "No such file or directory")

    monkeypatch.setattr("moco_tf.plots.run.plot_preview", fail)
    with pytest.raises(UserError, match="missing/preview.png cannot be written: No such file"):
        preview(config, "missing/preview.png")


@pytest.mark.parametrize(
    ("mechanism", "queue_size", "formula", "num_keys"),
    [
        ("moco", 4096, "ln(K+1)", 4097),
        ("memory_bank", 4096, "ln(K+1)", 4097),
        ("end_to_end", 0, "ln(N)", 256),
    ],
)
def test_curves_state_the_chance_level_of_each_mechanism(
    tmp_path, figures, mechanism, queue_size, formula, num_keys
):
    config = default_config()
    config.update({"mechanism": mechanism, "queue_size": queue_size, "data": {"source": "photos"}})
    run_directory.open_for_training(str(tmp_path), config, RunData(1000))
    run.plot_curves(str(tmp_path))
    loss, accuracy, *_ = figures[0].axes
    chance = loss.lines[1]
    np.testing.assert_allclose(chance.get_ydata(), math.log(num_keys))
    assert f"{formula} = {math.log(num_keys):.2f}" in chance.get_label()
    assert f"among {num_keys:,} keys" in accuracy.get_title()


def test_curves_are_those_of_the_metrics(tmp_path, figures):
    config = default_config()
    config.data.source = "photos"
    run_directory.open_for_training(str(tmp_path), config, RunData(1000))
    lines = [
        {"step": 1, "loss": 8.0, "contrastive_top1": 0.1, "contrastive_top5": 0.2},
        {"step": 1, "knn_top1": 0.3, "effective_rank": 12.5}
        | {"alignment": 0.2, "uniformity": -1.5, "feature_std": 0.6, "dead_dimensions": 0.1},
        {"step": 2, "loss": 7.0, "contrastive_top1": 0.4, "contrastive_top5": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run.plot_curves(str(tmp_path)) == str(tmp_path / "curves.png")
    loss, accuracy, knn, rank, distances, spread = figures[0].axes
    for line, steps, values in (
        (loss.lines[0], [1, 2], [8.0, 7.0]),
        (accuracy.lines[0], [1, 2], [0.1, 0.4]),
        (accuracy.lines[1], [1, 2], [0.2, 0.5]),
        (knn.lines[0], [1], [0.3]),
        (rank.lines[0], [1], [12.5]),
        (distances.lines[0], [1], [0.2]),
        (distances.lines[1], [1], [-1.5]),
        (spread.lines[0], [1], [0.6]),
        (spread.lines[1], [1], [0.1]),
    ):
        np.testing.assert_array_equal(line.get_data(), [steps, values])
