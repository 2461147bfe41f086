"""Weighted nearest neighbours against a slow reference in plain Python."""

import decimal
import math

import numpy as np
import pytest

from moco_tf.evaluation import knn

CLASSES, DIM = 12, 6


def example(train_size=90, test_size=70, seed=0):
    """Blurred classes, so that accuracies lie well between 0 and 1."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(CLASSES, DIM))
    parts = []
    for size in (train_size, test_size):
        labels = generator.integers(0, CLASSES, size)
        features = centres[labels] + 0.8 * generator.normal(size=(size, DIM))
        # Lengths must not matter.
        features *= generator.uniform(0.1, 10, (size, 1))
        parts += [features.astype(np.float32), labels.astype(np.int32)]
    return parts


def cosine(a, b):
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def ranked(train, feature):
    """Indices of the bank and similarities, the most similar first."""
    similarities = [cosine(feature, other) for other in train.astype(float).tolist()]
    order = sorted(range(len(train)), key=lambda index: -similarities[index])
    return order, [similarities[index] for index in order]


def accuracies(train, train_labels, test, test_labels, k, temperature):
    hits = {1: 0, 5: 0}
    for feature, label in zip(test.astype(float).tolist(), test_labels, strict=True):
        order, similarities = ranked(train, feature)
        # Decimals do not overflow, however small the temperature.
        votes = [decimal.Decimal(0)] * CLASSES
        for index, similarity in list(zip(order, similarities, strict=True))[:k]:
            votes[train_labels[index]] += (
                decimal.Decimal(similarity) / decimal.Decimal(temperature)
            ).exp()
        best = sorted(range(CLASSES), key=lambda c: -votes[c])
        for top in hits:
            hits[top] += label in best[:top]
    return {f"top{top}": count / len(test) for top, count in hits.items()}


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_accuracies_are_those_of_the_slow_reference(k, temperature):
    data = example()
    found = knn.classify(*data, CLASSES, k=k, temperature=temperature)
    assert found == pytest.approx(accuracies(*data, k, temperature))
    assert 0.2 < found["top1"] < 0.95


def test_k_and_temperature_matter():
    # Else the comparison above would not tell whether they are used.
    found = [
        knn.classify(*example(), CLASSES, k=k, temperature=temperature)["top1"]
        for k, temperature in [(1, 0.07), (40, 0.07), (40, 0.5), (90, 5.0)]
    ]
    assert len(set(found)) == len(found)


def test_a_near_neighbour_outvotes_two_far_ones_at_a_low_temperature_only():
    train = np.float32([[1, 0], [0.6, 0.8], [0.6, -0.8]])
    labels = np.array([0, 1, 1])
    test, expected = np.float32([[1, 0]]), np.array([0])
    # exp(1 / t) against 2 exp(0.6 / t): equal at t = 0.4 / ln 2 = 0.577.
    for temperature, top1 in [(0.07, 1.0), (0.5, 1.0), (0.65, 0.0), (2.0, 0.0)]:
        found = knn.classify(train, labels, test, expected, 2, k=3, temperature=temperature)
        assert found["top1"] == top1


def test_the_defaults_are_the_papers_200_neighbours_at_0_07():
    data = example(train_size=400, test_size=60)
    assert knn.classify(*data, CLASSES) == pytest.approx(accuracies(*data, 200, 0.07))


def test_more_neighbours_than_the_bank_holds_are_all_of_it():
    data = example()
    found = knn.classify(*data, CLASSES, k=1000)
    assert found == pytest.approx(accuracies(*data, len(data[0]), 0.07))
    indices, similarities = knn.nearest(data[0], data[2], 1000)
    assert indices.shape == similarities.shape == (70, 90)


@pytest.mark.parametrize("temperature", [0.01, 0.001])
def test_low_temperatures_do_not_overflow(temperature):
    data = example()
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = knn.classify(*data, CLASSES, k=40, temperature=temperature)
    assert found == pytest.approx(accuracies(*data, 40, temperature))


@pytest.mark.parametrize("k", [1, 7, 90])
def test_neighbours_come_in_the_order_of_their_similarity(k):
    train, _, test, _ = example()
    indices, similarities = knn.nearest(train, test, k)
    for feature, found, similarity in zip(test.astype(float), indices, similarities, strict=True):
        order, expected = ranked(train, feature)
        assert found.tolist() == order[:k]
        np.testing.assert_allclose(similarity, expected[:k], atol=1e-6)


@pytest.mark.parametrize("block", [1, 16, 35, 69])
def test_blocks_of_any_size_give_the_same_neighbours(monkeypatch, block):
    monkeypatch.setattr(knn, "BLOCK", block)
    test_neighbours_come_in_the_order_of_their_similarity(7)


def test_a_feature_of_zeros_is_as_far_from_everything():
    train, labels, test, test_labels = example()
    train[3], test[5] = 0, 0
    with np.errstate(invalid="raise", divide="raise"):
        _, similarities = knn.nearest(train, test, 90)
        knn.classify(train, labels, test, test_labels, CLASSES)
    assert (similarities[5] == 0).all()
    assert np.isfinite(similarities).all()
