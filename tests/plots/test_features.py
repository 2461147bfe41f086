"""Plots of an evaluation show the images and the numbers of the evaluation."""

import matplotlib.colors
import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import sources
from moco_tf.data.views import central_view
from moco_tf.evaluation import knn
from moco_tf.evaluation.features import Features
from moco_tf.plots import features
from tests.images import write_folder


@pytest.fixture
def source(tmp_path):
    return sources.load(f"folder:{write_folder(tmp_path / 'images', images_per_class=20)}")


def random_features(source, indices, seed):
    values = np.random.default_rng(seed).normal(size=[len(indices), 8]).astype(np.float32)
    return Features(values, indices, source.labels[indices], 2)


def test_neighbors_are_the_nearest_training_images(source, figures):
    train = random_features(source, source.train, seed=0)
    test = random_features(source, source.test, seed=1)
    features.plot_neighbors("neighbors.png", source, 32, train, test, rows=4, columns=3)
    [figure] = figures
    assert source.name in figure.get_suptitle()
    rows = np.reshape(figure.axes, [4, 4])

    def assert_shows(axes, index):
        image = central_view(source.read(tf.constant(index, tf.int64)), 32).numpy()
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
        assert source.class_names[source.labels[index]] in axes.get_title()

    queries = np.arange(4) * len(source.test) // 4  # Evenly spaced.
    nearest, similarities = knn.nearest(train.features, test.features[queries], 3)
    for row, query in enumerate(source.test[queries]):
        assert_shows(rows[row, 0], query)
        for axes, neighbor, similarity in zip(
            rows[row, 1:], source.train[nearest[row]], similarities[row], strict=True
        ):
            assert_shows(axes, neighbor)
            assert f"{similarity:.3f}" in axes.get_title()
            is_red = matplotlib.colors.same_color(axes.title.get_color(), "crimson")
            assert is_red == (source.labels[neighbor] != source.labels[query])


def test_fewer_images_than_rows_and_columns_are_all_shown(source, figures):
    train = random_features(source, source.train[:2], seed=0)
    test = random_features(source, source.test[:3], seed=1)
    features.plot_neighbors("neighbors.png", source, 32, train, test)
    [figure] = figures
    assert len(figure.axes) == 3 * (1 + 2)


def test_comparison_has_a_line_for_each_curve(figures):
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
    assert features.plot_comparison("comparison.png", result) == "comparison.png"
    [figure] = figures
    for fact in ("folder:mine", "10 %", "1,234 training images"):
        assert fact in figure.get_suptitle()
    for axes, key in zip(figure.axes, ("top1", "top5"), strict=True):
        assert key.replace("top", "top-") in axes.get_title()
        for line, curve in zip(axes.lines, curves, strict=True):
            assert list(line.get_xdata()) == [1, 2, 3]
            expected = [100 * point[key] for point in curve["curve"]]
            np.testing.assert_allclose(line.get_ydata(), expected)
        # A color for each initialization, and a line style for each choice of layers.
        assert [line.get_color() for line in axes.lines] == ["C0", "C0", "C1", "C1"]
        assert [line.get_linestyle() for line in axes.lines] == ["--", "-", "--", "-"]
    [legend] = figure.legends
    names = [text.get_text().partition(":")[0] for text in legend.get_texts()]
    assert names == ["random", "ours", "random", "ours"]
