"""Options of tf.data pipelines."""

import tensorflow as tf


def without_tuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the same dataset with autotuning switched off.

    With autotuning, the end of an iterator often waits for the tuning thread to wake up, which
    takes as long as the iterator has run, and up to a minute.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
