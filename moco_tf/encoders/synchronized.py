"""BatchNormalization synchronised across replicas, for fine-tuning (section 4.2, Normalization).

Pre-training wants the opposite, statistics of a part of the batch: see `normalization`.
"""

import contextlib
import contextvars

import keras
import tensorflow as tf

from moco_tf.distribution import num_replicas
from moco_tf.encoders.normalization import BatchNormalization

# Of this thread: MirroredStrategy traces every replica's step in one of its own.
_present = contextvars.ContextVar("present", default=None)


@contextlib.contextmanager
def statistics_of(present):
    """Lets the statistics of synchronised layers be those of some images of a replica's batch.

    Args:
        present: bool `[n]`, False for a row that stands for nothing.
    """
    before = _present.set(present)
    try:
        yield
    finally:
        _present.reset(before)


@keras.saving.register_keras_serializable("moco_tf")
class SynchronizedBatchNormalization(BatchNormalization):
    """In training, batch normalisation by mean and variance of the global batch.

    With one replica it is `BatchNormalization` of one group, over all rows. With several, a layer
    adds two sums over the replicas, and their gradients pass; `statistics_of` says which rows
    count. Its arguments are those of `BatchNormalization`, with `groups` 1.
    """

    def _normalize(self, x, mean=None, variance=None):
        if mean is not None or num_replicas() == 1:
            return super()._normalize(x, mean, variance)
        values = tf.cast(x, self.variable_dtype)
        shape, present = tf.shape(x), _present.get()
        rows = tf.ones(shape[:1], values.dtype) if present is None else present
        weights = tf.cast(rows, values.dtype)[:, tf.newaxis, tf.newaxis, tf.newaxis]
        pixels = tf.cast(shape[1] * shape[2], values.dtype)
        count = _sum_of_replicas(pixels * tf.reduce_sum(weights))
        mean = _sum_of_replicas(tf.reduce_sum(weights * values, [0, 1, 2])) / count
        # In two sums, since a mean of squares less a squared mean loses digits.
        squares = weights * (values - mean) ** 2
        variance = _sum_of_replicas(tf.reduce_sum(squares, [0, 1, 2])) / count
        beta, gamma = self.beta.value, self.gamma.value
        y = tf.nn.batch_normalization(values, mean, variance, beta, gamma, self.epsilon)
        return tf.cast(y, x.dtype), mean, variance * count / tf.maximum(count - 1, 1)


def _sum_of_replicas(x):
    return tf.distribute.get_replica_context().all_reduce("SUM", x)


def synchronized(backbone):
    """A copy of a backbone, with BatchNormalization by the statistics of the global batch.

    Args:
        backbone: a functional `keras.Model`, such as `moco_tf.load_backbone` returns.

    Returns:
        A `keras.Model` of the same numbers, in variables of its own.
    """

    def copy(layer):
        config = layer.get_config()
        if isinstance(layer, BatchNormalization):
            return SynchronizedBatchNormalization.from_config({**config, "groups": 1})
        return type(layer).from_config(config)

    copied = keras.models.clone_model(backbone, clone_function=copy, recursive=True)
    copied.set_weights(backbone.get_weights())
    return copied
