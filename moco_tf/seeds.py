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


def key_for(purpose, seed, position):
    """The key of a counter-based generator.

    Args:
        purpose: one of `PURPOSES`.
        seed: int, the run's.
        position: int, or an integer scalar tensor.

    Returns:
        Two numbers, the second of which is the position.
    """
    return [seed * len(PURPOSES) + PURPOSES.index(purpose), position]


def seed_for(purpose, seed, position):
    """The seed of TensorFlow's stateless draws.

    Args:
        purpose, seed, position: of `key_for`.

    Returns:
        int64 `[2]`.
    """
    return tf.stack([tf.cast(number, tf.int64) for number in key_for(purpose, seed, position)])
