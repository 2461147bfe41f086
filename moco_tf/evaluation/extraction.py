"""Computes the features of images with a frozen backbone."""

from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from moco_tf.data.evaluation_views import central_views
from moco_tf.data.sources.indices import Indices
from moco_tf.data.sources.source import Source
from moco_tf.distribution import all_gather
from moco_tf.encoders import preprocessing
from moco_tf.errors import UserError
from moco_tf.evaluation.features import Features
from moco_tf.progress_bar import progress_bar

# Views are kept in memory for the next call if they take up to so many bytes.
MAX_KEPT_BYTES = 2**28

# From a batch of indices and images to the indices and the features of all replicas.
Step = Callable[[tuple[tf.Tensor, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]


class Extractor:
    """Runs backbones over images in inference mode.

    It can be called several times, with the same backbone after its weights have changed or with
    another one.

    Args:
        source: The source of the images.
        indices: int64 `[M]`, the images to use. Images that cannot be read are left out.
        image_size: Side of the central view in pixels.
        keep_views: Whether to keep the views in memory for the next call, if they take up to
            `MAX_KEPT_BYTES`.
    """

    def __init__(
        self,
        source: Source,
        indices: Indices,
        image_size: int,
        keep_views: bool = False,
    ) -> None:
        self.source = source
        self.indices = np.asarray(indices)
        view_bytes = image_size**2 * source.channels * np.dtype(source.dtype).itemsize
        keep_views &= len(indices) * view_bytes <= MAX_KEPT_BYTES

        def views(context: tf.distribute.InputContext) -> tf.data.Dataset:
            dataset = central_views(source, indices, image_size, batch_size(image_size), context)
            return dataset.cache() if keep_views else dataset

        strategy = tf.distribute.get_strategy()
        self._batches = strategy.distribute_datasets_from_function(views)

    def __call__(self, step: Step, progress: str | None = None) -> Features:
        """Return the features of all images that can be read.

        Args:
            step: Result of `feature_step`, which several extractors can share.
            progress: Label of the progress bar, or None for no bar.

        Raises:
            UserError: If there are no images, none of them can be read, or the backbone does not
                return features.
        """
        if not len(self.indices):
            raise UserError(
                f"data source '{self.source.name}' has no images in this part: use another part, "
                "or a source that has some"
            )
        feature_parts, index_parts, num_seen = [], [], 0
        with progress_bar(len(self.indices), progress, "image") as bar:
            for batch_indices, features in self.batches(step):
                feature_parts.append(features[batch_indices >= 0])
                index_parts.append(batch_indices[batch_indices >= 0])
                # The last batch is filled up.
                bar.update(max(0, min(len(batch_indices), len(self.indices) - num_seen)))
                num_seen += len(batch_indices)
        readable = np.concatenate(index_parts)
        if not len(readable):
            raise UserError(
                f"data source '{self.source.name}': none of the images can be read: replace the "
                "files, which may be damaged or incomplete"
            )
        return _with_labels(self.source, self.indices, readable, np.concatenate(feature_parts))

    def batches(self, step: Step) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the indices and the features of one batch after the other, in order.

        A row with the index -1 stands for an image that cannot be read, or fills up the last batch
        after all images.

        Args:
            step: As for a call.

        Yields:
            int64 `[n]` and float32 `[n, D]`.

        Raises:
            UserError: If the step returns anything but one feature for each image.
        """
        waiting = None
        for batch in self._batches:
            result = step(batch)
            # The device computes this batch while the caller uses the one before.
            if waiting is not None:
                yield _arrays(*waiting)
            waiting = result
        if waiting is not None:
            yield _arrays(*waiting)


def _arrays(indices: tf.Tensor, features: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices and the features of a batch as arrays, after checking their shapes."""
    shape = list(features.shape)
    if len(shape) != 2 or shape[0] != len(indices):
        raise UserError(
            f"the backbone returns an array of the shape {shape} for a batch of {len(indices)}: it "
            "must return features [N, D], such as the mean of feature maps over height and width"
        )
    return indices.numpy(), features.numpy()


def batch_size(image_size: int) -> int:
    """Return the number of images that a replica sees at a time.

    Small images take less time in larger batches. The number does not depend on that of the
    replicas, because in batches of another size a feature may differ in its last bits.

    Args:
        image_size: Side of the images in pixels.
    """
    return 256 if image_size <= 32 else 64


def feature_step(backbone: Callable[[tf.Tensor], tf.Tensor]) -> Step:
    """Return a function that runs a backbone on the replicas of the current strategy.

    It is traced once for all batches of the same shape. A model of `moco_tf.encoders.build` gets
    its normalization, because the images of a source are not normalized.

    Args:
        backbone: As for `extract`.
    """
    strategy = tf.distribute.get_strategy()
    backbone = traceable(preprocessing.for_images(backbone))

    def replica_step(indices: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = tf.cast(backbone(tf.cast(images, tf.float32)), tf.float32)
        return all_gather(indices), all_gather(features)

    @tf.function(autograph=False)
    def step(batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        indices, features = strategy.run(replica_step, args=batch)
        local = strategy.experimental_local_results
        return local(indices)[0], local(features)[0]

    return step


def traceable(backbone: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a backbone for a graph that is traced without AutoGraph.

    Keras layers do not need AutoGraph. A function of the user's own may have Python's `if`, `for`
    and `len` on tensors.

    Raises:
        UserError: If the backbone cannot be called.
    """
    if not callable(backbone):
        raise UserError(
            f"backbone is of the type {type(backbone).__name__}, which cannot be called: pass a "
            "model, such as the result of moco_tf.load_backbone"
        )
    return backbone if isinstance(backbone, keras.layers.Layer) else tf.function(backbone)


def extract(
    backbone: Callable[[tf.Tensor], tf.Tensor],
    source: Source,
    indices: Indices,
    image_size: int,
    progress: str | None = None,
) -> Features:
    """Run a backbone over images in inference mode.

    The replicas of the current `tf.distribute` strategy share the work.

    Args:
        backbone: Callable from images `[N, size, size, channels]` in [0, 255] to features
            `[N, D]`, such as the result of `moco_tf.load_backbone`. It is called without
            `training`.
        source: The source of the images.
        indices: int64 `[M]`, the images to use. Images that cannot be read are left out.
        image_size: Side of the central view in pixels.
        progress: Label of the progress bar, or None for no bar.

    Returns:
        The features of all images that can be read.

    Raises:
        UserError: If none of the images can be read.
    """
    return Extractor(source, indices, image_size)(feature_step(backbone), progress)


def _with_labels(
    source: Source, requested: np.ndarray, readable: np.ndarray, features: np.ndarray
) -> Features:
    """Return features with the labels of their images, and the names of unreadable images."""
    missing = np.setdiff1d(requested, readable)
    unreadable = {int(index): source.describe(int(index)) for index in missing}
    labels, class_names = source.labels, source.class_names
    if labels is None or class_names is None:
        return Features(features, readable, None, unreadable=unreadable)
    # The label of a record that cannot be read is -1.
    lost = np.setdiff1d(labels[missing], [*labels[readable], -1])
    lost_classes = [class_names[label] for label in lost]
    return Features(
        *(features, readable, labels[readable], len(class_names)),
        *(unreadable, lost_classes, class_names),
    )
