"""The memory bank against plain Python."""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.mechanisms.dictionaries import Bank

SIZE, DIM = 11, 3


def build_bank(size=SIZE, **settings):
    bank = Bank(size, DIM, **settings)
    bank.build()
    return bank


def unit_vectors(count, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 1.0])
def test_update_moves_the_rows_of_its_images_only(momentum):
    bank = build_bank(momentum=momentum)
    expected = bank.representations.numpy().astype(np.float64)
    update = tf.function(bank.update)
    for step, rows in enumerate([[3, 0, 10], [0, 5, 4]]):
        queries = unit_vectors(3, step)
        update(tf.constant(rows, tf.int64), queries)
        for row, query in zip(rows, queries, strict=True):
            moved = momentum * expected[row] + (1 - momentum) * query
            expected[row] = moved / np.linalg.norm(moved)
        np.testing.assert_allclose(bank.representations.numpy(), expected, atol=1e-6)
    assert bank.representations.dtype == "float32"


def test_update_uses_the_last_query_of_a_repeated_image():
    bank = build_bank()
    before = bank.representations.numpy()
    queries = unit_vectors(4)
    bank.update(tf.constant([7, 2, 7, 7], tf.int64), queries)
    for row, query in ((7, queries[3]), (2, queries[1])):
        moved = before[row] + query
        expected = moved / np.linalg.norm(moved)
        np.testing.assert_allclose(bank.representations.numpy()[row], expected, atol=1e-6)


def test_initial_representations_are_unit_vectors_of_the_seed():
    initial = build_bank(512, seed=3).representations.numpy()
    np.testing.assert_allclose(np.linalg.norm(initial, axis=1), 1.0, rtol=1e-6)
    assert len(np.unique(initial, axis=0)) == 512
    np.testing.assert_array_equal(initial, build_bank(512, seed=3).representations.numpy())
    assert (
        not np.isclose(initial, build_bank(512, seed=4).representations.numpy()).all(axis=1).any()
    )


def test_draws_are_uniform_and_depend_on_seed_and_step():
    bank = build_bank(seed=5)
    draws = bank.draw(20_000, tf.constant(2, tf.int64)).numpy()
    counts = np.bincount(draws, minlength=SIZE - 1)
    assert len(counts) == SIZE - 1
    # Chi-squared with 9 degrees of freedom is above 27.9 once in a thousand.
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9
    np.testing.assert_array_equal(draws, bank.draw(20_000, tf.constant(2, tf.int64)))
    for other in (bank.draw(20_000, 3), build_bank(seed=6).draw(20_000, 2)):
        assert (other.numpy() == draws).mean() < 0.15
