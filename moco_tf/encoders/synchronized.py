"""BatchNormalization that is synchronized across replicas, for fine-tuning.

The paper fine-tunes with synchronized BatchNormalization (section 4.2, Normalization).
Pre-training does the opposite and uses statistics of parts of the batch; see
`moco_tf.encoders.normalization`.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import keras
import tensorflow as tf

from moco_tf.distribution import num_replicas
from moco_tf.encoders.cloning import clone, train_all_layers, trainable_copy
from moco_tf.encoders.normalization import BatchNormalization

# A context variable, since MirroredStrategy traces the step of each replica in its own thread.
_present: contextvars.ContextVar[tf.Tensor | None] = contextvars.ContextVar("present", default=None)


@contextlib.contextmanager
def statistics_of(present: tf.Tensor) -> Iterator[None]:
    """Restrict the statistics of synchronized layers to some images of the batch of a replica.

    Args:
        present: bool `[n]`; `False` for a row that is padding.
    """
    token = _present.set(present)
    try:
        yield
    finally:
        _present.reset(token)


@keras.saving.register_keras_serializable("moco_tf")
class SynchronizedBatchNormalization(BatchNormalization):
    """Batch normalization that trains with the mean and the variance of the global batch.

    With one replica this is `BatchNormalization` with one group, over all rows. With several
    replicas, the layer sums over the replicas and lets the gradients pass, and `statistics_of`
    selects the rows that count. The arguments are those of `BatchNormalization`; `groups` must
    be 1.
    """

    def _normalize_by_batch(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        if num_replicas() == 1:
            return super()._normalize_by_batch(x)
        values = tf.cast(x, self.variable_dtype)
        shape, present = tf.shape(x), _present.get()
        rows = tf.ones(shape[:1], values.dtype) if present is None else present
        weights = tf.cast(rows, values.dtype)[:, tf.newaxis, tf.newaxis, tf.newaxis]
        pixels = tf.cast(shape[1] * shape[2], values.dtype)
        count = _sum_over_replicas(pixels * tf.reduce_sum(weights))
        mean = _sum_over_replicas(tf.reduce_sum(weights * values, [0, 1, 2])) / count
        # A separate sum, since the mean of the squares minus the squared mean loses digits.
        squares = weights * (values - mean) ** 2
        variance = _sum_over_replicas(tf.reduce_sum(squares, [0, 1, 2])) / count
        gamma, beta = self._gamma_and_beta()
        y = tf.nn.batch_normalization(values, mean, variance, beta, gamma, self.epsilon)
        return tf.cast(y, x.dtype), mean, variance * count / tf.maximum(count - 1, 1)


def _sum_over_replicas(x: tf.Tensor) -> tf.Tensor:
    return tf.distribute.get_replica_context().all_reduce("SUM", x)


def synchronized(backbone: keras.Model) -> keras.Model:
    """Return a copy of a backbone that normalizes with the statistics of the global batch.

    Args:
        backbone: A functional `keras.Model`, such as `moco_tf.load_backbone` returns.

    Returns:
        A `keras.Model` with the same values in variables of its own. All of its layers can be
        trained, also those that are frozen in the backbone.

    Example:
        >>> backbone = moco_tf.encoders.build("resnet8", stem="small", bn_groups=8)
        >>> synchronized(backbone).output_shape
        (None, 64)
    """

    def of_all_replicas(layer: keras.layers.Layer) -> keras.layers.Layer:
        names = ("momentum", "epsilon", "scale", "center", "name", "dtype")
        config = layer.get_config()
        return SynchronizedBatchNormalization(**{name: config[name] for name in names})

    copied = clone(backbone, of_all_replicas, trainable_copy)
    train_all_layers(copied)
    return copied
