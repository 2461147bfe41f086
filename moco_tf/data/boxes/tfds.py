"""Data sets of tensorflow-datasets whose images have boxes, such as voc and coco."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from moco_tf.data.boxes.annotations import MAX_BOXES, AnnotatedImages, Annotations
from moco_tf.data.decoding import decode
from moco_tf.data.sources import examples, tfds
from moco_tf.errors import UserError

if TYPE_CHECKING:  # Importing it takes seconds.
    import tensorflow_datasets

MAX_ATTEMPTS = 100  # Records to try when looking for a box.


def load(name: str, dataset: str, masks: bool, data_dir: str) -> AnnotatedImages:
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

    Returns:
        The images with their annotations.

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
        return any(_object_values(read_example(index), "bbox") for index in indices)

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

    def annotations(index: int, height: int, width: int) -> Annotations:
        example = read_example(index)
        labels = np.array(_object_values(example, "label"), np.int32)
        # Relative to the sides of the image.
        corners = np.array(_object_values(example, "bbox"), np.float64).reshape(-1, 4)
        top, left, bottom, right = corners.T
        no_flags = [False] * len(labels)
        return Annotations(
            boxes=np.stack([left * width, top * height, right * width, bottom * height], axis=1),
            labels=labels,
            crowd=np.array(_object_values(example, "is_crowd") or no_flags, bool),
            difficult=np.array(_object_values(example, "is_difficult") or no_flags, bool),
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
    )


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
