"""Views of the images of an evaluation: central views, and random views with labels.

Unlike in pre-training, an image that cannot be read has no substitute: its row is left blank.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from moco_tf.data import order
from moco_tf.data.batching import (
    batch_of_views,
    made_in_parallel,
    rows_of_steps,
    worker_batches,
)
from moco_tf.data.recipes import Recipe
from moco_tf.data.sources.source import Source
from moco_tf.data.views import central_view, random_view, view_draws


def central_views(
    source: Source,
    indices: ArrayLike,
    image_size: int,
    batch_size: int,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Return batches of the central views of images, which evaluations use.

    Every batch is full, and every replica gets the same number of batches. A row that fills up a
    batch or stands for an unreadable image has the index -1 and a blank image.

    Args:
        source: Data source.
        indices: Indices of the images, int64 `[M]`.
        image_size: Side of the views in pixels.
        batch_size: Batch size of one replica.
        context: Input context of this worker if there are several. The dataset then consists of the
            batches of its replicas, one after the other. None for one replica.

    Returns:
        Dataset of `(indices, images)`, int64 `[n]` and `[n, size, size, C]` of the type of the
        source's images.
    """
    batches = worker_batches(indices, batch_size, context)
    blank = (
        tf.constant(-1, tf.int64),
        tf.zeros([image_size, image_size, source.channels], source.dtype),
    )

    def view(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index, central_view(source.read(index), image_size)

    return made_in_parallel(
        tf.data.Dataset.from_tensor_slices(batches.reshape(-1, batch_size)),
        lambda indices: _views_or_blank(view, indices, blank),
    )


def labeled_views(
    source: Source,
    indices: ArrayLike,
    image_size: int,
    crop_scale: tuple[float, float],
    batch_size: int,
    seed: int,
    epochs: int,
    context: tf.distribute.InputContext | None = None,
    first_epoch: int = 0,
) -> tf.data.Dataset:
    """Return batches of one random view of each image, with labels, epoch after epoch.

    An epoch is a random order of all images. Every batch is full, and every replica gets the same
    number of batches. A row that fills up the last batch of an epoch or stands for an unreadable
    image has the label -1 and a blank image. Only the former has the index -1 as well.

    Args:
        source: Data source with labels.
        indices: Indices of the images of an epoch, int64 `[M]`.
        image_size: Side of the views in pixels.
        crop_scale: Smallest and largest share of an image's area in a crop. With `(1, 1)`, the view
            is the central view of evaluations, of which half are flipped. A crop would be the
            central part of a photo with an aspect ratio of at most 4:3, squeezed to a square.
        batch_size: Global batch size, a multiple of the number of replicas.
        seed: Random seed. An epoch is a function of the seed and of its number.
        epochs: Number of epochs.
        context: Input context of this worker if there are several. The dataset then consists of its
            replicas' shares of each batch, one after the other. None for whole batches.
        first_epoch: Number of the epoch to begin with, counted from 0; those before are left out.

    Returns:
        Dataset of `(indices, labels, images)`, int64 `[n]`, int32 `[n]` and
        `[n, size, size, C]` of the type of the source's images.
    """
    context = context or tf.distribute.InputContext(num_replicas_in_sync=1)
    recipe = Recipe(crop_scale=crop_scale)
    with tf.device("CPU"):
        # An array would be copied into every function that uses it, several times.
        labels = tf.constant(np.asarray(source.labels, np.int32))
    blank = tf.constant(-1), tf.zeros([image_size, image_size, source.channels], source.dtype)
    image_indices = np.asarray(indices, np.int64)
    steps_per_epoch = -(-len(image_indices) // batch_size)

    def rows(step: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, step_of_epoch = divmod(step, steps_per_epoch)
        first = step_of_epoch * batch_size
        positions = np.arange(first, min(first + batch_size, len(image_indices)))
        positions = order.in_epoch(positions, len(image_indices), seed, epoch)
        missing = batch_size - len(positions)
        padded = np.pad(image_indices[positions], [0, missing], constant_values=-1)
        return np.full(batch_size, epoch), padded

    def labeled_batch(epochs: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, ...]:
        epoch = epochs[0]

        def view(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            image = source.read(index)
            if tuple(crop_scale) == (1, 1):
                image = central_view(image, image_size)
            image = tf.numpy_function(crop, [epoch, index, image], source.dtype)
            return labels[index], tf.ensure_shape(image, blank[1].shape)

        return indices, *_views_or_blank(view, indices, blank)

    def crop(epoch: np.ndarray, index: np.ndarray, image: np.ndarray) -> np.ndarray:
        draws, _ = view_draws(seed, int(epoch), int(index))
        return random_view(image, image_size, recipe, draws)

    return made_in_parallel(
        rows_of_steps(
            rows, first_epoch * steps_per_epoch, epochs * steps_per_epoch, batch_size, context
        ),
        labeled_batch,
    )


def _views_or_blank(
    view: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    indices: tf.Tensor,
    blank: tuple[tf.Tensor, tf.Tensor],
) -> tuple[tf.Tensor, ...]:
    """Return the views of the images of a batch.

    Args:
        view: Function of the index of an image, which fails if the image cannot be read.
        indices: int64 `[n]`. Rows with the index -1 fill up the batch.
        blank: The row of an image that cannot be read, and of the index -1.
    """

    def view_if_present(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cond(index >= 0, lambda: view(index), lambda: blank)

    def view_if_readable(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return (
            tf.data.Dataset.from_tensors(index)
            .map(view_if_present)
            .ignore_errors(log_warning=False)
            .concatenate(tf.data.Dataset.from_tensors(blank))
            .take(1)
            .get_single_element()
        )

    return batch_of_views((indices,), view_if_present, view_if_readable)
