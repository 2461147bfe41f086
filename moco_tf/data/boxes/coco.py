"""A folder in COCO's format: images, and their objects in two JSON files."""

import itertools
import json
import os

import numpy as np
import tensorflow as tf

from moco_tf.data.boxes.annotations import MOST_BOXES, AnnotatedImages, Annotations
from moco_tf.data.decoding import decode
from moco_tf.errors import UserError

PARTS = ("train", "val")


def load(name, folder, masks):
    """Opens a folder.

    It holds `annotations/instances_train*.json` and `annotations/instances_val*.json`, one of each.
    The images of `instances_NAME.json` are in `NAME`, in `images/NAME`, in `images` or in the
    folder itself, wherever the first of them is found; where two names are the same, they are taken
    from the former place. Images without annotations belong to it as well.

    Args:
        name: str, the source as it was asked for.
        folder: str, local or a `tf.io.gfile` path.
        masks: bool, whether masks are wanted: the polygons or run lengths that each annotation has
            under `segmentation`.

    Returns:
        `AnnotatedImages`. The classes are the categories of the file for training, in the order of
        their ids.

    Raises:
        UserError: a file that is missing, is double or cannot be read, annotations that do not fit
            together, an image that is missing, no box, or an annotation without a mask where masks
            are wanted.
    """
    parts = [_Part(name, folder, part) for part in PARTS]
    categories = parts[0].categories
    for id_, category in parts[1].categories.items():
        if categories.get(id_) != category:
            raise UserError(
                f"{parts[1].path} has the category {id_}, '{category}', and {parts[0].path} has "
                "not: give both the same categories"
            )
    labels = {id_: label for label, id_ in enumerate(sorted(categories))}
    paths, sizes, ends, found = [], [], [0], []
    for part in parts:
        for image, path in zip(part.images, part.paths(), strict=True):
            paths.append(path)
            sizes.append((image["height"], image["width"]))
            found += part.annotations_of(image, categories, masks)
            ends.append(len(found))
    counts = [len(part.images) for part in parts]
    lefts = np.array([a["bbox"] for a in found], np.float64).reshape(-1, 4)
    boxes = np.concatenate([lefts[:, :2], lefts[:, :2] + lefts[:, 2:]], axis=1)
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in found], bool)
    of_class = np.array([labels[a["category_id"]] for a in found], np.int32)
    segmentations = [a["segmentation"] for a in found] if masks else None
    per_image = np.array([np.count_nonzero(~crowd[a:b]) for a, b in itertools.pairwise(ends)])
    for part, count in zip(parts, (per_image[: counts[0]], per_image[counts[0] :]), strict=True):
        if not count.sum():
            raise UserError(f"{part.path} has no box but those of crowds")

    def annotations(index, height, width):
        if (height, width) != sizes[index]:
            raise UserError(
                f"{paths[index]} is {width} pixels wide and {height} high, and its annotations are "
                f"for {sizes[index][1]} and {sizes[index][0]}: give the one or the other its right "
                "size"
            )
        own = slice(ends[index], ends[index + 1])
        return Annotations(
            boxes=boxes[own],
            labels=of_class[own],
            crowd=crowd[own],
            difficult=np.zeros(own.stop - own.start, bool),
            masks=[run_lengths(s, height, width) for s in segmentations[own]] if masks else None,
        )

    # From Python: tf.data copies several times what its functions have captured.
    encoded = [os.fsencode(path) for path in paths]

    def read(index):
        path = tf.numpy_function(lambda index: encoded[index], [index], tf.string, stateful=False)
        return decode(tf.io.read_file(tf.ensure_shape(path, [])))

    return AnnotatedImages(
        name=name,
        class_names=[categories[id_] for id_ in sorted(categories)],
        read=read,
        annotations=annotations,
        describe=lambda index: paths[index],
        train=np.arange(counts[0]),
        test=np.arange(counts[0], sum(counts)),
        most_boxes=int(min(MOST_BOXES, per_image[: counts[0]].max())),
    )


def run_lengths(segmentation, height, width):
    """A mask in memory, as `pycocotools.mask` decodes it, of any of the ways a file writes it:
    polygons, run lengths as a list, or run lengths as text."""
    from pycocotools import mask

    if isinstance(segmentation, list):
        return mask.merge(mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask.frPyObjects(segmentation, height, width)
    return segmentation


class _Part:
    """One JSON file: `path`, `images` (a list), `categories` (`{id: name}`)."""

    def __init__(self, name, folder, part):
        self.name, self.folder = name, folder
        pattern = os.path.join(folder, "annotations", f"instances_{part}*.json")
        matching = sorted(tf.io.gfile.glob(pattern))
        if len(matching) != 1:
            there = f"there are {len(matching)}" if matching else "there is none"
            raise UserError(f"data source '{name}' needs one file {pattern}, and {there}")
        [self.path] = matching
        self.words = os.path.basename(self.path)[len("instances_") : -len(".json")]
        try:
            with tf.io.gfile.GFile(self.path) as file:
                content = json.load(file)
            self.images = content["images"]
            self.categories = {c["id"]: c["name"] for c in content["categories"]}
            self._by_image = {image["id"]: [] for image in self.images}
            for image in self.images:
                if not (image["height"] > 0 and image["width"] > 0 and image["file_name"]):
                    raise ValueError(f"the image {image['id']} has no size or no name")
            for annotation in content.get("annotations", []):
                self._by_image[annotation["image_id"]].append(annotation)
        except KeyError as error:
            raise UserError(
                f"{self.path} is not in COCO's format: {error} is missing, or named and not there"
            ) from error
        except (TypeError, ValueError, AttributeError, tf.errors.OpError) as error:
            raise UserError(f"{self.path} cannot be read: {error}") from error
        if not self.images:
            raise UserError(f"{self.path} has no image")

    def annotations_of(self, image, categories, masks):
        """The annotations of an image, each looked at."""
        found = self._by_image[image["id"]]
        for annotation in found:
            words = f"{self.path}: the annotation {annotation.get('id')}"
            box, category = annotation.get("bbox"), annotation.get("category_id")
            if not isinstance(box, list) or len(box) != 4:
                raise UserError(f"{words} has no bbox of four numbers")
            if category not in categories:
                raise UserError(f"{words} is of the category {category}, which is not there")
            if masks and not annotation.get("segmentation"):
                raise UserError(
                    f"data source '{self.name}' has boxes without masks: {words} has no "
                    "segmentation; what needs boxes alone is --protocol=detection"
                )
        return found

    def paths(self):
        """Where the images are, a list of str."""
        places = [os.path.join(self.folder, below) for below in (self.words, "images")]
        places.insert(1, os.path.join(self.folder, "images", self.words))
        places.append(self.folder)
        names = [image["file_name"] for image in self.images]
        exists = tf.io.gfile.exists
        place = next((p for p in places if exists(os.path.join(p, names[0]))), None)
        if place is None:
            raise UserError(
                f"{self.path} names the image {names[0]}, which is in none of {', '.join(places)}"
            )
        paths = [os.path.join(place, name) for name in names]
        missing = [path for path in paths if not exists(path)]
        if missing:
            raise UserError(
                f"{self.path} names {len(missing)} images that are missing, the first {missing[0]}"
            )
        return paths
