"""Data sets of tensorflow-datasets whose images come with boxes, such as voc and coco."""

import numpy as np
import tensorflow as tf

from moco_tf.data.boxes.annotations import MOST_BOXES, AnnotatedImages, Annotations
from moco_tf.data.decoding import decode
from moco_tf.data.sources import records, tfds
from moco_tf.errors import UserError

LOOKED_AT = 100  # records, for a first box
FLAGS = ("is_crowd", "is_difficult")


def load(name, place, masks, data_dir):
    """A data set with a sequence `objects` of `bbox` and `label`, and perhaps `is_crowd` (COCO) and
    `is_difficult` (PASCAL VOC).

    For training is the split that is asked for, "train" by default; the paper's trainval2007 is
    "tfds:voc/2007:train+validation". For testing is "test", or "validation" where "test" has no
    boxes or is missing.

    Args:
        name: str, the source as it was asked for.
        place, data_dir: of `moco_tf.data.tfds.load`.
        masks: bool, whether masks are wanted; there are none.

    Returns:
        `moco_tf.data.annotated.AnnotatedImages`.

    Raises:
        UserError: masks are wanted; no such data set, version or split; one without boxes, or
            without a part to test on.
    """
    if masks:
        raise UserError(
            f"data source '{name}' has boxes without masks: --protocol=segmentation needs coco:PATH"
        )
    builder, split = tfds.open_prepared(name, place, data_dir)
    class_names = _class_names(name, builder)
    chosen, others = tfds.split_and_others(name, builder, split)
    found = records.scan(sorted(set().union(*map(tfds.files, [chosen, *others]))))
    payload = found.reader()

    def parsed(index):
        return tf.train.Example.FromString(payload(tf.constant(index, tf.int64)).numpy())

    def has_boxes(indices):
        return any(_values(parsed(index), "bbox") for index in indices[:LOOKED_AT])

    train = tfds.indices(name, found, chosen)
    if not has_boxes(train):
        raise UserError(f"data source '{name}': there is no box in that split")
    parts = (tfds.indices(name, found, other) for other in others)
    test = next((part for part in parts if has_boxes(part)), None)
    if test is None:
        raise UserError(
            f"data source '{name}' has no other split with boxes to test on: it has "
            f"{', '.join(builder.info.splits)}"
        )

    def annotations(index, height, width):
        example = parsed(index)
        labels = np.array(_values(example, "label"), np.int32)
        relative = np.array(_values(example, "bbox"), np.float64).reshape(-1, 4)
        top, left, bottom, right = relative.T
        boxes = np.stack([left * width, top * height, right * width, bottom * height], axis=1)
        flags = (_values(example, flag) or np.zeros(len(labels)) for flag in FLAGS)
        crowd, difficult = (np.array(flag, bool) for flag in flags)
        return Annotations(boxes, labels, crowd, difficult)

    spec = {"image": tf.io.FixedLenFeature([], tf.string)}
    return AnnotatedImages(
        name=name,
        class_names=class_names,
        read=lambda index: decode(tf.io.parse_single_example(payload(index), spec)["image"]),
        annotations=annotations,
        describe=found.describe,
        train=train,
        test=test,
        # To know it would take a pass over all records, images included.
        most_boxes=MOST_BOXES,
    )


def _class_names(name, builder):
    import tensorflow_datasets

    features = builder.info.features
    try:
        image, objects = features["image"], features["objects"]
        box, label = objects["bbox"], objects["label"]
    except (KeyError, TypeError):
        image = box = label = None
    kinds = tensorflow_datasets.features
    if not (
        isinstance(image, kinds.Image)
        and isinstance(box, kinds.BBoxFeature)
        and isinstance(label, kinds.ClassLabel)
    ):
        raise UserError(
            f"data source '{name}' has no boxes: it needs image, objects/bbox and objects/label, "
            f"and its features are {', '.join(features)}"
        )
    return label.names


def _values(example, feature):
    """The values of a feature of all objects of a record, a list."""
    values = example.features.feature.get(f"objects/{feature}")
    kind = values and values.WhichOneof("kind")
    return list(getattr(values, kind).value) if kind else []
