"""Shuffling BN (section 3.3): the keys are encoded in a different order than the queries.

The groups of BatchNormalization are blocks of the batch. The images of the keys are permuted over
the global batch before the key encoder, and the keys are brought back into order after it. The
statistics of a query and of its positive key thus come from two different subsets of the batch.
"""

import tensorflow as tf

from moco_tf.distribution import all_gather, replica_rows, to_bytes, to_integers


def permutation(count: int, seed: tf.Tensor) -> tf.Tensor:
    """Return a random order of the global batch, which is the same on every replica.

    Args:
        count: Size N of the global batch.
        seed: Integers `[2]`, the same on every replica.

    Returns:
        int32 `[N]`, a permutation of 0 to N - 1.

    Example:
        >>> sorted(permutation(4, tf.constant([0, 1])).numpy().tolist())
        [0, 1, 2, 3]
    """
    # An argsort compiles on every accelerator; `stateless_shuffle` does not. The draws are
    # integers, since TensorFlow and XLA compute different floats from the same bits.
    bits = tf.random.stateless_uniform([count], seed, None, None, tf.int32, alg="philox")
    return tf.argsort(bits, stable=True)


def shuffle(images: tf.Tensor, order: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Return this replica's part of the permuted global batch.

    Args:
        images: `[n, H, W, channels]`, this replica's images.
        order: int32 `[N]` from `permutation`, or `None` to keep the order.

    Returns:
        images: `[n, H, W, channels]`, the images at `rows`.
        rows: int32 `[n]`, the rows of these images in the global batch before the permutation.
    """
    rows = replica_rows(images.shape[0])
    if order is None:
        return images, rows
    if images.dtype == tf.uint16:  # As bytes, because collectives do not support it.
        shuffled, rows = shuffle(tf.bitcast(images, tf.uint8), order)
        return tf.bitcast(shuffled, tf.uint16), rows
    rows = tf.gather(order, rows)
    if images.dtype != tf.uint8:
        return tf.gather(all_gather(images), rows), rows
    # TensorFlow gathers uint8 on the host, to which a GPU would send the images of the batch.
    integers = tf.gather(all_gather(to_integers(images)), rows)
    return to_bytes(integers, images.shape), rows


def unshuffle(keys: tf.Tensor, order: tf.Tensor | None) -> tf.Tensor:
    """Return the keys of all replicas in the order of the global batch.

    Args:
        keys: `[n, C]`, this replica's keys in the order of `shuffle`.
        order: The `order` that `shuffle` was called with.

    Returns:
        `[N, C]`; row i belongs to image i of the global batch.
    """
    keys = all_gather(keys)
    return keys if order is None else tf.gather(keys, tf.argsort(order))
