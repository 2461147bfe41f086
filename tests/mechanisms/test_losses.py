"""The loss against its closed form in NumPy, and the accuracy on hand-written logits."""

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
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_loss_and_logits_equal_equation_1(temperature, dtype, tolerance):
    arrays = example()
    loss, logits = info_nce(*(tf.constant(x, dtype) for x in arrays), temperature)
    expected_loss, expected_logits = reference(*arrays, temperature)
    assert logits.shape == (N, 1 + K)
    np.testing.assert_allclose(loss, expected_loss, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(logits, expected_logits, rtol=tolerance, atol=tolerance)


def test_loss_is_chance_level_if_all_keys_are_equal():
    queries, _, _ = example()
    one_key = unit_rows(np.random.default_rng(1), 1)
    loss, _ = info_nce(
        tf.constant(queries),
        tf.constant(one_key.repeat(N, 0)),
        tf.constant(one_key.repeat(K, 0)),
        0.07,
    )
    np.testing.assert_allclose(loss, math.log(K + 1), rtol=1e-12)


def test_gradient_equals_finite_differences():
    queries, keys, negatives = example()
    variable = tf.constant(queries)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        loss, _ = info_nce(variable, tf.constant(keys), tf.constant(negatives), 0.07)
    gradient = tape.gradient(loss, variable).numpy()

    step = 1e-6
    for row in range(N):
        for column in range(C):
            shift = np.zeros_like(queries)
            shift[row, column] = step
            above, _ = reference(queries + shift, keys, negatives, 0.07)
            below, _ = reference(queries - shift, keys, negatives, 0.07)
            slope = (above.sum() - below.sum()) / (2 * step)
            assert gradient[row, column] == pytest.approx(slope, rel=1e-6, abs=1e-7)


def test_step_down_the_gradient_moves_query_towards_its_key():
    queries, keys, negatives = example()
    variable = tf.constant(queries)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        loss, _ = info_nce(variable, tf.constant(keys), tf.constant(negatives), 0.07)
    moved = queries - 0.01 * tape.gradient(loss, variable).numpy()
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    assert ((moved * keys).sum(axis=1) > (queries * keys).sum(axis=1)).all()


@pytest.mark.parametrize(
    ("k", "expected"), [(1, [1, 0, 0, 0]), (2, [1, 1, 0, 0]), (3, [1, 1, 1, 0])]
)
def test_accuracy_counts_negatives_ahead_of_the_positive(k, expected):
    logits = [
        [9.0, 1.0, 2.0, 3.0],  # first
        [2.0, 1.0, 0.0, 3.0],  # second
        [1.0, 0.0, 2.0, 3.0],  # third
        [0.0, 1.0, 2.0, 3.0],  # last
    ]
    accuracy = contrastive_accuracy(tf.constant(logits), k)
    assert accuracy.dtype == tf.float32
    assert accuracy.numpy().tolist() == expected


def test_negative_as_similar_as_the_positive_counts_as_ahead():
    tied_once = tf.constant([[1.0, 1.0, 0.0]])
    assert contrastive_accuracy(tied_once, 1).numpy().tolist() == [0.0]
    assert contrastive_accuracy(tied_once, 2).numpy().tolist() == [1.0]


@pytest.mark.parametrize("k", [1, 5])
def test_collapsed_features_score_zero(k):
    assert contrastive_accuracy(tf.fill([3, 1 + K], 14.3), k).numpy().tolist() == [0.0] * 3


def test_collapsed_features_score_zero_despite_rounding():
    # The positive and the negatives are summed in different orders, so equal similarities differ
    # in their last bits, in both directions.
    points = np.random.default_rng(0).normal(size=(8, 1, 128))
    hits = []
    for point in l2_normalize(tf.constant(points.reshape(8, 128), tf.float32))[:, tf.newaxis]:
        queries, negatives = tf.repeat(point, 32, 0), tf.repeat(point, 1024, 0)
        _, logits = info_nce(queries, queries, negatives, 0.07)
        hits.append(float(tf.reduce_sum(contrastive_accuracy(logits, 1))))
    assert hits == [0.0] * 8


def test_l2_normalize_keeps_the_direction_of_rows():
    x = np.random.default_rng(2).normal(size=(6, C)) * 10.0 ** np.arange(-3, 3)[:, np.newaxis]
    expected = x / np.sqrt((x * x).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(l2_normalize(tf.constant(x)), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_l2_normalize_keeps_a_row_of_zeros(dtype):
    rows = l2_normalize(tf.constant([[0.0, 0.0], [3.0, 4.0]], dtype)).numpy()
    np.testing.assert_allclose(rows, [[0.0, 0.0], [0.6, 0.8]], rtol=1e-6)


def test_l2_normalize_divides_a_very_short_row_by_1e_12():
    rows = l2_normalize(tf.constant([[3e-14, 4e-14]], tf.float64))
    np.testing.assert_allclose(rows, [[0.03, 0.04]], rtol=1e-9)
