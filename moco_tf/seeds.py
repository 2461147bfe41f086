"""Seeds for every random draw, as functions of the run's seed, of the purpose and of a position.

No generator keeps any state, so a run can resume at any position as if it had never stopped.
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

# Each purpose has an id that never changes and is never reused, because it determines the random
# numbers of every run. Give a new purpose the next free id.
PURPOSES = {
    "order": 0,  # order of the images in an epoch; the position is the epoch
    "views": 1,  # crops and flips; the position is the epoch, the image's index is folded in
    "substitute": 2,  # replacement of an unreadable image; positions as for "views"
    "query_view": 3,  # photometric augmentation of the queries; the position is the step
    "key_view": 4,  # photometric augmentation of the keys; the position is the step
    "permutation": 5,  # permutation of Shuffling BN; the position is the step
    "queue": 6,  # keys in the queue before any image is encoded; the position is 0
    "orientations": 7,  # vertical flips and quarter turns; positions as for "views"
    "order_of_source": 8,  # order of the images of one source of a mixture; position: its pass
    "key_frame": 9,  # frame of the key view in a video; positions as for "views"
}
# The purposes of version 0.1, whose keys are interleaved: 7 * seed + id.
_NUM_INTERLEAVED = 7


def key_for(purpose: str, seed: int, position: int | tf.Tensor) -> list[int | tf.Tensor]:
    """Return the key of a counter-based random generator.

    Keys of different purposes or seeds are different for seeds below 2**40.

    Args:
        purpose: One of `PURPOSES`.
        seed: The run's seed, 0 or more.
        position: An epoch or a step, an int or an integer scalar tensor.

    Returns:
        Two numbers: one that stands for the purpose and the seed, and the position.

    Example:
        >>> key_for("views", seed=2, position=5)
        [15, 5]
    """
    purpose_id = PURPOSES[purpose]
    if purpose_id < _NUM_INTERLEAVED:
        return [_NUM_INTERLEAVED * seed + purpose_id, position]
    # Greater than every interleaved key, so that a new purpose does not change any other key.
    return [purpose_id * 2**40 + seed, position]


def seed_for(purpose: str, seed: int, position: int | tf.Tensor) -> tf.Tensor:
    """Return the seed of TensorFlow's stateless random operations.

    Args:
        purpose: One of `PURPOSES`.
        seed: The run's seed, 0 or more.
        position: An epoch or a step, an int or an integer scalar tensor.

    Returns:
        int64 `[2]`, the numbers of `key_for`.
    """
    return tf.stack([tf.cast(number, tf.int64) for number in key_for(purpose, seed, position)])


@contextlib.contextmanager
def restored_generators() -> Iterator[None]:
    """Let the random numbers of Python and NumPy go on after the block as if it had not run.

    Example:
        >>> random.seed(0)
        >>> with restored_generators():
        ...     random.seed(5)
        >>> random.random()
        0.8444218515250481
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
