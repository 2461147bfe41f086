"""The seed of every random draw: a function of the run's seed, of the purpose, and of a position.

No generator keeps a state, so a run can go on at any position as if it had never stopped.
"""

import tensorflow as tf

PURPOSES = (
    "order",  # of the images in an epoch; the position is the epoch
    "views",  # crops and flips; the epoch, folded with the image's index
    "substitute",  # for an image that cannot be read; the same
    "query_view",  # photometric; the position is the step
    "key_view",
    "permutation",  # of Shuffling BN
    "queue",  # the first keys, before any image was encoded; the position is 0
)


def seed_for(purpose, seed, position):
    """The seed of a stateless draw.

    Args:
        purpose: one of `PURPOSES`.
        seed: int, the run's.
        position: int or integer scalar tensor.

    Returns:
        int64 `[2]`.
    """
    first = seed * len(PURPOSES) + PURPOSES.index(purpose)
    return tf.stack([tf.constant(first, tf.int64), tf.cast(position, tf.int64)])
