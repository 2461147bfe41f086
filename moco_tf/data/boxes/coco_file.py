"""Reading of an annotation file in COCO's format, with the paths of its images."""

import dataclasses
import fnmatch
import json
import os
from collections.abc import Callable, Collection
from typing import Any

import tensorflow as tf

from moco_tf.data.boxes import coco_checks, masks
from moco_tf.data.boxes.annotations import Tally
from moco_tf.data.boxes.coco_checks import short
from moco_tf.errors import UserError
from moco_tf.files import error_reason

# Called with the list, the position in it, the item and its fault. It raises a `UserError` or
# counts the item as skipped.
Reject = Callable[[str, int, Any, str], None]


@dataclasses.dataclass(frozen=True)
class AnnotationFile:
    """The valid contents of a file, without what was skipped.

    Attributes:
        path: Path of the file.
        categories: Names of the categories by their ids.
        paths: Paths of the images.
        sizes: Height and width of each image.
        annotations: The annotations of each image: valid, but the boxes are not clipped.
    """

    path: str
    categories: dict[Any, str]
    paths: list[str]
    sizes: list[tuple[int, int]]
    annotations: list[list[dict[str, Any]]]


def read(
    source_name: str, folder: str, split: str, with_masks: bool, skip_invalid: bool, tally: Tally
) -> AnnotationFile:
    """Read and check one of the files of a folder.

    Args:
        source_name: The string that names the source.
        folder: The folder of the source.
        split: The beginning of the file's name after `instances_`, "train" or "val".
        with_masks: Whether annotations need masks.
        skip_invalid: Whether to leave out invalid images and annotations instead of an error.
        tally: Counts what was left out.

    Raises:
        UserError: If there is not one such file, it cannot be read, has no images, none of its
            images exist, or a value in it is invalid.
    """
    path = _find(source_name, folder, split)
    contents = _parse(path)
    lists = [_list(path, contents, key) for key in ("categories", "images", "annotations")]
    category_list, image_list, annotation_list = lists

    def reject(name: str, position: int, item: Any, fault: str) -> None:
        id_ = f" (id {short(item['id'])})" if isinstance(item, dict) and "id" in item else ""
        place = f"{path}: {name}[{position}]{id_}: {fault}"
        if not skip_invalid:
            raise UserError(f"{place}; correct it, or set skip_invalid to leave out such {name}")
        tally.skipped[f"invalid {name}"] += 1
        tally.first_fault = tally.first_fault or place

    categories = _categories(path, category_list)
    images = _valid_images(image_list, reject)
    if not images:
        raise UserError(f"{path} has no images: add them, with their annotations")
    paths = _image_paths(path, folder, [image["file_name"] for image in images.values()])
    sizes = {id_: (int(image["height"]), int(image["width"])) for id_, image in images.items()}
    annotations = _valid_annotations(annotation_list, sizes, categories, with_masks, reject, tally)
    existing = [id_ for id_, image_path in zip(images, paths, strict=True) if image_path]
    if missing := len(images) - len(existing):
        tally.skipped["images without a file"] += missing
        lost = sum(map(len, annotations.values())) - sum(len(annotations[id_]) for id_ in existing)
        if lost:
            tally.skipped["annotations of images without a file"] += lost
    return AnnotationFile(
        path,
        categories,
        [image_path for image_path in paths if image_path],
        [sizes[id_] for id_ in existing],
        [annotations[id_] for id_ in existing],
    )


def _find(source_name: str, folder: str, split: str) -> str:
    directory, pattern = os.path.join(folder, "annotations"), f"instances_{split}*.json"
    # The folder itself may have characters of a pattern in its name.
    names = tf.io.gfile.listdir(directory) if tf.io.gfile.isdir(directory) else []
    matching = fnmatch.filter(names, pattern)
    if len(matching) != 1:
        raise UserError(
            f"data source '{source_name}' needs one file {os.path.join(directory, pattern)}, but "
            f"there are {len(matching) or 'none'}: add the file, or remove all but one"
        )
    return os.path.join(directory, matching[0])


def _parse(path: str) -> dict[str, Any]:
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            contents = json.loads(file.read())
    except RecursionError as error:
        raise UserError(f"{path} cannot be read: its lists are nested too deeply") from error
    except (ValueError, OSError, tf.errors.OpError) as error:
        raise UserError(f"{path} cannot be read: {error_reason(error)}") from error
    if not isinstance(contents, dict):
        raise UserError(f"{path} is not in COCO's format: it holds {short(contents)}, no object")
    return contents


def _list(path: str, contents: dict[str, Any], key: str) -> list[Any]:
    if key not in contents and key != "annotations":
        raise UserError(f"{path} is not in COCO's format: '{key}' is missing")
    value = contents.get(key, [])
    if not isinstance(value, list):
        raise UserError(f"{path} is not in COCO's format: '{key}' is {short(value)}, not a list")
    return value


def _categories(path: str, category_list: list[Any]) -> dict[Any, str]:
    """Return the names by the ids. A mistake here would concern all annotations of a category."""
    categories: dict[Any, str] = {}
    for position, category in enumerate(category_list):
        if not isinstance(category, dict):
            fault: str | None = f"{short(category)} is not an object with an id and a name"
        elif not isinstance(category.get("name"), str) or not category["name"]:
            fault = f"name is {short(category.get('name'))}, not text"
        else:
            fault = coco_checks.id_fault("id", category.get("id"), categories)
        if fault:
            raise UserError(f"{path}: categories[{position}]: {fault}; correct it")
        categories[category["id"]] = category["name"]
    return categories


def _valid_images(image_list: list[Any], reject: Reject) -> dict[Any, dict[str, Any]]:
    """Return the images by their ids."""
    images: dict[Any, dict[str, Any]] = {}
    for position, image in enumerate(image_list):
        if not isinstance(image, dict):
            fault: str | None = f"{short(image)} is not an object with an id and a file_name"
        else:
            fault = coco_checks.id_fault("id", image.get("id"), images)
            fault = fault or coco_checks.image_fault(image)
        if fault:
            reject("images", position, image, fault)
        else:
            images[image["id"]] = image
    return images


def _valid_annotations(
    annotation_list: list[Any],
    sizes: dict[Any, tuple[int, int]],
    categories: dict[Any, str],
    with_masks: bool,
    reject: Reject,
    tally: Tally,
) -> dict[Any, list[dict[str, Any]]]:
    """Return the annotations of each image by its id.

    Args:
        annotation_list: All annotations.
        sizes: Height and width of the images, by their ids.
        categories: The categories by their ids.
        with_masks: Whether annotations need masks.
        reject: Handles an invalid annotation.
        tally: Counts what else is left out.
    """
    annotations: dict[Any, list[dict[str, Any]]] = {id_: [] for id_ in sizes}
    ids: set[Any] = set()
    for position, annotation in enumerate(annotation_list):
        if fault := _reference_fault(annotation, sizes, ids):
            reject("annotations", position, annotation, fault)
            continue
        ids.add(annotation.get("id"))
        image_id = annotation["image_id"]
        if image_id not in sizes:
            tally.skipped["annotations of images that are not listed"] += 1
        elif fault := _value_fault(annotation, categories, *sizes[image_id], with_masks):
            reject("annotations", position, annotation, fault)
        elif coco_checks.has_area(annotation, *sizes[image_id], with_masks):
            annotations[image_id].append(annotation)
        else:
            tally.skipped["annotations without an area"] += 1
    return annotations


def _reference_fault(annotation: Any, image_ids: Collection[Any], ids: set[Any]) -> str | None:
    if not isinstance(annotation, dict):
        return f"{short(annotation)} is not an object with an image_id and a bbox"
    # Nothing refers to the id of an annotation, and some files have none.
    if "id" in annotation and (fault := coco_checks.id_fault("id", annotation["id"], ids)):
        return fault
    return coco_checks.reference_fault("image_id", annotation.get("image_id"), image_ids)


def _value_fault(
    annotation: dict[str, Any],
    categories: dict[Any, str],
    height: int,
    width: int,
    with_masks: bool,
) -> str | None:
    fault = coco_checks.annotation_fault(annotation, categories, height, width)
    if fault or not with_masks:
        return fault
    if not annotation.get("segmentation"):
        return "there is no segmentation, without which only detection is possible"
    return masks.fault(annotation["segmentation"], height, width)


def _image_paths(path: str, folder: str, file_names: list[str]) -> list[str | None]:
    """Return the paths of the images, and None for those that do not exist.

    All are in one of four folders: the first one that has them all, or else the one that has most.

    Raises:
        UserError: If none of the images exists.
    """
    name = os.path.basename(path).removeprefix("instances_").removesuffix(".json")
    folders = [
        os.path.join(folder, name),
        os.path.join(folder, "images", name),
        os.path.join(folder, "images"),
        folder,
    ]
    best: list[str | None] = []
    most = 0
    for image_folder in filter(tf.io.gfile.isdir, folders):
        exists = _existence_check()
        candidates = [os.path.join(image_folder, file_name) for file_name in file_names]
        paths = [candidate if exists(candidate) else None for candidate in candidates]
        if (count := sum(candidate is not None for candidate in paths)) > most:
            best, most = paths, count
        if most == len(file_names):
            break
    if not most:
        verb = f"and {len(file_names) - 1} others, which are" if file_names[1:] else "which is"
        raise UserError(
            f"{path} lists the image {short(file_names[0])}, {verb} in none of "
            f"{', '.join(folders)}: add the images"
        )
    return best


def _existence_check() -> Callable[[str], bool]:
    """Return a function of a path that tells whether there is a file.

    It lists each folder once, because a query for each of many files on a remote file system takes
    hours.
    """
    listings: dict[str, set[str]] = {}

    def exists(path: str) -> bool:
        directory, name = os.path.split(path)
        if directory not in listings:
            try:
                listings[directory] = {
                    entry.rstrip("/")
                    for entry in (
                        tf.io.gfile.listdir(directory)
                        if "://" in directory
                        else os.listdir(directory)
                    )
                }
            except (OSError, ValueError, tf.errors.OpError):
                listings[directory] = set()
        if name in listings[directory]:
            return True
        # Some local file systems take other spellings of a name, such as other cases.
        return "://" not in path and bool(listings[directory]) and os.path.exists(path)

    return exists
