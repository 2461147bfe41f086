"""Batches of indices and of their images, in which every batch depends only on its position."""

import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from moco_tf.data.tuning import without_autograph, without_tuning


def worker_batches(
    indices: ArrayLike,
    batch_size: int,
    context: tf.distribute.InputContext | None = None,
) -> np.ndarray:
    """Split images into batches of all replicas, and return those of one worker.

    The last batches are filled up with -1.

    Args:
        indices: Integers `[M]`.
        batch_size: Batch size of one replica.
        context: Input context of this worker if there are several. None for one replica.

    Returns:
        The batches of this worker's replicas, int64 `[steps, replicas, batch_size]`.

    Example:
        >>> worker_batches([5, 6, 7], batch_size=2).tolist()
        [[[5, 6]], [[7, -1]]]
    """
    context = context or tf.distribute.InputContext(num_replicas_in_sync=1)
    rows = np.asarray(indices, np.int64)
    missing = -len(rows) % (batch_size * context.num_replicas_in_sync)
    rows = np.concatenate([rows, np.full(missing, -1)])
    replicas = rows.reshape(-1, context.num_replicas_in_sync, batch_size)
    return np.split(replicas, context.num_input_pipelines, axis=1)[context.input_pipeline_id]


def rows_of_steps(
    rows: Callable[[int], tuple[np.ndarray, np.ndarray]],
    start: int,
    end: int,
    batch_size: int,
    context: tf.distribute.InputContext,
) -> tf.data.Dataset:
    """Return which images the batches of some steps consist of.

    Args:
        rows: Function from the number of a step to the epochs and the indices of the images of its
            global batch, int64 `[batch_size]` each.
        start: First step.
        end: Step to stop before.
        batch_size: Global batch size.
        context: Input context of the worker. Its replicas are next to each other in a batch.

    Returns:
        Dataset of the epochs and the indices of the batches of the worker's replicas, one after the
        other, int64 `[n]` each.
    """
    replica_batch_size = context.get_per_replica_batch_size(batch_size)

    def batches_of_step(step: tf.Tensor) -> tf.data.Dataset:
        columns = tf.numpy_function(lambda step: rows(int(step)), [step], [tf.int64, tf.int64])
        shares = []
        for column in columns:
            workers = tf.split(tf.ensure_shape(column, [batch_size]), context.num_input_pipelines)
            shares.append(tf.reshape(workers[context.input_pipeline_id], [-1, replica_batch_size]))
        return tf.data.Dataset.from_tensor_slices(tuple(shares))

    return tf.data.Dataset.range(start, end).flat_map(without_autograph(batches_of_step))


def batch_of_views(
    rows: tuple[tf.Tensor, ...],
    view: Callable[..., tuple[tf.Tensor, ...]],
    view_or_substitute: Callable[..., tuple[tf.Tensor, ...]],
) -> tuple[tf.Tensor, ...]:
    """Return the views of the rows of one batch, for the map of a dataset.

    Handling errors image by image takes time, so the images are first read without it. If one of
    them cannot be read, the whole batch is made again with substitutes.

    Args:
        rows: Tensors `[n, ...]`.
        view: Function of the values of one row, which fails if its image cannot be read.
        view_or_substitute: The same function, except that it does not fail.

    Returns:
        The results of one of the functions, tensors `[n, ...]`.
    """

    def views(view: Callable[..., tuple[tf.Tensor, ...]]) -> tf.data.Dataset:
        return (
            tf.data.Dataset.from_tensor_slices(rows)
            .map(without_autograph(view), num_parallel_calls=os.cpu_count(), deterministic=True)
            .batch(rows[0].shape[0], drop_remainder=True)
        )

    return (
        views(view)
        .ignore_errors(log_warning=False)
        .concatenate(views(view_or_substitute))
        .take(1)
        .get_single_element()
    )


def made_in_parallel(
    batches: tf.data.Dataset, make: Callable[..., tuple[tf.Tensor, ...]]
) -> tf.data.Dataset:
    """Return the results of a function of each batch, in order, ahead of their use."""
    # Two in parallel, so that no core waits for the last images of a batch.
    return without_tuning(
        batches.map(without_autograph(make), num_parallel_calls=2, deterministic=True).prefetch(2)
    )
