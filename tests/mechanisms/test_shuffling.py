"""The permutation of Shuffling BN, and the round trip on one replica."""

import collections
import itertools

import numpy as np
import tensorflow as tf

from moco_tf.mechanisms.shuffling import permutation, shuffle, unshuffle


def draw_order(count, *seed):
    return permutation(count, tf.constant(seed, tf.int64)).numpy()


def test_order_is_a_permutation():
    for count in (1, 2, 7, 256):
        assert sorted(draw_order(count, 5, 11)) == list(range(count))


def test_same_seed_gives_same_order():
    np.testing.assert_array_equal(draw_order(64, 5, 11), draw_order(64, 5, 11))


def test_every_step_has_a_different_order():
    orders = {tuple(draw_order(64, 5, step)) for step in range(20)}
    assert len(orders) == 20
    assert tuple(draw_order(64, 6, 0)) not in orders


def test_all_orders_are_equally_likely():
    trials = 1200
    orders = tf.function(
        lambda: tf.map_fn(
            lambda step: permutation(3, tf.stack([tf.constant(0, tf.int64), step])),
            tf.range(trials, dtype=tf.int64),
            fn_output_signature=tf.int32,
        )
    )()
    counts = collections.Counter(map(tuple, orders.numpy().tolist()))
    assert set(counts) == set(itertools.permutations(range(3)))
    # Chi-squared with 5 degrees of freedom is above 20.5 once in a thousand.
    assert sum((n - trials / 6) ** 2 / (trials / 6) for n in counts.values()) < 20.5


def test_shuffle_returns_the_row_of_each_image():
    images = np.random.default_rng(0).integers(0, 256, (12, 2, 2, 3), np.uint8)
    order = permutation(12, [0, 1])
    shuffled, rows = shuffle(tf.constant(images), order)
    np.testing.assert_array_equal(rows, order)
    for image, row in zip(shuffled.numpy(), rows.numpy(), strict=True):
        np.testing.assert_array_equal(image, images[row])
    assert (shuffled.numpy() != images).any()


def test_unshuffle_restores_the_order_of_the_images():
    images = tf.random.stateless_uniform([12, 2, 2, 3], [0, 0])
    for step in range(10):
        order = permutation(12, [0, step])
        shuffled, _ = shuffle(images, order)
        keys = tf.reshape(shuffled, [12, -1])  # an encoder without BatchNormalization
        np.testing.assert_array_equal(unshuffle(keys, order), tf.reshape(images, [12, -1]))


def test_order_is_the_same_with_xla():
    step = tf.Variable(3, dtype=tf.int64)  # A variable prevents constant folding.

    def order():
        return permutation(256, tf.stack([tf.constant(2, tf.int64), step]))

    np.testing.assert_array_equal(
        tf.function(order)().numpy(), tf.function(order, jit_compile=True)().numpy()
    )
