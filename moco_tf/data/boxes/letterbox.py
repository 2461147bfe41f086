"""Annotated images as squares of one size: the whole image in the left upper corner, its sides in
proportion, and around it the mean colour; boxes and masks go with it."""

import os

import numpy as np
import tensorflow as tf

from moco_tf.data.normalization import mean_and_std
from moco_tf.data.pipeline import own_batches
from moco_tf.data.tuning import without_tuning
from moco_tf.data.views import FLIP_PROBABILITY, resize
from moco_tf.errors import UserError
from moco_tf.seeds import key_for, seed_for

# What the encoder's normalisation makes nearly 0 of.
PADDING = tuple(round(255 * value) for value in mean_and_std(3)[0])
IGNORED = -1  # the label of a pixel that is not counted


def fitted(height, width, size):
    """The sides of an image when its longer one has become `size`.

    Args:
        height, width: ints, or arrays or tensors of ints.
        size: int.

    Returns:
        Two arrays of int64, each at least 1 and at most `size`.
    """
    longer = np.maximum(height, width)
    sides = (np.rint(np.asarray(side) * (size / longer)) for side in (height, width))
    return tuple(np.clip(side, 1, size).astype(np.int64) for side in sides)


def boxes_in_square(boxes, height, width, size):
    """Boxes of an image, `[n, 4]` (left, top, right, bottom), where they are in its square."""
    new_height, new_width = fitted(height, width, size)
    across, down = new_width / width, new_height / height
    return boxes * np.array([across, down, across, down])


def boxes_in_image(boxes, height, width, size):
    """The inverse of `boxes_in_square`; what reaches over the edge of the image is cut off."""
    new_height, new_width = fitted(height, width, size)
    across, down = width / new_width, height / new_height
    boxes = boxes * np.array([across, down, across, down])
    return np.clip(boxes, 0, [width, height, width, height])


def map_in_square(labels, size):
    """A label of each pixel, int `[H, W]`, as `[size, size]`: that of the nearest pixel, and
    `IGNORED` around the image."""
    height, width = fitted(*labels.shape, size)
    square = np.full([size, size], IGNORED, labels.dtype)
    square[:height, :width] = _nearest(labels, height, width)
    return square


def map_in_image(square, height, width):
    """The inverse of `map_in_square`: int `[size, size]` to `[height, width]`."""
    new_height, new_width = fitted(height, width, len(square))
    return _nearest(square[:new_height, :new_width], height, width)


def _nearest(labels, height, width):
    rows, columns = (
        ((np.arange(after) + 0.5) * before / after).astype(int)
        for before, after in zip(labels.shape, (height, width), strict=True)
    )
    return labels[rows][:, columns]


def is_flipped(seed, epoch, index):
    """Whether an image is mirrored in an epoch, with probability one half."""
    generator = np.random.Philox(key=key_for("views", seed, epoch), counter=[0, 0, 0, index])
    return (generator.random_raw() >> 11) * 2.0**-53 < FLIP_PROBABILITY


class TrainingBatches:
    """Batches of squares for training, each image mirrored or not.

    The images come epoch after epoch, each epoch a random order of them, and a batch may be of the
    end of one and the beginning of the next. A step is a function of `seed` and its number.

    Args:
        images: `moco_tf.data.annotated.AnnotatedImages`.
        image_size: int, side of the squares in pixels.
        batch_size: int, of the global batch.
        seed: int.
        targets: what else is in a batch: a function of an image's `Annotations`, its height and
            width, ints, and whether it is mirrored, bool, to a list of arrays.
        specs: a tuple of `tf.TensorSpec`, what these arrays are.
    """

    def __init__(self, images, image_size, batch_size, seed, targets, specs):
        self.images, self.image_size, self.batch_size = images, image_size, batch_size
        self.seed, self.targets, self.specs = seed, targets, specs
        with tf.device("CPU"):
            # As an array it would be copied into every function that uses it, several times.
            self._train = tf.constant(images.train, tf.int64)

    def until(self, steps, context=None):
        """The batches of the first steps.

        Args:
            steps: int.
            context: the `tf.distribute.InputContext` of this worker among several, of whose
                replicas it then gives the shares of the batch, one after the other; None for whole
                batches.

        Returns:
            A `tf.data.Dataset` of tuples: images, uint8 `[n, size, size, 3]`, and the targets.
        """
        context = context or tf.distribute.InputContext(num_replicas_in_sync=1)
        workers, worker = context.num_input_pipelines, context.input_pipeline_id
        epochs = -(-steps * self.batch_size // len(self.images.train))
        own = (
            tf.data.Dataset.range(epochs)
            .flat_map(self._epoch)
            .batch(self.batch_size, drop_remainder=True)
            .take(steps)
            # The share of this worker, whose replicas stand next to each other.
            .flat_map(
                lambda *rows: tf.data.Dataset.from_tensor_slices(
                    tuple(tf.split(row, workers)[worker] for row in rows)
                )
            )
        )
        return without_tuning(
            own.map(self._example, num_parallel_calls=os.cpu_count(), deterministic=True)
            .batch(context.get_per_replica_batch_size(self.batch_size), drop_remainder=True)
            .prefetch(2)
        )

    def indices(self, step):
        """The images of a step, int64 `[batch_size]`."""
        first, count = step * self.batch_size, len(self.images.train)
        positions = np.arange(first, first + self.batch_size)
        orders = {epoch: self._order(epoch).numpy() for epoch in set(positions // count)}
        return np.array([orders[p // count][p % count] for p in positions])

    def _order(self, epoch):
        draws = tf.random.stateless_uniform(
            [len(self.images.train)], seed_for("order", self.seed, epoch), alg="philox"
        )
        return tf.gather(self._train, tf.argsort(draws, stable=True))

    def _epoch(self, epoch):
        rows = tf.data.Dataset.from_tensor_slices(self._order(epoch))
        return rows.map(lambda index: (epoch, index))

    def _example(self, epoch, index):
        image = self.images.read(index)
        square = in_square(image, self.image_size)
        dtypes = [tf.uint8, *(spec.dtype for spec in self.specs)]
        found = tf.numpy_function(
            self._with_targets, [epoch, index, square, *tf.unstack(tf.shape(image)[:2])], dtypes
        )
        shapes = [square.shape, *(spec.shape for spec in self.specs)]
        return tuple(tf.ensure_shape(*pair) for pair in zip(found, shapes, strict=True))

    def _with_targets(self, epoch, index, square, height, width):
        annotations = self.images.annotations(int(index), int(height), int(width))
        _, across = fitted(height, width, self.image_size)
        flip = is_flipped(self.seed, epoch, index)
        if flip:
            square = square.copy()
            square[:, :across] = square[:, :across][:, ::-1]
        return [square, *self.targets(annotations, int(height), int(width), flip)]


def in_square(image, size):
    """An image, uint8 `[H, W, 3]`, in its square, uint8 `[size, size, 3]`."""
    height, width = tf.numpy_function(
        lambda shape: list(fitted(*shape[:2], size)), [tf.shape(image)], [tf.int64, tf.int64]
    )
    resized = resize(image, tf.ensure_shape(height, []), tf.ensure_shape(width, []))
    padding = [[0, size - height], [0, size - width], [0, 0]]
    # All at once with the colour around it, in a range where bytes do not wrap.
    colour = tf.constant(PADDING, tf.int32)
    square = tf.pad(tf.cast(resized, tf.int32) - colour, padding) + colour
    return tf.ensure_shape(tf.cast(square, tf.uint8), [size, size, 3])


def batches_to_evaluate(images, indices, image_size, batch_size, context=None):
    """Batches of images to evaluate on.

    Every batch is full, and every replica gets as many: a row that stands for nothing has the index
    -1 and an empty image.

    Args:
        images: `moco_tf.data.annotated.AnnotatedImages`.
        indices: int64 `[M]`, the images wanted.
        image_size: int, side of the squares in pixels.
        batch_size: int, of one replica.
        context: of `TrainingBatches.until`.

    Returns:
        A `tf.data.Dataset` of `(indices, shapes, images)`: int64 `[n]`; int32 `[n, 2]`, the height
        and width of the image as it was read; uint8 `[n, size, size, 3]`.
    """
    own = own_batches(indices, batch_size, context)

    def example(index):
        image = tf.cond(
            index < 0,
            lambda: tf.zeros([1, 1, 3], tf.uint8),
            lambda: tf.ensure_shape(images.read(index), [None, None, 3]),
        )
        return index, tf.shape(image)[:2], in_square(image, image_size)

    return without_tuning(
        tf.data.Dataset.from_tensor_slices(own.ravel())
        .map(example, num_parallel_calls=os.cpu_count(), deterministic=True)
        .batch(batch_size, drop_remainder=True)
        .prefetch(2)
    )


def require_readable(images, indices, error):
    """Names what was wrong, where one of several images could not be read.

    Args:
        images: `moco_tf.data.annotated.AnnotatedImages`.
        indices: ints, those among which it is.
        error: the `tf.errors.OpError` that came of it.

    Raises:
        UserError: an image that cannot be read, or what its annotations raise.
    """
    for index in indices:
        try:
            height, width = images.read(tf.constant(index, tf.int64)).shape[:2]
        except tf.errors.OpError as reason:
            raise UserError(
                f"{images.describe(int(index))} cannot be read ({reason.message.splitlines()[0]}): "
                "repair it, or take it out of the annotations"
            ) from error
        images.annotations(int(index), height, width)
