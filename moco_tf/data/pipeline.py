"""tf.data pipelines in which every batch is a function of the seed and of its position alone."""

import os

import numpy as np
import tensorflow as tf

from moco_tf.data.tuning import without_tuning
from moco_tf.data.views import central_view, random_view, view_draws
from moco_tf.errors import UserError
from moco_tf.seeds import seed_for

# Images tried in the place of one that cannot be read, before one known to be readable.
ATTEMPTS = 20


class TwoViews:
    """Batches of two views of each image, epoch after epoch, from any step to any step.

    An epoch is a random order of the source's images, without the last few that do not fill a
    batch. An image that cannot be read is replaced by another, drawn at random, so that a corrupt
    file moves no other image to another batch.

    Args:
        source: a `moco_tf.data.source.Source`.
        image_size: int, side of the views in pixels.
        crop_scale: smallest and largest share of an image's area in a crop.
        batch_size: int, of the global batch.
        seed: int.
        with_positions: bool; True says as well which images they are.

    Attributes:
        steps_per_epoch: int.
        unreadable: set of the indices that could not be read so far.

    Raises:
        UserError: fewer images than one batch, or none that can be read.
    """

    def __init__(self, source, image_size, crop_scale, batch_size, seed, with_positions=False):
        self.source = source
        self.image_size = image_size
        self.crop_scale = crop_scale
        self.batch_size = batch_size
        self.seed = seed
        self.with_positions = with_positions
        self.unreadable = set()
        with tf.device("CPU"):
            # As an array it would be copied into every function that uses it, several times.
            self._pretrain = tf.constant(source.pretrain)
        self.steps_per_epoch = len(source.pretrain) // batch_size
        if not self.steps_per_epoch:
            raise UserError(
                f"batch_size={batch_size} is more than the {len(source.pretrain)} images of "
                f"'{source.name}': set --config.batch_size to {len(source.pretrain)} or less"
            )
        self._readable = first_readable(source)

    def between(self, start, end, context=None):
        """The batches of the global steps from `start` to before `end`; no other is decoded.

        Args:
            start, end: int.
            context: the `tf.distribute.InputContext` of this worker among several, of whose
                replicas it then gives the shares of the batch, one after the other; None for
                whole batches.

        Returns:
            A `tf.data.Dataset` of `(query_images, key_images)`, uint8 `[n, size, size, C]` each,
            and with positions of int64 `[n]`: where in `source.pretrain` the image that is shown
            stands. Of an unreadable image that is its substitute.
        """
        context = context or tf.distribute.InputContext()
        first_epoch, done = divmod(start, self.steps_per_epoch)
        last_epoch, rest = divmod(end, self.steps_per_epoch)

        def share(epoch):
            order = self.order(epoch)
            first = tf.where(epoch == first_epoch, done, 0)
            last = tf.where(epoch == last_epoch, rest, self.steps_per_epoch)
            order = order[first * self.batch_size : last * self.batch_size]
            # The share of this worker, whose replicas stand next to each other.
            order = tf.reshape(order, [last - first, context.num_input_pipelines, -1])
            order = tf.reshape(order[:, context.input_pipeline_id], [-1, n])
            return tf.data.Dataset.from_tensor_slices(order).map(lambda rows: (epoch, rows))

        n = context.get_per_replica_batch_size(self.batch_size)
        return without_tuning(
            tf.data.Dataset.range(first_epoch, last_epoch + 1)
            .flat_map(share)
            # Two, so that no core waits for the last images of a batch.
            .map(self._batch, num_parallel_calls=2, deterministic=True)
            .prefetch(2)
        )

    def _batch(self, epoch, indices):
        """The two views of the images at `indices`, int64 `[n]`: `[n, size, size, C]` each."""

        def views(read):
            return (
                tf.data.Dataset.from_tensor_slices(indices)
                .map(
                    lambda index: self._views(epoch, index, *read(epoch, index)),
                    num_parallel_calls=os.cpu_count(),
                    deterministic=True,
                )
                .batch(indices.shape[0], drop_remainder=True)
            )

        # To be ready for an error takes time. So all are read as if there were none, and the batch
        # is made again where there was one.
        return (
            views(self._read)
            .ignore_errors(log_warning=False)
            .concatenate(views(self.read))
            .take(1)
            .get_single_element()
        )

    def _read(self, _, index):
        return index, self.source.read(index)

    def order(self, epoch):
        """The indices of the images in the order of an epoch, int64 `[M]`."""
        draws = tf.random.stateless_uniform(
            [len(self.source.pretrain)], seed_for("order", self.seed, epoch), alg="philox"
        )
        return tf.gather(self._pretrain, tf.argsort(draws, stable=True))

    def _views(self, epoch, index, found, image):
        views = tf.numpy_function(self._crops, [epoch, index, found, image], [tf.uint8, tf.uint8])
        shape = [self.image_size, self.image_size, self.source.channels]
        views = tuple(tf.ensure_shape(view, shape) for view in views)
        if not self.with_positions:
            return views
        position = tf.numpy_function(self._position, [found], tf.int64, stateful=False)
        return (*views, tf.ensure_shape(position, []))

    def _position(self, index):
        # Every kind of source lists its images in ascending order.
        return np.searchsorted(self.source.pretrain, index)

    def _crops(self, epoch, index, found, image):
        if found != index:
            self.unreadable.add(int(index))
        return [
            random_view(image, self.image_size, self.crop_scale, draws)
            for draws in view_draws(self.seed, epoch, index)
        ]

    def read(self, epoch, index):
        """The image at an index, or the first in a random line of substitutes that can be read.

        Args:
            epoch, index: int64 scalar tensors.

        Returns:
            The index of the image that it is, and the image, uint8 `[H, W, C]`.
        """
        wanted = tf.data.Dataset.from_tensors(index)
        return (
            wanted.concatenate(wanted.flat_map(lambda index: self._substitutes(epoch, index)))
            .map(lambda candidate: (candidate, self.source.read(candidate)))
            .ignore_errors(log_warning=False)
            .take(1)
            .get_single_element()
        )

    def _substitutes(self, epoch, index):
        seed = seed_for("substitute", self.seed, epoch)
        seed = tf.random.experimental.stateless_fold_in(seed, index)
        others = tf.random.stateless_uniform(
            [ATTEMPTS], seed, 0, len(self.source.pretrain), tf.int64, alg="philox"
        )
        return tf.data.Dataset.from_tensor_slices(
            tf.concat([tf.gather(self._pretrain, others), [self._readable]], axis=0)
        )


def first_readable(source):
    """The first index of the images for pre-training that can be read.

    Raises:
        UserError: there is none.
    """
    readable = (
        tf.data.Dataset.from_tensor_slices(source.pretrain)
        .map(lambda index: (index, source.read(index)))
        .ignore_errors(log_warning=False)
    )
    for index, _ in readable.take(1):
        return int(index)
    raise UserError(f"data source '{source.name}': none of its {source.size} images can be read")


def central_views(source, indices, image_size, batch_size, context=None):
    """Batches of images as features are evaluated on them.

    Every batch is full, and every replica gets as many: a row that stands for nothing, for want
    of further images or because its image cannot be read, has the index -1 and a black image.

    Args:
        source: a `moco_tf.data.source.Source`.
        indices: int64 `[M]`, the images wanted.
        image_size: int, side of the views in pixels.
        batch_size: int, of one replica.
        context: the `tf.distribute.InputContext` of this worker among several, of whose replicas
            it then gives the batches, one after the other; None for one replica.

    Returns:
        A `tf.data.Dataset` of `(indices, images)`, int64 `[n]` and uint8 `[n, size, size, C]`.
    """
    own = own_batches(indices, batch_size, context)
    nothing = (
        tf.constant(-1, tf.int64),
        tf.zeros([image_size, image_size, source.channels], tf.uint8),
    )

    def view(index):
        return (
            tf.data.Dataset.from_tensors(index)
            .filter(lambda index: index >= 0)
            .map(lambda index: (index, central_view(source.read(index), image_size)))
            .ignore_errors(log_warning=False)
            .concatenate(tf.data.Dataset.from_tensors(nothing))
            .take(1)
            .get_single_element()
        )

    return without_tuning(
        tf.data.Dataset.from_tensor_slices(own.ravel())
        .map(view, num_parallel_calls=os.cpu_count(), deterministic=True)
        .batch(batch_size, drop_remainder=True)
        .prefetch(2)
    )


def labelled_views(source, indices, image_size, crop_scale, batch_size, seed, epochs, context=None):
    """Batches of one random view of each image, with their labels, epoch after epoch.

    An epoch is a random order of the images, its last batch included. Every batch is full, and
    every replica gets as many: a row that stands for nothing, for want of further images or
    because its image cannot be read, has the label -1 and a black image.

    Args:
        source: a `moco_tf.data.source.Source` with labels.
        indices: int64 `[M]`, the images of an epoch.
        image_size: int, side of the views in pixels.
        crop_scale: smallest and largest share of an image's area in a crop.
        batch_size: int, of the global batch, a multiple of the number of replicas.
        seed: int; an epoch is a function of it and of its number.
        epochs: int.
        context: the `tf.distribute.InputContext` of this worker among several, of whose replicas
            it then gives the shares of the batch, one after the other; None for whole batches.

    Returns:
        A `tf.data.Dataset` of `(labels, images)`, int32 `[n]` and uint8 `[n, size, size, C]`.
    """
    context = context or tf.distribute.InputContext(num_replicas_in_sync=1)
    with tf.device("CPU"):
        # As arrays they would be copied into every function that uses them, several times.
        indices = tf.constant(indices, tf.int64)
        labels = tf.constant(np.asarray(source.labels, np.int32))
    nothing = tf.constant(-1), tf.zeros([1, 1, source.channels], tf.uint8)

    def share(epoch):
        draws = tf.random.stateless_uniform(
            [len(indices)], seed_for("order", seed, epoch), alg="philox"
        )
        order = tf.gather(indices, tf.argsort(draws, stable=True))
        order = tf.pad(order, [[0, -len(indices) % batch_size]], constant_values=-1)
        # The share of this worker, whose replicas stand next to each other.
        order = tf.reshape(
            order, [-1, context.num_input_pipelines, batch_size // context.num_input_pipelines]
        )
        order = tf.reshape(order[:, context.input_pipeline_id], [-1])
        return tf.data.Dataset.from_tensor_slices(order).map(lambda index: (epoch, index))

    def view(epoch, index):
        label, image = (
            tf.data.Dataset.from_tensors(index)
            .filter(lambda index: index >= 0)
            .map(lambda index: (labels[index], source.read(index)))
            .ignore_errors(log_warning=False)
            .concatenate(tf.data.Dataset.from_tensors(nothing))
            .take(1)
            .get_single_element()
        )
        image = tf.numpy_function(crop, [epoch, index, image], tf.uint8)
        return label, tf.ensure_shape(image, [image_size, image_size, source.channels])

    def crop(epoch, index, image):
        draws, _ = view_draws(seed, epoch, max(index, 0))
        return random_view(image, image_size, crop_scale, draws)

    return without_tuning(
        tf.data.Dataset.range(epochs)
        .flat_map(share)
        .map(view, num_parallel_calls=os.cpu_count(), deterministic=True)
        .batch(context.get_per_replica_batch_size(batch_size), drop_remainder=True)
        .prefetch(2)
    )


def own_batches(indices, batch_size, context=None):
    """Shares images among replicas, batch by batch, the last ones filled up with -1.

    Args:
        indices: ints `[m]`.
        batch_size: int, of one replica.
        context: the `tf.distribute.InputContext` of this worker among several; None for one
            replica.

    Returns:
        int64 `[steps, replicas, batch_size]`, of this worker's replicas.
    """
    context = context or tf.distribute.InputContext(num_replicas_in_sync=1)
    indices = np.asarray(indices, np.int64)
    missing = -len(indices) % (batch_size * context.num_replicas_in_sync)
    indices = np.concatenate([indices, np.full(missing, -1)])
    replicas = indices.reshape(-1, context.num_replicas_in_sync, batch_size)
    return np.split(replicas, context.num_input_pipelines, axis=1)[context.input_pipeline_id]
