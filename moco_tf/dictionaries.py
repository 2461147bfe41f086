"""The dictionary of keys that a query is looked up in (section 3.2)."""

import keras
import tensorflow as tf

from moco_tf.contrast import l2_normalize
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
        seed = seed_for("queue", self.seed, 0)

        def random_unit_vectors(shape, dtype):
            return l2_normalize(tf.random.stateless_normal(shape, seed, dtype=dtype))

        frozen = dict(trainable=False, autocast=False)
        self.keys = self.add_weight(
            shape=(self.size, self.dim), initializer=random_unit_vectors, name="keys", **frozen
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
