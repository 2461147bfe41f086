"""Retrieval against scikit-learn's average precision and rankings in plain Python."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from moco_tf.errors import UserError
from moco_tf.evaluation import retrieval
from moco_tf.evaluation.bootstrap import mean_interval
from moco_tf.evaluation.retrieval import retrieve
from moco_tf.evaluation.settings import RetrievalSettings
from tests.evaluation.helpers import as_features

CLASSES = 6
RANKS = (1, 2, 7)


def example(seed, count):
    """Return features of overlapping classes of different lengths, of which class 5 is rare."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES - 1, count)
    labels[3] = CLASSES - 1
    centers = np.random.default_rng(9).normal(size=(CLASSES, 8))
    features = centers[labels] + 1.5 * generator.normal(size=(count, 8))
    lengths = generator.uniform(0.1, 10, (count, 1))
    return as_features((lengths * features).astype(np.float32), labels, CLASSES)


TRAIN, TEST = example(0, 90), example(1, 70)


def expected(gallery, queries, is_leave_one_out):
    """Return the average precision and the rank of the first relevant image of each query."""
    results = []
    for position, (query, label) in enumerate(zip(queries.features, queries.labels, strict=True)):
        others = [i for i in range(len(gallery.labels)) if not (is_leave_one_out and i == position)]
        bank = np.float64(gallery.features[others])
        cosines = bank @ np.float64(query) / np.linalg.norm(bank, axis=1)
        is_relevant = gallery.labels[others] == label
        if is_relevant.any():
            ranking = sorted(range(len(others)), key=lambda i: -cosines[i])
            first = next(rank for rank, i in enumerate(ranking, 1) if is_relevant[i])
            results.append((average_precision_score(is_relevant, cosines), first))
    return np.array(results).T


@pytest.mark.parametrize("block", [2**23, 1000])
@pytest.mark.parametrize("gallery", ["test", "train"])
def test_numbers_equal_those_of_scikit_learn(monkeypatch, gallery, block):
    monkeypatch.setattr(retrieval, "BLOCK", block)
    result = retrieve(TRAIN, TEST, RetrievalSettings(gallery=gallery, ranks=RANKS))
    bank = TEST if gallery == "test" else TRAIN
    precisions, first = expected(bank, TEST, gallery == "test")
    assert result["map"] == pytest.approx(precisions.mean(), abs=1e-6)
    assert result["map_interval"] == pytest.approx(mean_interval(precisions), abs=1e-6)
    assert 0.2 < result["map"] < 0.8
    for rank, row in zip(RANKS, result["recall"], strict=True):
        assert row["rank"] == rank
        assert row["recall"] == (first <= rank).mean()
        assert row["interval"] == mean_interval(first <= rank)
    # The only test image of its class has no other one.
    assert result["num_left_out"] == (1 if gallery == "test" else 0)
    assert result["num_queries"] == len(TEST.features) - result["num_left_out"]
    weights = [row["num_queries"] for row in result["per_class"]]
    assert sum(weights) == result["num_queries"]
    maps = [row["map"] for row in result["per_class"]]
    assert np.average(maps, weights=weights) == pytest.approx(result["map"])
    labels = [str(label) for label in np.unique(TEST.labels)]
    assert [row["class"] for row in result["per_class"]] == (
        labels[:-1] if gallery == "test" else labels
    )


def test_equal_features_of_sorted_classes_retrieve_nothing():
    labels = np.repeat(np.arange(4), 25)
    same = as_features(np.full((100, 16), 0.1, np.float32), labels, 4)
    result = retrieve(same, same, RetrievalSettings(ranks=(1, 10)))
    expected = average_precision_score(labels[1:] == 0, np.ones(99))
    assert result["map"] == pytest.approx(expected)
    assert [row["recall"] for row in result["recall"]] == [0, 0]


def test_duplicated_images_are_ranked_as_by_scikit_learn():
    gallery = as_features(np.repeat(TRAIN.features, 2, axis=0), np.arange(180) % 3, 3)
    queries = as_features(TEST.features, np.arange(70) % 3, 3)
    result = retrieve(gallery, queries, RetrievalSettings(gallery="train", ranks=(1,)))
    cosines = np.round(
        retrieval.normalize(queries.features) @ retrieval.normalize(gallery.features).T, 6
    )
    precisions, first_hits = [], []
    for row, label in zip(cosines, queries.labels, strict=True):
        is_relevant = gallery.labels == label
        precisions.append(average_precision_score(is_relevant, row))
        best = row == row.max()
        first_hits.append(is_relevant[best].all())
    assert result["map"] == pytest.approx(np.mean(precisions), abs=1e-6)
    assert result["recall"][0]["recall"] == np.mean(first_hits)


def test_queries_without_relevant_images_are_refused():
    for count in (4, 1):
        unique = as_features(TEST.features[:count], np.arange(count), CLASSES)
        with pytest.raises(UserError, match="^gallery=test: no test image has another image"):
            retrieve(TRAIN, unique)


def test_features_that_are_not_finite_are_refused():
    features = TEST.features.copy()
    features[0, 0] = np.nan
    with pytest.raises(UserError, match="hold NaN or infinity"):
        retrieve(TRAIN, dataclasses.replace(TEST, features=features))
