"""Weighted k-nearest-neighbor classification against a slow reference in plain Python."""

import dataclasses
import decimal
import math

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from moco_tf.errors import UserError
from moco_tf.evaluation import knn, logistic, protocols
from moco_tf.evaluation.results import summarize
from moco_tf.evaluation.settings import KNNSettings, ProbeSettings
from tests.evaluation.helpers import as_features

CLASSES, DIM = 12, 6


def example(train_size=90, test_size=70, seed=0):
    """Return overlapping classes, so that accuracies are well between 0 and 1."""
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(CLASSES, DIM))
    parts = []
    for size in (train_size, test_size):
        labels = generator.integers(0, CLASSES, size)
        features = centers[labels] + 0.8 * generator.normal(size=(size, DIM))
        # The length of a feature must not matter.
        features *= generator.uniform(0.1, 10, (size, 1))
        parts.append(as_features(features.astype(np.float32), labels.astype(np.int32), CLASSES))
    return parts


def cosine(a, b):
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def ranked(bank, feature):
    """Return the indices into the bank and the similarities, most similar first."""
    similarities = [cosine(feature, other) for other in bank.astype(float).tolist()]
    order = sorted(range(len(bank)), key=lambda index: -similarities[index])
    return order, [similarities[index] for index in order]


def reference(train, test, k, temperature):
    hits = {1: 0, 5: 0}
    for feature, label in zip(test.features.astype(float).tolist(), test.labels, strict=True):
        order, similarities = ranked(train.features, feature)
        # Decimals do not overflow, however small the temperature is.
        votes = [decimal.Decimal(0)] * CLASSES
        for index, similarity in list(zip(order, similarities, strict=True))[:k]:
            exponent = decimal.Decimal(similarity) / decimal.Decimal(temperature)
            votes[train.labels[index]] += exponent.exp()
        best = sorted(range(CLASSES), key=lambda label: -votes[label])
        for top in hits:
            hits[top] += label in best[:top] and votes[label] > 0
    return {f"top{top}": count / len(test.labels) for top, count in hits.items()}


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_accuracy_equals_reference(k, temperature):
    data = example()
    result = knn.classify(*data, KNNSettings(k, temperature))
    assert result == pytest.approx(reference(*data, k, temperature))
    assert 0.2 < result["top1"] < 0.95


def test_k_and_temperature_have_effect():
    # Otherwise the comparison above would not show that they are used.
    results = [
        knn.classify(*example(), KNNSettings(k, temperature))["top1"]
        for k, temperature in [(1, 0.07), (40, 0.07), (40, 0.5), (90, 5.0)]
    ]
    assert len(set(results)) == len(results)


def test_near_neighbor_outvotes_two_far_ones_at_low_temperature_only():
    bank = as_features(np.float32([[1, 0], [0.6, 0.8], [0.6, -0.8]]), [0, 1, 1], 2)
    query = as_features(np.float32([[1, 0]]), [0], 2)
    # exp(1 / t) against 2 exp(0.6 / t): equal at t = 0.4 / ln 2 = 0.577.
    for temperature, top1 in [(0.07, 1.0), (0.5, 1.0), (0.65, 0.0), (2.0, 0.0)]:
        assert knn.classify(bank, query, KNNSettings(3, temperature))["top1"] == top1


def test_defaults_are_200_neighbors_at_temperature_007():
    data = example(train_size=400, test_size=60)
    assert knn.classify(*data) == pytest.approx(reference(*data, 200, 0.07))


def test_k_is_clipped_to_bank():
    train, test = example()
    result = knn.classify(train, test, KNNSettings(k=1000))
    assert result == pytest.approx(reference(train, test, len(train.features), 0.07))
    indices, similarities = knn.nearest(train.features, test.features, 1000)
    assert indices.shape == similarities.shape == (70, 90)


@pytest.mark.parametrize("temperature", [0.01, 0.001])
def test_low_temperature_does_not_overflow(temperature):
    data = example()
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        result = knn.classify(*data, KNNSettings(40, temperature))
    assert result == pytest.approx(reference(*data, 40, temperature))


@pytest.mark.parametrize("k", [1, 7, 90])
def test_nearest_are_ordered_by_similarity(k):
    train, test = example()
    indices, similarities = knn.nearest(train.features, test.features, k)
    queries = test.features.astype(float)
    for query, row, similarity in zip(queries, indices, similarities, strict=True):
        order, expected = ranked(train.features, query)
        assert row.tolist() == order[:k]
        np.testing.assert_allclose(similarity, expected[:k], atol=1e-6)


@pytest.mark.parametrize("block", [1, 16, 35, 69])
def test_block_size_does_not_change_neighbors(monkeypatch, block):
    train, test = example()
    expected, _ = knn.nearest(train.features, test.features, 7)
    monkeypatch.setattr(knn, "BLOCK", block)
    indices, _ = knn.nearest(train.features, test.features, 7)
    np.testing.assert_array_equal(indices, expected)


def test_zero_feature_has_similarity_zero_to_all():
    train, test = example()
    train.features[3], test.features[5] = 0, 0
    with np.errstate(invalid="raise", divide="raise"):
        _, similarities = knn.nearest(train.features, test.features, 90)
        knn.classify(train, test)
    assert (similarities[5] == 0).all()
    assert np.isfinite(similarities).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("method", [knn.classify, logistic.probe])
def test_features_that_are_not_finite_are_refused(method, part, value):
    parts = example()
    parts[part].features[[2, 5], 1] = value
    start = f"the features of 2 of {len(parts[part].features)} images hold NaN or infinity"
    with pytest.raises(UserError, match=start):
        method(*parts)


def test_k_is_chosen_by_training_images_each_without_itself():
    train, test = example(train_size=60)
    ks = (1, 3, 10, 59)
    expected = []
    for k in ks:
        hits = 0
        for query in range(60):
            others = np.delete(np.arange(60), query)
            bank = as_features(train.features[others], train.labels[others], CLASSES)
            one = as_features(train.features[[query]], train.labels[[query]], CLASSES)
            hits += knn.classify(bank, one, KNNSettings(k, 0.3))["top1"]
        expected.append({"k": k, "top1": pytest.approx(hits / 60)})
    best, choices = knn.choose_k(train, KNNSettings(temperature=0.3, ks=ks))
    assert choices == expected
    assert len({choice["top1"] for choice in choices}) > 1
    assert best == max(choices, key=lambda choice: choice["top1"])["k"]

    result = protocols.evaluate("knn", train, test, KNNSettings(temperature=0.3, ks=ks))
    assert result["k"] == best
    assert result["training_images"] == choices
    assert result["top1"] == knn.classify(train, test, KNNSettings(best, 0.3))["top1"]
    assert f"k = {best} chosen on training images" in summarize(result)


def test_k_and_several_numbers_contradict_each_other():
    with pytest.raises(UserError, match="k=5 has no effect with ks"):
        KNNSettings(k=5, ks=(1, 2))


def test_nearest_others_are_the_nearest_other_images():
    bank = example(60)[0].features
    for indices in (np.arange(20), np.arange(100, 120)):  # In the bank, and not.
        features = bank[:20]
        rows, cosines = knn.nearest_others(bank, np.arange(60), features, indices, 5)
        expected = cosine_similarity(features, bank)
        expected[indices[:, np.newaxis] == np.arange(60)] = -2
        order = np.argsort(-expected, axis=1)[:, :5]
        np.testing.assert_array_equal(rows, order)
        np.testing.assert_allclose(cosines, np.take_along_axis(expected, order, 1), atol=1e-5)


def test_number_of_neighbors_is_clipped_to_the_other_images():
    bank = example(4)[0].features
    rows, cosines = knn.nearest_others(bank, np.arange(4), bank, np.arange(4), 8)
    assert rows.shape == cosines.shape == (4, 3)
    assert [sorted({*row, i}) for i, row in enumerate(rows.tolist())] == [[0, 1, 2, 3]] * 4


def test_all_neighbors_are_returned_if_the_query_is_not_in_a_small_bank():
    bank, features = (part.features for part in example(4, 3))
    rows, _ = knn.nearest_others(bank, np.arange(4), features, np.arange(10, 13), 8)
    assert [sorted(row) for row in rows.tolist()] == [[0, 1, 2, 3]] * 3


def test_labels_of_another_source_are_matched_by_the_names_of_the_classes():
    train, test = example()
    names = [f"class {number}" for number in range(CLASSES)]
    order = np.random.default_rng(0).permutation(CLASSES)
    train = dataclasses.replace(train, class_names=names)
    labels = np.argsort(order)[test.labels].astype(np.int32)
    shuffled = [names[number] for number in order]
    other = dataclasses.replace(test, labels=labels, class_names=shuffled)
    for classify, settings in (
        (knn.classify, KNNSettings(k=5)),
        (logistic.probe, ProbeSettings()),
    ):
        assert classify(train, other, settings) == classify(train, test, settings)
    for protocol in ("knn", "linear_cached"):
        result = protocols.evaluate(protocol, train, other)
        assert result["top1"] == protocols.evaluate(protocol, train, test)["top1"]
    unknown = dataclasses.replace(other, class_names=["bird", *shuffled[1:]])
    with pytest.raises(UserError, match="test images of the classes bird, which the training"):
        knn.classify(train, unknown)


def test_equally_similar_features_are_in_ascending_order():
    bank = np.float32([[0, 1], [2, 0], [1, 0], [0, 2], [3, 0]])
    indices, similarities = knn.nearest(bank, np.float32([[5, 0]]), 4)
    assert indices.tolist() == [[1, 2, 4, 0]]
    assert similarities.tolist() == [[1, 1, 1, 0]]
