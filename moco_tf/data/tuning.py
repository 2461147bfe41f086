"""What tf.data is told to leave alone."""

import tensorflow as tf


def without_tuning(dataset):
    """The same `tf.data.Dataset`, of which TensorFlow tunes nothing while it runs.

    Where it may, the end of an iterator often waits for the tuning thread to wake up, for as long
    as the iterator has run, and up to a minute.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
