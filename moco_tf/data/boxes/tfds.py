"""Data sets of tensorflow-datasets whose images have boxes, such as voc and coco."""

import contextlib
import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from google.protobuf import message

from moco_tf.data.boxes.annotations import MAX_BOXES, AnnotatedImages, Annotations, Tally
from moco_tf.data.boxes.coco_checks import MIN_SIDE, TOLERANCE
from moco_tf.data.decoding import decode
from moco_tf.data.sources import examples, tfds
from moco_tf.errors import UserError

if TYPE_CHECKING:  # Importing it takes seconds.
    import tensorflow_datasets

MAX_ATTEMPTS = 100  # Records to try when looking for a box.


def load(
    name: str, dataset: str, masks: bool, data_dir: str, skip_invalid: bool = False
) -> AnnotatedImages:
    """Open a data set with a sequence `objects` of `bbox` and `label`.

    The objects may also have the flags `is_crowd` (COCO) and `is_difficult` (PASCAL VOC).

    The requested split, "train" by default, is for training; the paper's trainval2007 is
    "tfds:voc/2007:train+validation". The split for testing is "test", or "validation" if "test" is
    missing or has no boxes.

    Args:
        name: The string that names the source.
        dataset: As in `moco_tf.data.sources.tfds.load`.
        masks: Whether masks are requested. No data set of tensorflow-datasets has them.
        data_dir: As in `moco_tf.data.sources.tfds.load`.
        skip_invalid: Whether to leave out objects with invalid values instead of an error.

    Returns:
        The images with their annotations. Boxes are clipped to their images, and those without an
        area are left out. The annotations are in the records with the images, so they are checked
        when they are read: an invalid value is an error of `annotations`, and the tally counts the
        images that were read.

    Raises:
        UserError: If masks are requested; if there is no such data set, version or split; or if the
            data set has no boxes, or no split to test on.
    """
    if masks:
        raise UserError(
            f"data source '{name}' has boxes but no masks: use coco:PATH with annotations that "
            "have masks"
        )
    builder, split = tfds.open_prepared(name, dataset, data_dir)
    class_names = _class_names(name, builder)
    instructions, other_splits = tfds.requested_and_other_splits(name, builder, split)
    records = tfds.scan_splits(instructions, *other_splits)
    read_record = records.reader()

    def read_example(index: int) -> tf.train.Example:
        payload = read_record(tf.constant(index, tf.int64)).numpy()
        return tf.train.Example.FromString(payload)

    def has_boxes(indices: Iterable[int]) -> bool:
        for index in indices:
            # A record that cannot be read is reported when its image is needed.
            with contextlib.suppress(tf.errors.OpError, message.DecodeError):
                if _object_values(read_example(index), "bbox"):
                    return True
        return False

    train = tfds.split_indices(name, records, instructions)
    if not has_boxes(train[:MAX_ATTEMPTS]):
        raise UserError(f"data source '{name}': there is no box in the split '{split}'")
    for other_split in other_splits:
        test = tfds.split_indices(name, records, other_split)
        if has_boxes(test[:MAX_ATTEMPTS]):
            break
    else:
        raise UserError(
            f"data source '{name}' has no other split with boxes to test on: its splits are "
            f"{', '.join(builder.info.splits)}"
        )

    tally = Tally()
    counted: set[int] = set()

    def annotations(index: int, height: int, width: int) -> Annotations:
        objects = _objects(read_example(index))
        valid, fault = _valid_objects(objects, len(class_names))
        place = f"data source '{name}': {records.describe(index)}"
        if fault and not skip_invalid:
            raise UserError(
                f"{place}: {fault}; prepare the data set again, or set skip_invalid to leave out "
                "such objects"
            )
        # Relative to the sides of the image.
        clipped = np.clip(objects.corners, 0, 1)
        top, left, bottom, right = clipped.T
        sides = np.stack([(bottom - top) * height, (right - left) * width])
        kept = valid & (sides > MIN_SIDE).all(axis=0)
        if index not in counted:  # An image is read once in every epoch.
            counted.add(index)
            excess = np.abs(clipped - objects.corners)[kept] * [height, width, height, width]
            tally.clipped += int((excess > TOLERANCE).any(axis=1).sum())
            _count(tally, "invalid annotations", int(np.sum(~valid)))
            _count(tally, "annotations without an area", int(np.sum(valid & ~kept)))
            if fault and not tally.first_fault:
                tally.first_fault = f"{place}: {fault}"
        boxes = np.stack([left * width, top * height, right * width, bottom * height], axis=1)
        return Annotations(
            boxes=boxes[kept],
            labels=objects.labels[kept].astype(np.int32),
            crowd=objects.crowd[kept],
            difficult=objects.difficult[kept],
        )

    spec = {"image": tf.io.FixedLenFeature([], tf.string)}

    def read(index: tf.Tensor) -> tf.Tensor:
        return decode(tf.io.parse_single_example(read_record(index), spec)["image"])

    return AnnotatedImages(
        name=name,
        class_names=class_names,
        read=read,
        annotations=annotations,
        describe=records.describe,
        train=train,
        test=test,
        # The exact number would take a pass over all records, images included.
        max_boxes=MAX_BOXES,
        tally=tally,
    )


@dataclasses.dataclass(frozen=True)
class _Objects:
    """The objects of a record, as they are in it.

    Attributes:
        corners: float64 `[n, 4]`, top, left, bottom and right, relative to the sides of the image.
        labels: int64 `[n]`.
        crowd: bool `[n]`.
        difficult: bool `[n]`.
        fault: What is wrong with the record as a whole, in which case n is 0; or None.
    """

    corners: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    fault: str | None = None


def _objects(example: tf.train.Example) -> _Objects:
    """Return the objects of a record."""
    names = ("bbox", "label", "is_crowd", "is_difficult")
    corners, labels, crowd, difficult = (_object_values(example, name) for name in names)
    count = len(labels)
    no_labels, no_flags = np.zeros(0, np.int64), np.zeros(0, bool)
    empty = _Objects(np.zeros([0, 4]), no_labels, no_flags, no_flags)
    if any(isinstance(value, bytes) for value in (*corners, *labels, *crowd, *difficult)):
        return dataclasses.replace(empty, fault="its objects have text instead of numbers")
    if len(corners) != 4 * count or not {len(crowd), len(difficult)} <= {0, count}:
        fault = f"it has {count} labels, but {len(corners)} numbers of boxes instead of four each"
        if len(corners) == 4 * count:
            fault = f"it has {count} objects, but {len(crowd)} or {len(difficult)} flags"
        return dataclasses.replace(empty, fault=fault)
    return _Objects(
        corners=np.array(corners, np.float64).reshape(-1, 4),
        labels=np.array(labels).astype(np.int64),
        crowd=np.array(crowd or [False] * count, bool),
        difficult=np.array(difficult or [False] * count, bool),
    )


def _valid_objects(objects: _Objects, num_classes: int) -> tuple[np.ndarray, str | None]:
    """Return which objects are valid, bool `[n]`, and what is wrong with the first other one."""
    if objects.fault:
        return np.zeros(len(objects.labels), bool), objects.fault
    top, left, bottom, right = objects.corners.T
    # As in COCO's format, a box that exceeds its image is clipped, but one beside it is an error.
    # NaN compares as False.
    inside = (top <= 1) & (left <= 1) & (bottom >= 0) & (right >= 0)
    valid = (
        np.isfinite(objects.corners).all(axis=1)
        & inside
        & (top <= bottom)
        & (left <= right)
        & (objects.labels >= 0)
        & (objects.labels < num_classes)
    )
    if valid.all():
        return valid, None
    first = int(np.argmin(valid))
    box = ", ".join(f"{value:g}" for value in objects.corners[first])
    return valid, (
        f"object {first} is invalid: its box (top, left, bottom, right) is {box}, and its label "
        f"{objects.labels[first]} of {num_classes}"
    )


def _count(tally: Tally, what: str, number: int) -> None:
    if number:
        tally.skipped[what] += number


def _class_names(name: str, builder: "tensorflow_datasets.core.DatasetBuilder") -> list[str]:
    """Return the names of the labels.

    Raises:
        UserError: If the data set has no images with boxes and labels.
    """
    import tensorflow_datasets

    features = builder.info.features
    try:
        image, objects = features["image"], features["objects"]
        box, label = objects["bbox"], objects["label"]
    except (KeyError, TypeError):
        image = box = label = None
    feature_types = tensorflow_datasets.features
    if not (
        isinstance(image, feature_types.Image)
        and isinstance(box, feature_types.BBoxFeature)
        and isinstance(label, feature_types.ClassLabel)
    ):
        raise UserError(
            f"data source '{name}' has no boxes: it needs the features image, objects/bbox and "
            f"objects/label, but has {', '.join(features)}"
        )
    return label.names


def _object_values(example: tf.train.Example, feature: str) -> list[Any]:
    """Return the values of a feature of all objects of a record."""
    return examples.feature_values(example, f"objects/{feature}")
