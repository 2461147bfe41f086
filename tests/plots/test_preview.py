"""A preview names the operations of each view, with those that the config adds to its preset."""

import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import run_data, run_directory
from moco_tf.config import default_config
from moco_tf.data import sources
from moco_tf.data.normalization import MEAN, STD
from moco_tf.data.views import describe_orientation
from moco_tf.errors import UserError
from moco_tf.plots import run
from moco_tf.seeds import seed_for
from moco_tf.training.build import build_augment, build_data
from moco_tf.training.preview import preview
from tests.images import write_folder

ROWS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "photos", images_per_class=6, side=60)


def config_of(folder, preset="any_orientation", **changes):
    config = default_config()
    config.data.source = f"folder:{folder}"
    config.update(augmentation=preset, image_size=24, batch_size=ROWS, bn_groups=2)
    config.augment.update(changes)
    return config


@pytest.fixture
def plotted(figures):
    """A function that returns a preview, and the titles and pictures of the views in each row."""

    def plot(config):
        tf.config.run_functions_eagerly(True)  # To compile it would take longer.
        try:
            preview(config, "preview.png")
        finally:
            tf.config.run_functions_eagerly(False)
        [figure] = figures
        titles = [axes.get_title() for axes in figure.axes]
        pictures = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
        rows = [slice(3 * row + 1, 3 * row + 3) for row in range(ROWS)]
        return figure, [titles[row] for row in rows], [pictures[row] for row in rows]

    return plot


def names(title):
    """Return the names of the operations in the title of a view."""
    _, *lines = title.split("\n")
    return [name for line in lines for name in line.split(", ") if name]


def test_preview_names_flips_turns_solarization_and_noise(folder, plotted):
    config = config_of(folder, solarize_probability=0.5, noise_probability=0.5, noise_std=0.1)
    figure, titles, pictures = plotted(config)
    assert figure.get_suptitle().endswith(
        "augmentation any_orientation with noise_probability 0.5, noise_std 0.1, "
        "solarize_probability 0.5"
    )
    source, batches = build_data(config)
    augment = build_augment(config, channels=3)
    views = next(batches.between(0, 1).as_numpy_iterator())
    all_names = set()
    for column, name in enumerate(("query", "key")):
        seed = seed_for(f"{name}_view", config.seed, 0)
        tf.config.run_functions_eagerly(True)
        try:
            augmented = augment(views[column], tf.range(ROWS), ROWS, seed).numpy() * STD + MEAN
        finally:
            tf.config.run_functions_eagerly(False)
        draws = augment.draws(ROWS, seed)
        for row, index in enumerate(batches.rows(0)[1][:ROWS]):
            crop = batches.view_draws(0, int(index))[column]
            expected = describe_orientation(batches.recipe, crop) + augment.describe(draws[row])
            assert names(titles[row][column]) == expected
            shown = pictures[row][column]
            np.testing.assert_allclose(shown, np.clip(augmented[row], 0, 1), atol=1e-5)
            all_names |= {name.rstrip("0123456789.°") for name in expected}
    assert {"horizontal flip", "vertical flip", "turn "} <= all_names
    assert {"solarize ", "noise "} <= all_names


def test_preview_shows_what_was_switched_off(folder, plotted):
    changes = dict(horizontal_flip=0, jitter_probability=0, gray_probability=0)
    _, titles, pictures = plotted(config_of(folder, "v1", crop_scale=(1, 1), **changes))
    assert [names(title) for row in titles for title in row] == [[]] * 2 * ROWS
    for query, key in pictures:  # Nothing random is left.
        np.testing.assert_array_equal(query, key)


def test_crops_have_the_chosen_scale_and_aspect_ratio(folder, plotted):
    figure, _, _ = plotted(config_of(folder, crop_scale=(0.1, 0.2), aspect_ratio=(2, 3)))
    frames = [frame for axes in figure.axes for frame in axes.patches]
    assert len(frames) == 2 * ROWS
    for frame in frames:
        assert 1.8 < frame.get_width() / frame.get_height() < 3.3
        assert 0.09 < frame.get_width() * frame.get_height() / 60**2 < 0.22


def test_substitute_has_a_title_of_its_own_and_is_named_in_a_line(
    folder, tmp_path, plotted, capsys
):
    damaged = shutil.copytree(folder, tmp_path / "photos")
    config = config_of(damaged)
    source, batches = build_data(config)
    index = int(batches.rows(0)[1][2])
    path = pathlib.Path(source.describe(index))
    path.write_text("not an image")
    figure, _, _ = plotted(config)
    titles = [axes.get_title() for axes in figure.axes[::3]]
    replacement, _ = batches.read(tf.constant(0, tf.int64), tf.constant(index, tf.int64))
    name = pathlib.Path(source.describe(int(replacement))).name
    assert titles[2] == f"{path.name} cannot be read,\nso {name} replaces it"
    assert not any("cannot be read" in title for title in titles[:2] + titles[3:])
    line = f"the preview skipped 1 of {ROWS} images that cannot be read: {path}\n"
    assert line in capsys.readouterr().out


def test_preview_stops_at_an_image_that_cannot_be_read_if_it_is_to_fail(folder, tmp_path):
    damaged = shutil.copytree(folder, tmp_path / "photos")
    config = config_of(damaged)
    config.data.on_error = "fail"
    source, batches = build_data(config)
    path = source.describe(int(batches.rows(0)[1][-1]))
    pathlib.Path(path).write_text("not an image")
    with pytest.raises(UserError, match=f"{path} cannot be read as an image: remove it, or set"):
        preview(config, str(tmp_path / "views.png"))
    assert not (tmp_path / "views.png").exists()


def test_preview_refuses_settings_that_do_not_fit_the_devices(folder, tmp_path, two_replicas):
    config = config_of(folder)
    config.bn_groups = 1
    config.shuffle_bn = False
    with (
        two_replicas.scope(),
        pytest.raises(UserError, match="bn_groups=1 cannot be split equally among 2 devices"),
    ):
        preview(config, str(tmp_path / "views.png"))


def test_preview_of_a_run_has_the_values_that_the_run_measured(folder, tmp_path, monkeypatch):
    previewed = []
    monkeypatch.setattr(run, "plot_preview", lambda path, config, *others: previewed.append(config))
    config = config_of(folder)
    config.data.mean = "measure"
    saved = config.copy_and_resolve_references()
    saved.data.mean = "0.1,0.2,0.3"
    run_directory.open_for_training(
        str(tmp_path / "run"), saved, run_data.of_source(sources.load(config.data.source))
    )
    preview(config, str(tmp_path / "views.png"), str(tmp_path / "run"))
    preview(config, str(tmp_path / "views.png"))
    of_run, of_images = previewed
    assert of_run.data.mean == "0.1,0.2,0.3"
    assert of_images.data.mean != "measure"
    assert of_images.data.mean != "0.1,0.2,0.3"
