"""Replicas: the strategy that runs them, and what one replica needs to know of the others."""

import tensorflow as tf

from moco_tf.errors import UserError


def make_strategy(name):
    """The `tf.distribute` strategy behind `--strategy`.

    Args:
        name: "default", one GPU if there is one and the CPU otherwise; or "mirrored", one
            replica on each GPU, or on each logical CPU device where there is no GPU.

    Raises:
        UserError: the name is neither of the two.
    """
    if name == "default":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        return tf.distribute.MirroredStrategy(devices)
    raise UserError(f"--strategy={name}: choose default or mirrored")


def split_cpu(count):
    """Makes `count` logical devices of the CPU; must come before TensorFlow's first operation.

    Raises:
        UserError: `count` is below 1.
    """
    if count < 1:
        raise UserError(f"--virtual_devices={count}: give 1 or more")
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * count
    )


def num_replicas():
    """How many replicas share the current step, int."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def own_rows(count):
    """Where this replica's `count` rows stand in the global batch, int32 `[count]`."""
    if num_replicas() == 1:
        return tf.range(count)
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return replica * count + tf.range(count)


def all_gather(x):
    """`x` of every replica, `[n, ...]`, as one global batch `[replicas * n, ...]`."""
    if num_replicas() == 1:
        return x
    shape = [num_replicas() * x.shape[0], *x.shape[1:]]
    if x.dtype == tf.uint8:
        # Collectives do not take uint8, and would send int32 through one device: eight of them
        # travel as one int64.
        rows = tf.reshape(x, [x.shape[0], -1])
        length = rows.shape[1]
        rows = tf.pad(rows, [[0, 0], [0, -length % 8]])
        words = all_gather(tf.bitcast(tf.reshape(rows, [x.shape[0], -1, 8]), tf.int64))
        rows = tf.reshape(tf.bitcast(words, tf.uint8), [shape[0], -1])
        return tf.reshape(rows[:, :length], shape)
    gathered = tf.distribute.get_replica_context().all_gather(x, axis=0)
    return tf.ensure_shape(gathered, shape)
