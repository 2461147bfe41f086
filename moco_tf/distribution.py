"""Communication between the replicas of a strategy."""

import math
from collections.abc import Callable, Sequence

import tensorflow as tf


def num_replicas() -> int:
    """Return the number of replicas of the current strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def replicas_in_main_memory() -> int:
    """Return the number of replicas with variables in the main memory of this machine.

    It is 0 if there are GPUs or TPUs.
    """
    if tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"):
        return 0
    if num_replicas() == 1:
        return 1
    return len(tf.distribute.get_strategy().extended.worker_devices)


def replica_rows(count: int) -> tf.Tensor:
    """Return the rows of the global batch that this replica has, int32 `[count]`.

    Args:
        count: Number of rows of each replica.
    """
    if num_replicas() == 1:
        return tf.range(count)
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return replica * count + tf.range(count)


def all_gather(x: tf.Tensor) -> tf.Tensor:
    """Return `x` of all replicas as one global batch.

    Gradients pass: the gradient of `x` is the sum over the losses of all replicas.

    Args:
        x: `[n, ...]`, of the same shape on every replica.

    Returns:
        `[replicas * n, ...]`, in the order of the replicas and the same on each of them.
    """
    if num_replicas() == 1:
        return x
    shape = [num_replicas() * x.shape[0], *x.shape[1:]]
    if x.dtype == tf.uint8:  # Collectives do not support it.
        return to_bytes(all_gather(to_integers(x)), shape)
    replica = tf.distribute.get_replica_context()

    # TensorFlow's own gradient also gathers the number of rows, which is the same everywhere here.
    @tf.custom_gradient
    def gather(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            upstream = replica.all_reduce("SUM", tf.convert_to_tensor(upstream))
            return tf.gather(upstream, replica_rows(x.shape[0]))

        # `all_gather` requires a tensor on a device, and the argument of a function is on none.
        return tf.ensure_shape(replica.all_gather(tf.identity(x), axis=0), shape), gradient

    return gather(x)


def to_integers(x: tf.Tensor) -> tf.Tensor:
    """Return the rows of bytes as rows of longer integers, which every device can gather.

    Args:
        x: uint8 `[n, ...]`.

    Returns:
        int64 `[n, M]`, or int32 on TPUs. `to_bytes` is the inverse.

    Example:
        >>> integers = to_integers(tf.zeros([4, 3, 3, 3], tf.uint8))
        >>> integers.shape, to_bytes(integers, [4, 3, 3, 3]).dtype
        (TensorShape([4, 4]), tf.uint8)
    """
    # TPUs sum int32, but MirroredStrategy would send int32 through a single device.
    on_tpu = isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)
    dtype = tf.int32 if on_tpu else tf.int64
    rows = tf.reshape(x, [x.shape[0], -1])
    if missing := -rows.shape[1] % dtype.size:
        rows = tf.pad(rows, [[0, 0], [0, missing]])
    return tf.bitcast(tf.reshape(rows, [x.shape[0], -1, dtype.size]), dtype)


def to_bytes(integers: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Return rows of integers as the bytes that `to_integers` was called with.

    Args:
        integers: `[n, M]`.
        shape: Shape of the bytes, `[n, ...]`.

    Returns:
        uint8 of that shape.
    """
    rows = tf.reshape(tf.bitcast(integers, tf.uint8), [shape[0], -1])
    return tf.reshape(rows[:, : math.prod(shape[1:])], shape)
