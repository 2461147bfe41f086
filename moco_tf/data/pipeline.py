"""The tf.data pipeline of pre-training: two random views of each image."""

import numpy as np
import tensorflow as tf

from moco_tf.data import order
from moco_tf.data.batching import batch_of_views, made_in_parallel, rows_of_steps
from moco_tf.data.recipes import Recipe
from moco_tf.data.sources.indices import position_of
from moco_tf.data.sources.source import Source
from moco_tf.data.tuning import without_autograph
from moco_tf.data.views import random_view, view_draws
from moco_tf.errors import UserError
from moco_tf.seeds import key_for, seed_for

# Number of random substitutes that are tried for an unreadable image. After them comes an image
# that is known to be readable.
MAX_SUBSTITUTES = 20


class TwoViews:
    """Batches of two random views of each image, epoch after epoch.

    An epoch is a random order of the source's images, without the last few that do not fill a
    batch. An image that cannot be read is replaced by another image that is drawn at random, so
    that a damaged file does not move other images to other batches.

    Args:
        source: Data source; the images are those at `source.pretrain`.
        image_size: Side of the views in pixels.
        recipe: The augmentation, for its geometric half.
        batch_size: Global batch size.
        seed: Seed of the run.
        with_positions: Whether a batch also has the positions of its images; see `between`.
        key_frame_seconds: If not 0, the key view is one of another frame of the same shot, at most
            so many seconds from the frame of the query view. The source must have a timeline.
        neighbor_seconds: If not 0, a batch also has the frames of its images and the range of their
            neighbors, which are at most so many seconds away; see `between`.

    Attributes:
        steps_per_epoch: Number of batches in an epoch.
        unreadable: Set of the indices that could not be read so far.

    Raises:
        UserError: If there are fewer images than one batch needs, or none that can be read.
    """

    def __init__(
        self,
        source: Source,
        image_size: int,
        recipe: Recipe,
        batch_size: int,
        seed: int,
        with_positions: bool = False,
        key_frame_seconds: float = 0,
        neighbor_seconds: float = 0,
    ) -> None:
        self.source = source
        self.image_size = image_size
        self.recipe = recipe
        self.batch_size = batch_size
        self.seed = seed
        self.with_positions = with_positions
        self.unreadable: set[int] = set()
        self.steps_per_epoch = len(source.pretrain) // batch_size
        if not self.steps_per_epoch:
            raise UserError(
                f"batch_size={batch_size} is more than the {len(source.pretrain)} images of data "
                f"source '{source.name}': set config.batch_size to {len(source.pretrain)} or less"
            )
        self._key_frames = _key_frames(source, key_frame_seconds)
        self._neighbors = _nearby(source, neighbor_seconds)
        self._readable = first_readable(source)

    def between(
        self, start: int, end: int, context: tf.distribute.InputContext | None = None
    ) -> tf.data.Dataset:
        """Return the batches of the global steps from `start` up to `end`, excluding `end`.

        Images of other steps are not read.

        Args:
            start: First global step.
            end: Global step to stop before.
            context: Input context of this worker if there are several. The dataset then consists of
                its replicas' shares of each batch, one after the other. None for whole batches.

        Returns:
            Dataset of `(query_images, key_images)`, `[n, size, size, C]` each, of the type of the
            source's images. With positions it has a third element, int64 `[n]`: the positions of
            the images in `source.pretrain`. An image that cannot be read has the position of its
            substitute. With `neighbor_seconds`, the third element is int64 `[n, 2, 3]` instead: for
            each of the two views the index of its image, and the range of the indices of its
            neighbors, which begins with the second number and ends before the third.
        """
        context = context or tf.distribute.InputContext()
        return made_in_parallel(
            rows_of_steps(self.rows, start, end, self.batch_size, context), self._batch
        )

    def _batch(self, epochs: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Return the two views of the images at `indices`, int64 `[n]`: `[n, size, size, C]`."""
        return batch_of_views(
            (epochs, indices),
            lambda epoch, index: self._views(epoch, index, index, self.source.read(index)),
            lambda epoch, index: self._views(epoch, index, *self.read(epoch, index), fails=False),
        )

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the epoch and the index of each image of a step, int64 `[batch_size]` each.

        In a mixture with weights, the epoch of an image is that of its own source: how often it
        was used before. Its views are a function of this number.
        """
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        first = step_of_epoch * self.batch_size
        positions = np.arange(first, first + self.batch_size)
        epochs = np.full(self.batch_size, epoch)
        if self.source.mixture:
            positions, epochs = order.in_epoch_of_mixture(
                positions, self.source.mixture, self.seed, epoch
            )
        else:
            positions = order.in_epoch(positions, len(self.source.pretrain), self.seed, epoch)
        return epochs, self.source.pretrain[positions]

    def _views(
        self,
        epoch: tf.Tensor,
        index: tf.Tensor,
        read_index: tf.Tensor,
        image: tf.Tensor,
        fails: bool = True,
    ) -> tuple[tf.Tensor, ...]:
        """Return the views at an index, of an image that may be its substitute.

        If another frame is the key, and cannot be read, this fails, or uses the same frame.
        """
        key_index, key_image = self._key(epoch, read_index, image, fails)
        views = tf.numpy_function(
            self._random_views,
            [epoch, index, read_index, key_index, image, key_image],
            [image.dtype, image.dtype],
        )
        shape = [self.image_size, self.image_size, self.source.channels]
        views = tuple(tf.ensure_shape(view, shape) for view in views)
        if self._neighbors is not None:
            indices = tf.stack([read_index, key_index])
            frames = tf.numpy_function(self._frames, [indices], tf.int64, stateful=False)
            return (*views, tf.ensure_shape(frames, [2, 3]))
        if not self.with_positions:
            return views
        position = tf.numpy_function(self._position, [read_index], tf.int64, stateful=False)
        return (*views, tf.ensure_shape(position, []))

    def _key(
        self, epoch: tf.Tensor, index: tf.Tensor, image: tf.Tensor, fails: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the index and the image of the key view for those of the query view."""
        if self._key_frames is None:
            return index, image
        key_index = tf.numpy_function(self.key_index, [epoch, index], tf.int64, stateful=False)
        key_index = tf.ensure_shape(key_index, [])
        if fails:
            return key_index, self.source.read(key_index)
        return (
            tf.data.Dataset.from_tensors(key_index)
            .map(lambda candidate: (candidate, self.source.read(candidate)))
            .concatenate(tf.data.Dataset.from_tensors((index, image)))
            .ignore_errors(log_warning=False)
            .take(1)
            .get_single_element()
        )

    def key_index(self, epoch: int, index: int) -> np.int64:
        """Return the index of the image of the key view, for that of the query view.

        It is drawn from the other frames in reach. If there are none, it is the same frame.
        """
        if self._key_frames is None:
            return np.int64(index)
        first, end = self._key_frames[index]
        if end - first == 1:
            return np.int64(index)
        key = key_for("key_frame", self.seed, int(epoch))
        draw = np.random.Philox(key=key, counter=[0, 0, 0, int(index)]).random_raw()
        candidate = first + draw % int(end - first - 1)
        return np.int64(candidate + (candidate >= index))

    def _frames(self, indices: np.ndarray) -> np.ndarray:
        """Return the indices, and the ranges of their neighbors: int64 `[len(indices), 3]`."""
        assert self._neighbors is not None
        return np.concatenate([indices[:, np.newaxis], self._neighbors[indices]], axis=1)

    def _position(self, index: np.ndarray) -> np.int64:
        # Every data source lists its images in ascending order.
        return np.int64(position_of(index.item(), self.source.pretrain))

    def _random_views(
        self,
        epoch: np.ndarray,
        index: np.ndarray,
        read_index: np.ndarray,
        key_index: np.ndarray,
        image: np.ndarray,
        key_image: np.ndarray,
    ) -> list[np.ndarray]:
        if read_index != index:
            self.unreadable.add(int(index))
        wanted_key = self.key_index(int(epoch), int(read_index))
        if key_index != wanted_key:
            self.unreadable.add(int(wanted_key))
        return [
            random_view(view_image, self.image_size, self.recipe, draws)
            for view_image, draws in zip(
                (image, key_image), self.view_draws(int(epoch), int(index)), strict=True
            )
        ]

    def view_draws(self, epoch: int, index: int) -> np.ndarray:
        """Return the random numbers of the two views at an index; see `views.view_draws`."""
        return view_draws(self.seed, epoch, index, self.recipe.changes_orientation)

    def read(self, epoch: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the image at an index, or the first of its random substitutes that can be read.

        Args:
            epoch: int64 scalar; an image has different substitutes in different epochs.
            index: int64 scalar.

        Returns:
            The index of the image that was read, and the image, `[H, W, C]`.
        """
        requested = tf.data.Dataset.from_tensors(index)
        substitutes = requested.flat_map(lambda index: self._substitutes(epoch, index))
        return (
            requested.concatenate(substitutes)
            .map(lambda candidate: (candidate, self.source.read(candidate)))
            .ignore_errors(log_warning=False)
            .take(1)
            .get_single_element()
        )

    def require_readable(self) -> None:
        """Raise a `UserError` if an image could not be read so far."""
        if self.unreadable:
            raise UserError(
                f"{self.source.describe(min(self.unreadable))} cannot be read as an image: remove "
                "it, or set config.data.on_error='skip'"
            )

    def _substitutes(self, epoch: tf.Tensor, index: tf.Tensor) -> tf.data.Dataset:
        """Return the indices to try for an unreadable image; the last one can be read."""
        seed = seed_for("substitute", self.seed, epoch)
        seed = tf.random.experimental.stateless_fold_in(seed, index)
        positions = tf.random.stateless_uniform(
            [MAX_SUBSTITUTES], seed, 0, len(self.source.pretrain), tf.int64, alg="philox"
        )
        indices = tf.numpy_function(self.source.pretrain.__getitem__, [positions], tf.int64)
        indices = tf.ensure_shape(indices, [MAX_SUBSTITUTES])
        return tf.data.Dataset.from_tensor_slices(tf.concat([indices, [self._readable]], axis=0))


def _nearby(source: Source, seconds: float, same_shot: bool = False) -> np.ndarray | None:
    """Return the ranges of `Timeline.nearby`; None if there is no limit."""
    if not seconds:
        return None
    if source.timeline is None:
        raise UserError(
            f"data source '{source.name}' is not a single video source: use video:PATH, or set "
            "config.data.key_frame_seconds and config.data.neighbor_seconds to 0"
        )
    return source.timeline.nearby(seconds, same_shot)


def _key_frames(source: Source, seconds: float) -> np.ndarray | None:
    """Return the range of frames from which each key view comes; None for the query's own frame.

    Raises:
        UserError: If no frame has another one in its range.
    """
    ranges = _nearby(source, seconds, same_shot=True)
    if ranges is None or (np.diff(ranges[source.pretrain]) > 1).any():
        return ranges
    assert source.timeline is not None
    gaps = np.diff(source.timeline.seconds)[np.diff(source.timeline.load_shots()) == 0]
    reason = (
        f"the frames of a shot are at least {gaps.min():g} seconds apart"
        if len(gaps)
        else "no shot has more than one frame"
    )
    raise UserError(
        f"config.data.key_frame_seconds={seconds} has no effect on data source '{source.name}', "
        f"where {reason}: increase it, or decrease config.data.frame_seconds"
    )


def first_readable(source: Source) -> int:
    """Return the first index of the images for pre-training that can be read.

    Raises:
        UserError: If there is none.
    """

    def index_at(position: np.ndarray) -> np.int64:
        return np.int64(source.pretrain[position])

    def image(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        index = tf.ensure_shape(tf.numpy_function(index_at, [position], tf.int64), [])
        return index, source.read(index)

    readable = (
        tf.data.Dataset.range(len(source.pretrain))
        .map(without_autograph(image))
        .ignore_errors(log_warning=False)
    )
    for index, _ in readable.take(1):
        return int(index)
    raise UserError(
        f"data source '{source.name}': none of its {source.size} images can be read: "
        "replace the files, which may be damaged or incomplete"
    )
