"""The queue against a plain Python queue that takes keys one by one."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.mechanisms.dictionaries import Queue

DIM = 3
# (K, N), where N equals K, divides it, does not divide it, or is larger.
SIZES = [(1, 1), (1, 3), (8, 8), (8, 2), (8, 1), (8, 3), (7, 4), (9, 6), (4, 8), (3, 8), (5, 7)]


def build_queue(size, **kwargs):
    queue = Queue(size, DIM, **kwargs)
    queue.build()
    return queue


def batches_of_keys(counts):
    keys = np.arange(1, sum(counts) * DIM + 1, dtype=np.float32).reshape(-1, DIM)
    return np.split(keys, np.cumsum(counts)[:-1])


def assert_equals_plain_queue(queue, size, counts):
    rows, pointer = queue.keys.numpy().copy(), 0
    by_age = collections.deque(rows.copy(), maxlen=size)  # Row 0 is the oldest at first.
    for keys in batches_of_keys(counts):
        queue.enqueue(tf.constant(keys))
        for key in keys:
            rows[pointer] = key
            pointer = (pointer + 1) % size
            by_age.append(key)
        assert int(queue.pointer.value) == pointer
        np.testing.assert_array_equal(queue.keys.numpy(), rows)
        np.testing.assert_array_equal(np.roll(queue.keys.numpy(), -pointer, axis=0), by_age)


@pytest.mark.parametrize(("size", "count"), SIZES)
def test_keys_are_where_writing_them_one_by_one_puts_them(size, count):
    assert_equals_plain_queue(build_queue(size), size, [count] * 6)


def test_batches_can_differ_in_size():
    assert_equals_plain_queue(build_queue(6), 6, [4, 1, 13, 6, 2, 5, 12, 3])


def test_enqueue_does_the_same_in_a_graph():
    queue = build_queue(7)
    expected = build_queue(7)
    graph = tf.function(queue.enqueue)
    for keys in batches_of_keys([5, 5, 5, 5]):
        graph(tf.constant(keys))
        expected.enqueue(tf.constant(keys))
    np.testing.assert_array_equal(queue.keys.numpy(), expected.keys.numpy())
    assert int(queue.pointer.value) == 20 % 7


def test_queue_starts_with_distinct_unit_vectors():
    keys = build_queue(512).keys.numpy()
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1.0, rtol=1e-6)
    assert len(np.unique(keys, axis=0)) == 512
    # The mean of 512 vectors that are uniform on the sphere is practically never longer.
    assert np.linalg.norm(keys.mean(axis=0)) < 0.12


def test_initial_keys_depend_on_the_seed_only():
    np.testing.assert_array_equal(
        build_queue(16, seed=3).keys.numpy(), build_queue(16, seed=3).keys.numpy()
    )
    assert not np.isclose(
        build_queue(16, seed=3).keys.numpy(), build_queue(16, seed=4).keys.numpy()
    ).any()


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_keys_are_float32_under_mixed_precision(policy):
    queue = build_queue(4, dtype=policy)
    assert queue.keys.dtype == "float32"
    queue.enqueue(tf.constant([[0.5, 0.25, 0.125]], tf.bfloat16))
    assert queue.keys.numpy().dtype == np.float32
    assert queue.keys.numpy()[0].tolist() == [0.5, 0.25, 0.125]


def test_keys_and_pointer_are_not_trainable():
    queue = build_queue(4)
    assert queue.trainable_variables == []
    assert len(queue.non_trainable_variables) == 2
