"""Batches of annotated images as squares of one size.

A square holds the whole image in its top left corner, with its proportions kept, and padding in the
mean color. `moco_tf.data.boxes.geometry` converts positions.
"""

import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tensorflow as tf

from moco_tf.data import order
from moco_tf.data.batching import rows_of_steps, worker_batches
from moco_tf.data.boxes.annotations import AnnotatedImages, Annotations
from moco_tf.data.boxes.geometry import fitted
from moco_tf.data.normalization import mean_and_std
from moco_tf.data.tuning import without_autograph, without_tuning
from moco_tf.data.views import FLIP_PROBABILITY, resize
from moco_tf.errors import UserError
from moco_tf.files import error_reason
from moco_tf.seeds import key_for

# The color that the normalization of the encoder maps to nearly 0.
PADDING = tuple(round(255 * value) for value in mean_and_std(3)[0])


def is_flipped(seed: int, epoch: int, index: int) -> bool:
    """Return whether an image is mirrored in an epoch, which has the probability 1/2.

    Args:
        seed: Seed of the training.
        epoch: Number of the epoch.
        index: Index of the image.
    """
    generator = np.random.Philox(key=key_for("views", seed, epoch), counter=[0, 0, 0, index])
    # The upper 53 bits as a float in [0, 1).
    return (generator.random_raw() >> 11) * 2.0**-53 < FLIP_PROBABILITY


class TrainingBatches:
    """Batches of squares for training. Each image is mirrored at random.

    Every epoch contains all images in a random order, and a batch may contain the end of one epoch
    and the beginning of the next. The batch of a step depends only on the seed and on the number of
    the step.

    Args:
        images: The images, of which those of `images.train` are used.
        image_size: Side of the squares in pixels.
        batch_size: Number of images in the global batch.
        seed: Seed of the order of the images and of their mirroring.
        targets: Function that returns the other elements of an example as a list of arrays, from
            the `Annotations` of an image, its height, its width, and whether it is mirrored.
        specs: A `tf.TensorSpec` for each of these arrays.
    """

    def __init__(
        self,
        images: AnnotatedImages,
        image_size: int,
        batch_size: int,
        seed: int,
        targets: Callable[[Annotations, int, int, bool], Sequence[np.ndarray]],
        specs: Sequence[tf.TensorSpec],
    ) -> None:
        self.images = images
        self.image_size = image_size
        self.batch_size = batch_size
        self.seed = seed
        self.targets = targets
        self.specs = specs

    def until(
        self, steps: int, context: tf.distribute.InputContext | None = None, start: int = 0
    ) -> tf.data.Dataset:
        """Return the batches of the first steps.

        Args:
            steps: Number of steps.
            context: Input context of this worker if there are several. The dataset then consists of
                its replicas' shares of each batch, one after the other. None for whole batches.
            start: Step to begin with, counted from 0; those before are left out.

        Returns:
            A data set of tuples: the images, uint8 `[n, size, size, 3]`, followed by the targets.
        """
        context = context or tf.distribute.InputContext(num_replicas_in_sync=1)
        rows = rows_of_steps(self.rows, start, steps, self.batch_size, context)
        return without_tuning(
            rows.unbatch()
            .map(
                without_autograph(self._example),
                num_parallel_calls=os.cpu_count(),
                deterministic=True,
            )
            .batch(context.get_per_replica_batch_size(self.batch_size), drop_remainder=True)
            .prefetch(2)
        )

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the epoch and the index of each image of a step, int64 `[batch_size]` each."""
        num_images = len(self.images.train)
        first = step * self.batch_size
        epochs, positions = np.divmod(np.arange(first, first + self.batch_size), num_images)
        for epoch in np.unique(epochs):
            is_in = epochs == epoch
            positions[is_in] = order.in_epoch(positions[is_in], num_images, self.seed, int(epoch))
        return epochs, self.images.train[positions]

    def _example(self, epoch: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, ...]:
        image = self.images.read(index)
        square = in_square(image, self.image_size)
        height, width = tf.unstack(tf.shape(image)[:2])
        dtypes = [tf.uint8, *(spec.dtype for spec in self.specs)]
        arrays = tf.numpy_function(
            self._with_targets, [epoch, index, square, height, width], dtypes
        )
        shapes = [square.shape, *(spec.shape for spec in self.specs)]
        return tuple(tf.ensure_shape(*pair) for pair in zip(arrays, shapes, strict=True))

    def _with_targets(
        self,
        epoch: np.int64,
        index: np.int64,
        square: np.ndarray,
        height: np.int32,
        width: np.int32,
    ) -> list[np.ndarray]:
        """Return the square, mirrored or not, and the targets that belong to it."""
        annotations = self.images.annotations(int(index), int(height), int(width))
        flip = is_flipped(self.seed, int(epoch), int(index))
        if flip:
            _, new_width = fitted(int(height), int(width), self.image_size)
            square = square.copy()
            square[:, :new_width] = square[:, :new_width][:, ::-1]
        return [square, *self.targets(annotations, int(height), int(width), flip)]


def in_square(image: tf.Tensor, size: int) -> tf.Tensor:
    """Return the square of an image.

    Args:
        image: uint8 `[H, W, 3]`.
        size: Side of the square in pixels.

    Returns:
        uint8 `[size, size, 3]`.
    """

    def fitted_shape(shape: np.ndarray) -> np.ndarray:
        return np.array(fitted(int(shape[0]), int(shape[1]), size), np.int64)

    new_shape = tf.numpy_function(fitted_shape, [tf.shape(image)], tf.int64, stateful=False)
    height, width = tf.unstack(tf.ensure_shape(new_shape, [2]))
    resized = resize(image, height, width)
    padding = [[0, size - height], [0, size - width], [0, 0]]
    # Relative to the padding color, so that tf.pad fills all three channels at once. Unlike uint8,
    # int32 does not wrap around.
    color = tf.constant(PADDING, tf.int32)
    square = tf.pad(tf.cast(resized, tf.int32) - color, padding) + color
    return tf.ensure_shape(tf.cast(square, tf.uint8), [size, size, 3])


def batches_to_evaluate(
    images: AnnotatedImages,
    indices: np.ndarray,
    image_size: int,
    batch_size: int,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Return batches of squares for evaluation.

    Every batch is full, and all replicas get the same number of batches. A row that fills up a
    batch has the index -1 and an empty image.

    Args:
        images: The images.
        indices: int64 `[M]`, the indices of the images to evaluate.
        image_size: Side of the squares in pixels.
        batch_size: Number of images in the batch of one replica.
        context: As in `TrainingBatches.until`.

    Returns:
        A data set of `(indices, shapes, images)`: int64 `[n]`; int32 `[n, 2]`, the height and width
        of each image as it was read; uint8 `[n, size, size, 3]`.
    """
    worker_indices = worker_batches(indices, batch_size, context)

    def example(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        image = tf.cond(
            index < 0,
            lambda: tf.zeros([1, 1, 3], tf.uint8),
            lambda: tf.ensure_shape(images.read(index), [None, None, 3]),
        )
        return index, tf.shape(image)[:2], in_square(image, image_size)

    return without_tuning(
        tf.data.Dataset.from_tensor_slices(worker_indices.ravel())
        .map(without_autograph(example), num_parallel_calls=os.cpu_count(), deterministic=True)
        .batch(batch_size, drop_remainder=True)
        .prefetch(2)
    )


def require_readable(
    images: AnnotatedImages, indices: Iterable[int], error: tf.errors.OpError
) -> None:
    """Check that images can be read, and otherwise raise an error that names the first that cannot.

    Args:
        images: The images.
        indices: Indices of the images to check.
        error: The error that reading them caused.

    Raises:
        UserError: If an image cannot be read, or its annotations are invalid.
    """
    for index in indices:
        try:
            height, width = images.read(tf.constant(index, tf.int64)).shape[:2]
        except tf.errors.OpError as read_error:
            reason = error_reason(read_error)
            raise UserError(
                f"{images.describe(int(index))} cannot be read ({reason}): repair it, remove it "
                "from the annotations, or set skip_invalid to leave out such images"
            ) from error
        images.annotations(int(index), height, width)
