"""The `coco` source: a folder in COCO's format, with images and two JSON files of annotations."""

import json
import os
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf.data.boxes.annotations import MAX_BOXES, AnnotatedImages, Annotations
from moco_tf.data.decoding import decode
from moco_tf.errors import UserError


def load(name: str, folder: str, masks: bool) -> AnnotatedImages:
    """Open a folder in COCO's format.

    The folder holds one file `annotations/instances_train*.json` and one file
    `annotations/instances_val*.json`. The images of `instances_NAME.json` are in `NAME`, in
    `images/NAME`, in `images` or in the folder itself, whichever is the first to hold the first
    image. Images without annotations are included.

    Args:
        name: The string that names the source.
        folder: Local path, or one that `tf.io.gfile` supports.
        masks: Whether to load masks: the polygons or run lengths that each annotation has under
            `segmentation`.

    Returns:
        The images with their annotations. The classes are the categories of the training file, in
        the order of their ids.

    Raises:
        UserError: If a file or an image is missing, a file exists twice or cannot be read,
            annotations are inconsistent, a file has no boxes, or `masks` is True and an annotation
            has no mask.
    """
    train_file = _AnnotationFile(name, folder, "train")
    test_file = _AnnotationFile(name, folder, "val")
    categories = train_file.categories
    for category_id, category in test_file.categories.items():
        if categories.get(category_id) != category:
            raise UserError(
                f"{test_file.path} has the category {category_id}, '{category}', but "
                f"{train_file.path} does not: give both the same categories"
            )
    category_ids = sorted(categories)
    label_of_category = {category_id: label for label, category_id in enumerate(category_ids)}

    paths: list[str] = []
    sizes: list[tuple[int, int]] = []
    annotations: list[dict[str, Any]] = []  # Of all images, one after the other.
    ends = [0]  # The end of each image's annotations.
    for file in (train_file, test_file):
        paths += file.image_paths()
        for image in file.images:
            sizes.append((image["height"], image["width"]))
            annotations += file.annotations_of(image, categories, masks)
            ends.append(len(annotations))

    # COCO's boxes are left, top, width and height.
    coco_boxes = np.array([annotation["bbox"] for annotation in annotations], np.float64)
    corners, box_sizes = np.split(coco_boxes.reshape(-1, 4), 2, axis=1)
    boxes = np.concatenate([corners, corners + box_sizes], axis=1)
    is_crowd = np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], bool)
    labels = np.array(
        [label_of_category[annotation["category_id"]] for annotation in annotations], np.int32
    )
    # Without masks, the polygons of all objects are not kept in memory.
    segmentations = [annotation["segmentation"] for annotation in annotations] if masks else []

    # Boxes of each image that are not crowds.
    counts = np.diff(np.concatenate([[0], np.cumsum(~is_crowd)])[ends])
    num_train = len(train_file.images)
    for file, file_counts in ((train_file, counts[:num_train]), (test_file, counts[num_train:])):
        if not file_counts.sum():
            raise UserError(
                f"{file.path} has no boxes other than those of crowds: add annotations of objects"
            )

    def annotations_at(index: int, height: int, width: int) -> Annotations:
        if (height, width) != sizes[index]:
            annotated_height, annotated_width = sizes[index]
            raise UserError(
                f"{paths[index]} is {width} pixels wide and {height} pixels high, but its "
                f"annotations are for an image {annotated_width} pixels wide and "
                f"{annotated_height} pixels high: correct the image or its annotations"
            )
        rows = slice(ends[index], ends[index + 1])
        return Annotations(
            boxes=boxes[rows],
            labels=labels[rows],
            crowd=is_crowd[rows],
            difficult=np.zeros(rows.stop - rows.start, bool),
            masks=(
                [run_lengths(mask, height, width) for mask in segmentations[rows]]
                if masks
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
        class_names=[categories[category_id] for category_id in category_ids],
        read=read,
        annotations=annotations_at,
        describe=lambda index: paths[index],
        train=np.arange(num_train),
        test=np.arange(num_train, len(paths)),
        max_boxes=int(min(MAX_BOXES, counts[:num_train].max())),
    )


def run_lengths(
    segmentation: list[list[float]] | dict[str, Any], height: int, width: int
) -> dict[str, Any]:
    """Return a mask in the format that `pycocotools.mask` decodes.

    Args:
        segmentation: The mask as a file holds it: polygons, run lengths as a list, or run lengths
            as text.
        height: Height of the image.
        width: Width of the image.
    """
    from pycocotools import mask

    if isinstance(segmentation, list):
        return mask.merge(mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask.frPyObjects(segmentation, height, width)
    return segmentation


class _AnnotationFile:
    """One of the JSON files.

    Args:
        source_name: The string that names the source.
        folder: The folder of the source.
        split: The beginning of the file's name after `instances_`, "train" or "val".

    Attributes:
        path: Path of the file.
        images: Its images, with `id`, `file_name`, `height` and `width` each.
        categories: The names of its categories by their ids.
    """

    def __init__(self, source_name: str, folder: str, split: str) -> None:
        self._source_name = source_name
        self._folder = folder
        pattern = os.path.join(folder, "annotations", f"instances_{split}*.json")
        matching = sorted(tf.io.gfile.glob(pattern))
        if len(matching) != 1:
            raise UserError(
                f"data source '{source_name}' needs one file {pattern}, but there are "
                f"{len(matching) or 'none'}: add the file, or remove all but one"
            )
        [self.path] = matching
        self._name = os.path.basename(self.path).removeprefix("instances_").removesuffix(".json")
        try:
            with tf.io.gfile.GFile(self.path) as file:
                contents = json.load(file)
            self.images: list[dict[str, Any]] = contents["images"]
            self.categories: dict[int, str] = {
                category["id"]: category["name"] for category in contents["categories"]
            }
            self._annotations: dict[int, list[dict[str, Any]]] = {}
            for image in self.images:
                self._annotations[image["id"]] = []
                if not (image["height"] > 0 and image["width"] > 0 and image["file_name"]):
                    raise ValueError(f"the image {image['id']} has no size or no file name")
            for annotation in contents.get("annotations", []):
                self._annotations[annotation["image_id"]].append(annotation)
        except KeyError as error:
            raise UserError(
                f"{self.path} is not in COCO's format: {error} is missing, or is referred to but "
                "not defined"
            ) from error
        except (TypeError, ValueError, AttributeError, tf.errors.OpError) as error:
            raise UserError(f"{self.path} cannot be read: {error}") from error
        if not self.images:
            raise UserError(f"{self.path} has no images: add them, with their annotations")

    def annotations_of(
        self, image: dict[str, Any], categories: dict[int, str], masks: bool
    ) -> list[dict[str, Any]]:
        """Check the annotations of an image and return them.

        Args:
            image: One of `images`.
            categories: The names of the categories by their ids.
            masks: Whether every annotation needs a mask.

        Raises:
            UserError: If an annotation is invalid.
        """
        annotations = self._annotations[image["id"]]
        for annotation in annotations:
            location = f"{self.path}: the annotation {annotation.get('id')}"
            box, category = annotation.get("bbox"), annotation.get("category_id")
            if not isinstance(box, list) or len(box) != 4:
                raise UserError(f"{location} has no bbox of four numbers")
            if category not in categories:
                raise UserError(f"{location} has the category {category}, which is not defined")
            if masks and not annotation.get("segmentation"):
                raise UserError(
                    f"data source '{self._source_name}' has boxes without masks: {location} has no "
                    "segmentation; detection works without masks, segmentation does not"
                )
        return annotations

    def image_paths(self) -> list[str]:
        """Return the paths of the images.

        Raises:
            UserError: If an image is missing.
        """
        folders = [
            os.path.join(self._folder, self._name),
            os.path.join(self._folder, "images", self._name),
            os.path.join(self._folder, "images"),
            self._folder,
        ]
        file_names = [image["file_name"] for image in self.images]
        for image_folder in folders:
            paths = [os.path.join(image_folder, file_name) for file_name in file_names]
            if tf.io.gfile.exists(paths[0]):
                break
        else:
            raise UserError(
                f"{self.path} lists the image {file_names[0]}, which is in none of "
                f"{', '.join(folders)}"
            )
        missing = [path for path in paths if not tf.io.gfile.exists(path)]
        if missing:
            raise UserError(
                f"{self.path} lists {len(missing)} images that are missing: add them; the first is "
                f"{missing[0]}"
            )
        return paths
