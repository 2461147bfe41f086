"""Features of a frozen backbone, computed once."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from moco_tf.data.evaluation_views import central_views
from moco_tf.data.sources.indices import Indices
from moco_tf.data.sources.source import Source
from moco_tf.distribution import all_gather
from moco_tf.encoders import preprocessing
from moco_tf.errors import UserError
from moco_tf.workers import is_chief

# Views are kept in memory for the next call if they take up to so many bytes.
MAX_KEPT_BYTES = 2**28

# From a batch of indices and images to the indices and the features of all replicas.
Step = Callable[[tuple[tf.Tensor, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Features:
    """Features of some images of a source.

    Attributes:
        features: float32 `[M, D]`.
        indices: int64 `[M]`, the images of the source that the features belong to.
        labels: int32 `[M]`, in [0, `num_classes`), or -1 for an image without a label; None if the
            source has no labels. `labeled` leaves out the images without a label.
        num_classes: Number of classes of the source; 0 if it has no labels.
        unreadable: Names of the requested images that cannot be read, by their indices.
        unreadable_classes: Names of the classes of which none of the requested images can be read.
        class_names: Names of the classes; empty if they are not known.

    Example:
        >>> Features(np.zeros([2, 4], np.float32), np.arange(2), np.int32([0, 1]), num_classes=2)
        <moco_tf features 2 x 4, labels of 2 classes>
    """

    features: np.ndarray
    indices: np.ndarray
    labels: np.ndarray | None
    num_classes: int = 0
    unreadable: dict[int, str] = dataclasses.field(default_factory=dict)
    unreadable_classes: list[str] = dataclasses.field(default_factory=list)
    class_names: list[str] = dataclasses.field(default_factory=list)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.features.shape))
        labels = f"labels of {self.num_classes} classes" if self.num_classes else "no labels"
        return f"<moco_tf features {shape}, {labels}>"


def labeled(part: Features) -> Features:
    """Return the features of the images that have a label.

    Args:
        part: Features with labels, such as of all images of a source that is labeled in part.

    Returns:
        The same features without the images whose label is -1.

    Raises:
        UserError: If none of the images has a label.
    """
    if part.labels is None or not np.any(part.labels >= 0):
        raise UserError(
            "none of the images has a label, which this evaluation needs: use the features of "
            "images with labels"
        )
    has_label = part.labels >= 0
    if has_label.all():
        return part
    return dataclasses.replace(
        part,
        features=part.features[has_label],
        indices=part.indices[has_label],
        labels=part.labels[has_label],
    )


def with_classes_of(train: Features, test: Features) -> Features:
    """Return test features whose labels are the numbers of the training classes of the same names.

    Args:
        train: Labeled features of the training images.
        test: Labeled features of the test images, which may be of another source.

    Returns:
        The test features. They stay as they are unless the classes of both have names.

    Raises:
        UserError: If there are test images of a class that the training images do not have.
    """
    names = train.class_names
    if test.labels is None or not names or not test.class_names or names == test.class_names:
        return test
    numbers = {name: number for number, name in enumerate(names)}
    has_label = test.labels >= 0
    used = [test.class_names[label] for label in np.unique(test.labels[has_label])]
    if missing := [name for name in used if name not in numbers]:
        raise UserError(
            f"there are test images of the classes {', '.join(missing)}, which the training images "
            "do not have: use images of the same classes"
        )
    new_labels = np.array([numbers.get(name, -1) for name in test.class_names], np.int32)
    labels = np.where(has_label, new_labels[test.labels], np.int32(-1))
    return dataclasses.replace(test, labels=labels, num_classes=len(names), class_names=names)


def require_comparable(train: Any, test: Any) -> None:
    """Raise a `UserError` unless two arguments are features with the same number of dimensions.

    Args:
        train: The argument `train` of a function.
        test: The argument `test`.
    """
    for name, part in (("train", train), ("test", test)):
        if not isinstance(part, Features):
            raise UserError(
                f"{name} is of the type {type(part).__name__}: pass the features and the labels "
                "together, as moco_tf.extract_features returns them or as a pair of arrays"
            )
    if train.features.shape[1:] != test.features.shape[1:]:
        shapes = [list(part.features.shape) for part in (train, test)]
        raise UserError(
            f"the features of train have the shape {shapes[0]}, and those of test {shapes[1]}: "
            "extract both with the same backbone"
        )


def require_finite(*parts: Features) -> None:
    """Raise a `UserError` if features hold NaN or infinity, which would be compared silently.

    Args:
        *parts: The features.
    """
    for part in parts:
        is_finite = np.isfinite(part.features).all(axis=1)
        if not is_finite.all():
            raise UserError(
                f"the features of {(~is_finite).sum()} of {len(is_finite)} images hold NaN or "
                "infinity, so the training of the backbone has diverged: use an earlier "
                "checkpoint, or train again with a smaller learning rate"
            )


def normalize(features: np.ndarray) -> np.ndarray:
    """Divide each row by its L2 norm; a row of zeros is left as it is."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


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
        feature_parts, index_parts = [], []
        # With None, tqdm shows a bar in a terminal only.
        disable = None if progress and is_chief() else True
        with tqdm(total=len(self.indices), desc=progress, unit="img", disable=disable) as bar:
            for batch_indices, features in self.batches(step):
                feature_parts.append(features[batch_indices >= 0])
                index_parts.append(batch_indices[batch_indices >= 0])
                bar.update(len(index_parts[-1]))
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
