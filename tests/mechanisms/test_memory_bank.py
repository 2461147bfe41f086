"""The memory bank against plain Python, and what its memory comes to."""

import re

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.mechanisms.dictionaries import Bank
from moco_tf.mechanisms.memory_bank import room_for_bank, size_of_bank

SIZE, DIM = 11, 3


def built(size=SIZE, **settings):
    bank = Bank(size, DIM, **settings)
    bank.build()
    return bank


def unit_vectors(count, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 1.0])
def test_an_update_moves_the_rows_of_its_images_and_no_other(momentum):
    bank = built(momentum=momentum)
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


def test_of_an_image_that_is_there_twice_the_last_query_counts():
    bank = built()
    before = bank.representations.numpy()
    queries = unit_vectors(4)
    bank.update(tf.constant([7, 2, 7, 7], tf.int64), queries)
    for row, query in ((7, queries[3]), (2, queries[1])):
        moved = before[row] + query
        expected = moved / np.linalg.norm(moved)
        np.testing.assert_allclose(bank.representations.numpy()[row], expected, atol=1e-6)


def test_it_starts_with_unit_vectors_that_the_seed_decides():
    found = built(512, seed=3).representations.numpy()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-6)
    assert len(np.unique(found, axis=0)) == 512
    np.testing.assert_array_equal(found, built(512, seed=3).representations.numpy())
    assert not np.isclose(found, built(512, seed=4).representations.numpy()).all(axis=1).any()


def test_draws_are_of_all_others_equally_and_of_seed_and_step():
    bank = built(seed=5)
    draws = bank.draw(20_000, tf.constant(2, tf.int64)).numpy()
    counts = np.bincount(draws, minlength=SIZE - 1)
    # Chi-squared with 9 degrees of freedom is above 27.9 once in a thousand.
    assert len(counts) == 10 and ((counts - 2000) ** 2 / 2000).sum() < 27.9
    np.testing.assert_array_equal(draws, bank.draw(20_000, tf.constant(2, tf.int64)))
    for other in (bank.draw(20_000, 3), built(seed=6).draw(20_000, 2)):
        assert (other.numpy() == draws).mean() < 0.15


def test_the_room_that_it_takes_is_said():
    # ImageNet's 1,281,167 images at the paper's 128 dimensions.
    assert size_of_bank(1_281_167, 128) == "1281167 x 128 x 4 bytes = 656.0 MB"


def test_a_bank_that_no_machine_holds_is_refused_before_it_is_made():
    with pytest.raises(UserError) as error, room_for_bank(10**12, 128):
        raise AssertionError("it was made")
    words = "1000000000000 x 128 x 4 bytes = 512,000,000.0 MB", "--config.dim", "mechanism=moco"
    assert all(word in str(error.value) for word in words)


def test_a_bank_for_which_a_device_has_no_room_is_refused():
    words = re.escape("1000 x 128 x 4 bytes = 0.5 MB on each device")
    with pytest.raises(UserError, match=words), room_for_bank(1000, 128):
        # What an allocator ends with after trying for ten seconds.
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
