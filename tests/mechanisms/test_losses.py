"""The loss against its closed form in NumPy, and the accuracy on logits written by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.mechanisms.losses import contrastive_accuracy, info_nce, l2_normalize

N, K, C = 5, 17, 8


def unit_rows(generator, rows):
    x = generator.normal(size=(rows, C))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def example():
    generator = np.random.default_rng(0)
    return unit_rows(generator, N), unit_rows(generator, N), unit_rows(generator, K)


def reference(queries, keys, negatives, temperature):
    """Equation 1, term by term, in Python floats."""
    losses, logits = [], []
    for query, key in zip(queries, keys, strict=True):
        row = [query @ key / temperature] + [query @ k / temperature for k in negatives]
        largest = max(row)
        log_sum = largest + math.log(sum(math.exp(value - largest) for value in row))
        losses.append(log_sum - row[0])
        logits.append(row)
    return np.array(losses), np.array(logits)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-5)])
def test_loss_and_logits_are_those_of_equation_1(temperature, dtype, tolerance):
    arrays = example()
    loss, logits = info_nce(*(tf.constant(x, dtype) for x in arrays), temperature)
    expected_loss, expected_logits = reference(*arrays, temperature)
    assert logits.shape == (N, 1 + K)
    np.testing.assert_allclose(loss, expected_loss, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(logits, expected_logits, rtol=tolerance, atol=tolerance)


def test_loss_is_chance_level_where_every_key_is_alike():
    queries, _, _ = example()
    one_key = unit_rows(np.random.default_rng(1), 1)
    loss, _ = info_nce(
        tf.constant(queries),
        tf.constant(one_key.repeat(N, 0)),
        tf.constant(one_key.repeat(K, 0)),
        0.07,
    )
    np.testing.assert_allclose(loss, math.log(K + 1), rtol=1e-12)


def test_gradient_agrees_with_finite_differences():
    queries, keys, negatives = example()
    variable = tf.constant(queries)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        loss, _ = info_nce(variable, tf.constant(keys), tf.constant(negatives), 0.07)
    found = tape.gradient(loss, variable).numpy()

    step = 1e-6
    for row in range(N):
        for column in range(C):
            shift = np.zeros_like(queries)
            shift[row, column] = step
            above, _ = reference(queries + shift, keys, negatives, 0.07)
            below, _ = reference(queries - shift, keys, negatives, 0.07)
            slope = (above.sum() - below.sum()) / (2 * step)
            assert found[row, column] == pytest.approx(slope, rel=1e-6, abs=1e-7)


def test_a_step_down_the_gradient_brings_query_and_key_together():
    queries, keys, negatives = example()
    variable = tf.constant(queries)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        loss, _ = info_nce(variable, tf.constant(keys), tf.constant(negatives), 0.07)
    moved = queries - 0.01 * tape.gradient(loss, variable).numpy()
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    assert ((moved * keys).sum(axis=1) > (queries * keys).sum(axis=1)).all()


@pytest.mark.parametrize("k, expected", [(1, [1, 0, 0, 0]), (2, [1, 1, 0, 0]), (3, [1, 1, 1, 0])])
def test_accuracy_counts_the_negatives_ahead_of_the_positive(k, expected):
    logits = [
        [9.0, 1.0, 2.0, 3.0],  # the best
        [2.0, 1.0, 0.0, 3.0],  # the second
        [1.0, 0.0, 2.0, 3.0],  # the third
        [0.0, 1.0, 2.0, 3.0],  # the last
    ]
    found = contrastive_accuracy(tf.constant(logits), k)
    assert found.dtype == tf.float32
    assert found.numpy().tolist() == expected


def test_a_negative_as_good_as_the_positive_counts_against_it():
    tied_once = tf.constant([[1.0, 1.0, 0.0]])
    assert contrastive_accuracy(tied_once, 1).numpy().tolist() == [0.0]
    assert contrastive_accuracy(tied_once, 2).numpy().tolist() == [1.0]


@pytest.mark.parametrize("k", [1, 5])
def test_collapsed_features_score_nothing(k):
    assert contrastive_accuracy(tf.fill([3, 1 + K], 14.3), k).numpy().tolist() == [0.0] * 3


def test_features_collapsed_to_one_point_score_nothing_despite_rounding():
    # The positive and the negatives are summed in different orders, so that equal similarities
    # differ in their last bits, to either side.
    points = np.random.default_rng(0).normal(size=(8, 1, 128))
    hits = []
    for point in l2_normalize(tf.constant(points.reshape(8, 128), tf.float32))[:, tf.newaxis]:
        queries, negatives = tf.repeat(point, 32, 0), tf.repeat(point, 1024, 0)
        _, logits = info_nce(queries, queries, negatives, 0.07)
        hits.append(float(tf.reduce_sum(contrastive_accuracy(logits, 1))))
    assert hits == [0.0] * 8


def test_rows_get_unit_length_and_keep_their_direction():
    x = np.random.default_rng(2).normal(size=(6, C)) * 10.0 ** np.arange(-3, 3)[:, np.newaxis]
    expected = x / np.sqrt((x * x).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(l2_normalize(tf.constant(x)), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_of_zeros_stays_zero_and_so_does_nothing_else(dtype):
    found = l2_normalize(tf.constant([[0.0, 0.0], [3.0, 4.0]], dtype)).numpy()
    np.testing.assert_allclose(found, [[0.0, 0.0], [0.6, 0.8]], rtol=1e-6)


def test_a_row_shorter_than_the_floor_is_divided_by_the_floor():
    found = l2_normalize(tf.constant([[3e-14, 4e-14]], tf.float64))
    np.testing.assert_allclose(found, [[0.03, 0.04]], rtol=1e-9)
