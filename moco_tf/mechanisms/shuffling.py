"""Shuffling BN (section 3.3): keys are encoded in another order than their queries.

The groups of BatchNormalization are blocks of the batch. Permuting the keys' images over the whole
global batch before the key encoder, and the keys back after it, makes the statistics behind a
query and behind its positive key come from two different subsets of the batch.
"""

import tensorflow as tf

from moco_tf.distribution import all_gather, own_rows


def permutation(count, seed):
    """A random order of the global batch, the same on every replica without being sent.

    Args:
        count: int N, the size of the global batch.
        seed: int `[2]`.

    Returns:
        int32 `[N]`.
    """
    # An argsort compiles on every accelerator, and a shuffle does not. Integers, since TensorFlow
    # and XLA make different floats of the same bits.
    bits = tf.random.stateless_uniform([count], seed, None, None, tf.int32, alg="philox")
    return tf.argsort(bits, stable=True)


def shuffle(images, order):
    """Takes this replica's share of the permuted global batch.

    Args:
        images: `[n, H, W, C]`, this replica's images.
        order: int32 `[N]`, from `permutation`; None leaves the order as it is.

    Returns:
        images: `[n, H, W, C]`, the images at `rows`.
        rows: int32 `[n]`, where they stand in the unpermuted global batch.
    """
    rows = own_rows(images.shape[0])
    if order is None:
        return images, rows
    rows = tf.gather(order, rows)
    return tf.gather(all_gather(images), rows), rows


def unshuffle(keys, order):
    """Brings the keys of all replicas back into the order of the global batch.

    Args:
        keys: `[n, C]`, this replica's keys, in the order of `shuffle`.
        order: the same as there.

    Returns:
        `[N, C]`.
    """
    keys = all_gather(keys)
    return keys if order is None else tf.gather(keys, tf.argsort(order))
