"""The figure and the tables of small data sets have the changes that the results have."""

import json

import pytest

from moco_tf.errors import UserError
from studies import small_data_figure
from studies.small_data_results import DataSet, Factor, data_sets

CONFIG = {
    "queue_size": 512,
    "momentum": 0.99,
    "bn_groups": 8,
    "batch_size": 128,
    "temperature": 0.1,
    "learning_rate": 0.24,
    "steps": 1000,
    "image_size": 14,
}


def run(name, settings, knn, linear, seed=0):
    accuracies = {"knn_top1": knn, "linear_top1": linear}
    return {"name": name, "settings": settings, "seed": seed, **accuracies}


RUNS = [
    run("base", {}, 0.70, 0.80),
    run("base", {}, 0.72, 0.80, seed=1),
    run("queue_size=64", {"queue_size": 64}, 0.72, 0.84),  # +3 points
    run("queue_size=64", {"queue_size": 64}, 0.73, 0.80, seed=1),  # +0.5
    run("bn_groups=2", {"bn_groups": 2}, 0.69, 0.80),  # -0.5
    run("shuffle_bn=False", {"shuffle_bn": False}, 0.66, 0.80),  # -2
    run("2 unshuffled", {"bn_groups": 2, "shuffle_bn": False}, 0.64, 0.80),  # -3
    run("1 unshuffled", {"bn_groups": 1, "shuffle_bn": False}, 0.71, 0.80),  # +0.5
    run("both", {"queue_size": 64, "momentum": 0.9}, 0.1, 0.1),
]


@pytest.fixture
def directory(tmp_path):
    for name in ("photos", "4000", "16000"):
        (tmp_path / name).mkdir()
        results = {"runs": RUNS, "config": CONFIG, "data": {"num_images": 4096}}
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    (tmp_path / "views.json").write_text("{}")
    return tmp_path


def test_data_sets_are_ordered_by_their_size(directory):
    assert [data_set.name for data_set in data_sets(directory)] == ["4000", "16000", "photos"]
    assert [data_set.title for data_set in data_sets(directory)] == ["4,000", "16,000", "`photos`"]
    assert data_sets(directory / "missing") == []


def test_changes_are_means_of_both_accuracies_for_each_seed(directory):
    data_set = DataSet(directory, "4000")
    [change] = data_set.changes(Factor("queue_size"))
    assert (change.value, change.shuffles) == (64, True)
    assert change.points == pytest.approx([3.0, 0.5])
    changes = data_set.changes(Factor("bn_groups", frozenset({"shuffle_bn"})))
    expected = [(2, True, -0.5), (8, False, -2), (2, False, -3), (1, True, 0.5)]
    assert [(value, shuffles) for value, shuffles, _ in changes] == [row[:2] for row in expected]
    for change, (_, _, points) in zip(changes, expected, strict=True):
        assert change.points == pytest.approx([points])


def test_points_of_the_figure_are_those_changes(directory, monkeypatch):
    figures = []
    monkeypatch.setattr(small_data_figure, "save_figure", lambda figure, _: figures.append(figure))
    small_data_figure.write(str(directory))
    [figure] = figures
    axes = {axes.get_xlabel().split(",")[0].split(" (")[0]: axes for axes in figure.axes}
    # Each data set has a line with shuffling and, for the groups, one without.
    curve, *_ = axes["K"].containers
    places, means = curve.lines[0].get_data()
    assert places.tolist() == [1 / 64, 1 / 8]
    assert means.tolist() == pytest.approx([1.75, 0])
    assert "1/64" in [label.get_text() for label in axes["K"].get_xticklabels()]
    shuffled, unshuffled, *_ = axes["images of a group"].containers
    places, means = shuffled.lines[0].get_data()
    assert places.tolist() == [16, 64, 128]
    assert means.tolist() == pytest.approx([0, -0.5, 0.5])
    places, means = unshuffled.lines[0].get_data()
    assert places.tolist() == [16, 64]
    assert means.tolist() == pytest.approx([-2, -3])
    assert unshuffled.lines[0].get_markerfacecolor() == "white"


def test_figure_of_a_study_that_was_not_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no results: run the study first"):
        small_data_figure.write(str(tmp_path))
