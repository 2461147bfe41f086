"""The dictionary of keys that a query is looked up in (section 3.2): a queue, or a memory bank."""

import keras
import tensorflow as tf

from moco_tf.mechanisms.losses import l2_normalize
from moco_tf.seeds import seed_for


class Queue(keras.layers.Layer):
    """The dictionary as a queue: the newest K keys, the oldest of which leave first.

    Args:
        size: int K > 0.
        dim: int C, length of a key.
        seed: int, of the random unit vectors that fill the queue before the first keys come.

    Attributes:
        keys: non-trainable weight `[K, C]`, L2-normalised rows; float32 whatever the precision
            of the encoders (float64 under the dtype policy "float64").
        pointer: non-trainable int64 scalar, the row that the next key is written to.
    """

    def __init__(self, size, dim, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        self.dim = dim
        self.seed = seed

    def build(self, input_shape=None):
        frozen = dict(trainable=False, autocast=False)
        self.keys = self.add_weight(
            shape=(self.size, self.dim),
            initializer=random_unit_vectors(self.seed),
            name="keys",
            **frozen,
        )
        self.pointer = self.add_weight(
            shape=(), initializer="zeros", dtype="int64", name="pointer", **frozen
        )

    def enqueue(self, keys):
        """Writes `keys`, `[N, C]`, over the oldest; N and K may be any positive numbers.

        Of more than K keys at once only the last K stay, where they would have come to lie had
        they been enqueued one by one.
        """
        count = keys.shape[0]
        newest = tf.range(max(0, count - self.size), count, dtype=tf.int64)
        rows = (self.pointer.value + newest) % self.size
        kept = tf.cast(keys[max(0, count - self.size) :], self.keys.dtype)
        self.keys.assign(tf.tensor_scatter_nd_update(self.keys.value, rows[:, tf.newaxis], kept))
        self.pointer.assign((self.pointer.value + count) % self.size)


class Bank(keras.layers.Layer):
    """The dictionary as a memory bank: one representation of every image (Wu et al., CVPR 2018).

    Args:
        size: int M > 1, images of the data set.
        dim: int C, length of a representation.
        momentum: float in [0, 1], what is kept of an image's representation when the image is
            seen again; 0.5 in Wu et al.'s code.
        seed: int, of the random unit vectors that stand for the images that were not seen yet,
            and of the draws.

    Attributes:
        representations: non-trainable weight `[M, C]`, L2-normalised rows, one for each image;
            float32 whatever the precision of the encoder (float64 under the dtype policy
            "float64").
    """

    def __init__(self, size, dim, momentum=0.5, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        self.dim = dim
        self.momentum = momentum
        self.seed = seed

    def build(self, input_shape=None):
        self.representations = self.add_weight(
            shape=(self.size, self.dim),
            initializer=random_unit_vectors(self.seed),
            name="representations",
            trainable=False,
            autocast=False,
        )

    def look_up(self, rows):
        """The representations of the images at `rows`, int64 `[n]`: `[n, C]`."""
        return tf.gather(self.representations.value, rows)

    def draw(self, count, step):
        """Draws from the M - 1 other images of any image, with replacement, alike on all replicas.

        Args:
            count: int K.
            step: int64 scalar, the number of the step.

        Returns:
            int64 `[K]` of 0 to M - 2; draw r is row r for the images after it, and row r + 1 for
            the image at r and those before.
        """
        # There is no key view that would use this seed.
        seed = seed_for("key_view", self.seed, step)
        return tf.random.stateless_uniform([count], seed, 0, self.size - 1, tf.int64, alg="philox")

    def update(self, rows, queries):
        """Moves the representations of the images at `rows`, int64 `[N]`, to `queries`, `[N, C]`.

        `normalize(momentum * representation + (1 - momentum) * query)`; of an image that is there
        several times, by its last query.
        """
        queries = tf.cast(queries, self.representations.dtype)
        moved = self.momentum * self.look_up(rows) + (1 - self.momentum) * queries
        # Several writes to one row come in any order: let all of them write the same.
        same = rows[:, tf.newaxis] == rows
        last = tf.reduce_max(tf.where(same, tf.range(len(rows)), 0), axis=1)
        # In place: `assign` would copy the whole bank at every step.
        tf.raw_ops.ResourceScatterUpdate(
            resource=self.representations.value.handle,
            indices=rows,
            updates=tf.gather(l2_normalize(moved), last),
        )


def random_unit_vectors(seed):
    """An initializer of rows that lie evenly over the sphere; seed: int, the run's."""
    seed = seed_for("queue", seed, 0)

    def initializer(shape, dtype):
        return l2_normalize(tf.random.stateless_normal(shape, seed, dtype=dtype))

    return initializer
