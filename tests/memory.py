"""A data source of arrays, in which chosen images cannot be read."""

import numpy as np
import tensorflow as tf

from moco_tf.data.sources.source import Source


def source_of(images, labels, train, test=(), unreadable=()):
    """Return a source of images, uint8 `[N, H, W, C]`, with labels, int `[N]`."""
    images, unreadable = tf.constant(images), tf.constant(list(unreadable), tf.int64)
    labels = np.asarray(labels, np.int32)
    class_names = [f"class {number}" for number in range(max(labels) + 1)]

    def read(index):
        is_readable = tf.reduce_all(unreadable != index)
        with tf.control_dependencies([tf.debugging.Assert(is_readable, ["damaged"])]):
            return tf.gather(images, index)

    return Source(
        name="memory",
        size=len(images),
        read=read,
        describe=str,
        pretrain=np.arange(len(images)),
        train=np.asarray(train, np.int64),
        test=np.asarray(test, np.int64),
        load_labels=lambda: (labels, class_names),
        channels=images.shape[-1],
    )


def lost_after(steps, labeled_views):
    """Return `labeled_views` as if no image could be read any more after some steps."""

    def lose(step, batch):
        indices, labels, images = batch
        is_lost = step >= steps
        return (
            indices,
            tf.where(is_lost, -1, labels),
            tf.where(is_lost, tf.cast(0, "uint8"), images),
        )

    return lambda *args, **kwargs: labeled_views(*args, **kwargs).enumerate().map(lose)
