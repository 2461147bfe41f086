"""A data source of arrays, some of whose images cannot be read."""

import numpy as np
import tensorflow as tf

from moco_tf.data.sources.source import Source


def source_of(images, labels, train, test=(), unreadable=()):
    """A source of uint8 `[N, H, W, C]` and int `[N]`."""
    images, broken = tf.constant(images), tf.constant(list(unreadable), tf.int64)

    def read(index):
        readable = tf.reduce_all(broken != index)
        with tf.control_dependencies([tf.debugging.Assert(readable, ["damaged"])]):
            return tf.gather(images, index)

    return Source(
        name="memory",
        size=len(images),
        read=read,
        describe=str,
        pretrain=np.arange(len(images)),
        train=np.asarray(train, np.int64),
        test=np.asarray(test, np.int64),
        labels=np.asarray(labels, np.int32),
        class_names=[f"class {number}" for number in range(max(labels) + 1)],
        channels=images.shape[-1],
    )
