"""Dictionaries of keys that queries are compared with (section 3.2): a queue, or a memory bank."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from moco_tf.mechanisms.losses import l2_normalize
from moco_tf.seeds import seed_for


class Queue(keras.layers.Layer):
    """A dictionary of the newest K keys, in which new keys replace the oldest.

    Args:
        size: Number K of keys, greater than 0.
        dim: Length C of a key.
        seed: Random seed of the unit vectors that fill the queue before the first keys.
        with_frames: Whether the queue also keeps which frame of a video each key comes from.
        **kwargs: Arguments of `keras.layers.Layer`.

    Attributes:
        keys: Non-trainable weight `[K, C]` with L2-normalized rows. It is float32 for any
            precision of the encoders, and float64 under the dtype policy "float64".
        pointer: Non-trainable int64 scalar, the row that the next key is written to.
        frames: Non-trainable int64 `[K]`, the index of the frame of each key, -1 before the first
            keys; only with `with_frames`.

    Example:
        >>> queue = Queue(size=3, dim=2)
        >>> queue.build()
        >>> queue.enqueue(tf.constant([[1.0, 0.0], [0.0, 1.0]]))
        >>> queue.keys.numpy()[:2].tolist(), int(queue.pointer.numpy())
        ([[1.0, 0.0], [0.0, 1.0]], 2)
    """

    def __init__(
        self, size: int, dim: int, seed: int = 0, with_frames: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.dim = dim
        self.seed = seed
        self.with_frames = with_frames

    def build(self, input_shape: Any = None) -> None:
        """Create the weights."""
        self.keys = self.add_weight(
            shape=(self.size, self.dim),
            initializer=random_unit_vectors(self.seed),
            trainable=False,
            autocast=False,
            name="keys",
        )
        self.pointer = self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int64",
            trainable=False,
            autocast=False,
            name="pointer",
        )
        if self.with_frames:
            self.frames = self.add_weight(
                shape=(self.size,),
                initializer=keras.initializers.Constant(-1),
                dtype="int64",
                trainable=False,
                autocast=False,
                name="frames",
            )

    def is_within(self, ranges: tf.Tensor) -> tf.Tensor:
        """Return which keys come from a range of frames.

        Args:
            ranges: int64 `[n, 2]`, the first frame of each range, and the one behind it.

        Returns:
            bool `[n, K]`.
        """
        first, end = tf.split(ranges, 2, axis=1)  # n x 1 each
        return (self.frames.value >= first) & (self.frames.value < end)

    def enqueue(self, keys: tf.Tensor, frames: tf.Tensor | None = None) -> None:
        """Replace the oldest keys.

        If there are more than K new keys, the queue keeps the last K, at the rows that they would
        have if all keys were enqueued one by one.

        Args:
            keys: `[N, C]`, L2-normalized. N need not divide K.
            frames: int64 `[N]`, the indices of the frames of the keys; required with `with_frames`.
        """
        count = keys.shape[0]
        newest = tf.range(max(0, count - self.size), count, dtype=tf.int64)
        rows = (self.pointer.value + newest) % self.size
        if frames is not None:
            newest_frames = frames[max(0, count - self.size) :]
            self.frames.assign(
                tf.tensor_scatter_nd_update(self.frames.value, rows[:, tf.newaxis], newest_frames)
            )
        newest_keys = tf.cast(keys[max(0, count - self.size) :], self.keys.dtype)
        self.keys.assign(
            tf.tensor_scatter_nd_update(self.keys.value, rows[:, tf.newaxis], newest_keys)
        )
        self.pointer.assign((self.pointer.value + count) % self.size)


class Bank(keras.layers.Layer):
    """A memory bank, with one representation of every image (Wu et al., CVPR 2018).

    Args:
        size: Number M of images in the data set, greater than 1.
        dim: Length C of a representation.
        momentum: Fraction of an image's representation that is kept when the image is seen again,
            in [0, 1]; 0.5 in the code of Wu et al.
        seed: Random seed of the draws, and of the unit vectors that represent the images before
            they are seen.
        **kwargs: Arguments of `keras.layers.Layer`.

    Attributes:
        representations: Non-trainable weight `[M, C]` with L2-normalized rows, one for each image.
            It is float32 for any precision of the encoder, and float64 under the dtype policy
            "float64".

    Example:
        >>> bank = Bank(size=4, dim=2, momentum=0.0)
        >>> bank.build()
        >>> bank.update(tf.constant([2], tf.int64), tf.constant([[0.0, 1.0]]))
        >>> bank.look_up(tf.constant([2], tf.int64)).numpy().tolist()
        [[0.0, 1.0]]
    """

    def __init__(
        self, size: int, dim: int, momentum: float = 0.5, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.dim = dim
        self.momentum = momentum
        self.seed = seed

    def build(self, input_shape: Any = None) -> None:
        """Create the weights."""
        self.representations = self.add_weight(
            shape=(self.size, self.dim),
            initializer=random_unit_vectors(self.seed),
            trainable=False,
            autocast=False,
            name="representations",
        )

    def look_up(self, rows: tf.Tensor) -> tf.Tensor:
        """Return the representations of the images at `rows`, int64 `[n]`, as `[n, C]`."""
        return tf.gather(self.representations.value, rows)

    def draw(self, count: int, step: int | tf.Tensor) -> tf.Tensor:
        """Draw from the M - 1 images other than the query's, with replacement.

        The draws are the same on every replica. A draw r stands for row r of the bank if r is less
        than the row of the query's image, and for row r + 1 otherwise.

        Args:
            count: Number K of draws.
            step: int64 scalar, the number of the step.

        Returns:
            int64 `[K]`, uniform from 0 to M - 2.
        """
        # The seed of the key view is free, since this mechanism has no key view.
        seed = seed_for("key_view", self.seed, step)
        return tf.random.stateless_uniform([count], seed, 0, self.size - 1, tf.int64, alg="philox")

    def update(self, rows: tf.Tensor, queries: tf.Tensor) -> None:
        """Move representations towards queries.

        The new representation is normalize(momentum * representation + (1 - momentum) * query). If
        an image occurs more than once, its last query counts.

        Args:
            rows: int64 `[N]`, the rows of the images in the bank.
            queries: `[N, C]`, L2-normalized.
        """
        queries = tf.cast(queries, self.representations.dtype)
        updated = self.momentum * self.look_up(rows) + (1 - self.momentum) * queries
        # The order of several writes to one row is undefined, so all of them write the same value.
        is_same_image = rows[:, tf.newaxis] == rows
        numbers = tf.range(rows.shape[0], dtype=tf.int64)
        last = tf.reduce_max(tf.where(is_same_image, numbers, 0), axis=1)
        # In place, since `assign` would copy the whole bank in every step.
        tf.raw_ops.ResourceScatterUpdate(
            resource=self.representations.value.handle,
            indices=rows,
            updates=tf.gather(l2_normalize(updated), last),
        )


def random_unit_vectors(seed: int) -> Callable[[tuple[int, ...], str], tf.Tensor]:
    """Return an initializer whose rows are uniformly distributed on the unit sphere.

    Args:
        seed: Random seed of the run.
    """
    queue_seed = seed_for("queue", seed, 0)

    def initializer(shape: tuple[int, ...], dtype: str) -> tf.Tensor:
        return l2_normalize(tf.random.stateless_normal(shape, queue_seed, dtype=dtype))

    return initializer
