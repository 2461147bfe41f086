"""The `coco` source: a folder in COCO's format, with images and two JSON files of annotations."""

import hashlib
import json
import os
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf.data.boxes import coco_file
from moco_tf.data.boxes.annotations import MAX_BOXES, AnnotatedImages, Annotations, Tally
from moco_tf.data.boxes.coco_checks import TOLERANCE, short
from moco_tf.data.boxes.masks import run_lengths
from moco_tf.data.decoding import decode
from moco_tf.errors import UserError
from moco_tf.names import printable


def load(name: str, folder: str, with_masks: bool, skip_invalid: bool = False) -> AnnotatedImages:
    """Open a folder in COCO's format.

    The folder holds one file `annotations/instances_train*.json` and one file
    `annotations/instances_val*.json`. The images of `instances_NAME.json` are in `NAME`, in
    `images/NAME`, in `images` or in the folder itself: in the first that holds them all, or else
    in the one that holds most. Images without annotations are included.

    Boxes are clipped to their images. As in Detectron2, annotations without an area are left out:
    those of boxes without an area and, with masks, of polygons with fewer than three points. Images
    without a file are left out as well, so the annotations may be those of a larger data set.

    Args:
        name: The string that names the source.
        folder: Local path, or one that `tf.io.gfile` supports.
        with_masks: Whether to load masks: the polygons or run lengths that each annotation has
            under `segmentation`.
        skip_invalid: Whether to leave out images and annotations with invalid values instead of an
            error.

    Returns:
        The images with their annotations. The classes are the categories of the training file, in
        the order of their ids. The tally counts what was left out.

    Raises:
        UserError: If a file is missing or exists twice, cannot be read or has an invalid value,
            none of its images exist, or it has no boxes.
    """
    tally = Tally()
    train_file, test_file = (
        coco_file.read(name, folder, split, with_masks, skip_invalid, tally)
        for split in ("train", "val")
    )
    categories = train_file.categories
    for category_id, category in test_file.categories.items():
        if categories.get(category_id) != category:
            raise UserError(
                f"{test_file.path} has the category {short(category_id)}, {short(category)}, but "
                f"{train_file.path} does not: give both the same categories"
            )
    category_ids = sorted(categories)
    label_of_category = {category_id: label for label, category_id in enumerate(category_ids)}

    paths = train_file.paths + test_file.paths
    sizes = train_file.sizes + test_file.sizes
    per_image = train_file.annotations + test_file.annotations
    annotations = [annotation for one_image in per_image for annotation in one_image]
    num_annotations = [len(one_image) for one_image in per_image]
    ends = np.concatenate([[0], np.cumsum(num_annotations, dtype=np.int64)])

    coco_boxes = np.array([annotation["bbox"] for annotation in annotations], np.float64)
    boxes, tally.clipped = _clipped(
        coco_boxes.reshape(-1, 4), np.repeat(sizes, num_annotations, axis=0)
    )
    is_crowd = np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], bool)
    labels = np.array(
        [label_of_category[annotation["category_id"]] for annotation in annotations], np.int32
    )
    # Without masks, the polygons of all objects are not kept in memory.
    segmentations = [annotation["segmentation"] for annotation in annotations] if with_masks else []

    # Boxes of each image that are not crowds.
    counts = np.diff(np.concatenate([[0], np.cumsum(~is_crowd)])[ends])
    num_train = len(train_file.paths)
    for file, file_counts in ((train_file, counts[:num_train]), (test_file, counts[num_train:])):
        if not file_counts.sum():
            note = f" (skipped so far: {tally})" if tally.skipped else ""
            raise UserError(
                f"{file.path} has no boxes other than those of crowds{note}: add annotations of "
                "objects"
            )

    def annotations_at(index: int, height: int, width: int) -> Annotations:
        if (height, width) != sizes[index]:
            annotated_height, annotated_width = sizes[index]
            raise UserError(
                f"{printable(paths[index])} is {width} pixels wide and {height} pixels high, but "
                f"its annotations are for an image {annotated_width} pixels wide and "
                f"{annotated_height} pixels high: correct the image or its annotations, or set "
                "skip_invalid to leave out such images"
            )
        rows = slice(ends[index], ends[index + 1])
        return Annotations(
            boxes=boxes[rows],
            labels=labels[rows],
            crowd=is_crowd[rows],
            difficult=np.zeros(rows.stop - rows.start, bool),
            masks=(
                [run_lengths(mask, height, width) for mask in segmentations[rows]]
                if with_masks
                else None
            ),
        )

    # The paths stay in Python, because tf.data makes several copies of captured tensors.
    encoded_paths = [os.fsencode(path) for path in paths]

    def encoded_path_at(index: int) -> bytes:
        return encoded_paths[index]

    def read(index: tf.Tensor) -> tf.Tensor:
        path = tf.numpy_function(encoded_path_at, [index], tf.string, stateful=False)
        return decode(tf.io.read_file(tf.ensure_shape(path, [])))

    return AnnotatedImages(
        name=name,
        class_names=[printable(categories[category_id]) for category_id in category_ids],
        read=read,
        annotations=annotations_at,
        describe=lambda index: printable(paths[index]),
        train=np.arange(num_train),
        test=np.arange(num_train, len(paths)),
        max_boxes=int(min(MAX_BOXES, counts[:num_train].max())),
        tally=tally,
        checksum=_checksum(
            [*encoded_paths, *map(os.fsencode, map(str, categories.values()))],
            [np.array(num_annotations), boxes, labels, is_crowd],
            segmentations,
        ),
    )


def _checksum(names: list[bytes], arrays: list[np.ndarray], segmentations: list[Any]) -> str:
    """Return a SHA-256 checksum of names, of arrays and of the masks of objects."""
    digest = hashlib.sha256(b"\0".join(names))
    for array in arrays:
        digest.update(array.tobytes())
    for segmentation in segmentations:
        digest.update(json.dumps(segmentation).encode())
    return digest.hexdigest()


def _clipped(coco_boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, int]:
    """Clip boxes to their images.

    Args:
        coco_boxes: float64 `[n, 4]`, left, top, width and height.
        sizes: int `[n, 2]`, height and width of the image of each.

    Returns:
        The boxes as left, top, right and bottom, and the number of those that exceeded their
        image by more than a pixel.
    """
    corners, box_sizes = np.split(coco_boxes, 2, axis=1)
    boxes = np.concatenate([corners, corners + box_sizes], axis=1)
    limits = np.reshape(sizes, [-1, 2])[:, [1, 0, 1, 0]]
    clipped = np.clip(boxes, 0, limits)
    exceeding = (np.abs(clipped - boxes) > TOLERANCE).any(axis=1)
    return clipped, int(exceeding.sum())
