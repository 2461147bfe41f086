"""Features of images, with their labels, as all evaluations take them."""

import dataclasses
from typing import Any

import numpy as np

from moco_tf.errors import UserError


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

    Raises:
        UserError: If the arrays do not have these shapes and types.

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

    def __post_init__(self) -> None:
        if not isinstance(self.features, np.ndarray) or self.features.ndim != 2:
            raise UserError(
                f"features={_shown(self.features)}: pass an array of NumPy, float32 [M, D]"
            )
        count = len(self.features)
        if not _is_vector(self.indices, count):
            raise UserError(
                f"indices={_shown(self.indices)}: pass an array of integers [{count}], one for "
                "each row of the features"
            )
        if self.labels is None:
            return
        if not _is_vector(self.labels, count):
            raise UserError(
                f"labels={_shown(self.labels)}: pass an array of integers [{count}], the class of "
                "each row of the features, or a pair (features, labels) to the evaluation"
            )
        if count and not -1 <= self.labels.min() <= self.labels.max() < self.num_classes:
            raise UserError(
                f"the labels are {self.labels.min()} to {self.labels.max()}, but "
                f"num_classes={self.num_classes}: use labels in [0, num_classes), and -1 for an "
                "image without a label"
            )

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.features.shape))
        labels = f"labels of {self.num_classes} classes" if self.num_classes else "no labels"
        return f"<moco_tf features {shape}, {labels}>"


def _is_vector(value: Any, count: int) -> bool:
    """Return whether a value is an array of `count` integers."""
    is_array = isinstance(value, np.ndarray)
    return is_array and value.shape == (count,) and value.dtype.kind in "iu"


def _shown(value: Any) -> str:
    """Return what a message says about a value, which may be a large array."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"{value!r:.100}"


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
