"""Options of tf.data pipelines."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def without_tuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the same dataset with autotuning switched off.

    With autotuning, the end of an iterator often waits for the tuning thread to wake up, which
    takes as long as the iterator has run, and up to a minute.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def without_autograph(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function for a map of a dataset, traced as it is written.

    AutoGraph would first rewrite it, and everything that it calls, for Python's `if` and `for` on
    tensors, which takes about as long as the tracing itself.
    """
    return tf.autograph.experimental.do_not_convert(function)
