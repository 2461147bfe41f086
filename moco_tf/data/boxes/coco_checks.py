"""Checks of the values in an annotation file of COCO's format.

Every function returns what is wrong as a phrase, or None.
"""

import os
import reprlib
from collections.abc import Collection
from typing import Any

from moco_tf.data.boxes import masks
from moco_tf.data.readers.image import MAX_PIXELS

# Boxes whose sides are not longer than this have no area, as in Detectron2. In pixels.
MIN_SIDE = 1e-5
# A box may exceed its image by rounding. One that is farther away is an error of the annotations.
TOLERANCE = 1.0


def id_fault(name: str, value: Any, others: Collection[Any]) -> str | None:
    """Check a new id of an image, an annotation or a category.

    Args:
        name: Its key, such as "id".
        value: The id.
        others: The ids that came before, which are of one type.
    """
    if fault := reference_fault(name, value, others):
        return fault
    return f"{name} is {short(value)}, which another one has as well" if value in others else None


def reference_fault(name: str, value: Any, ids: Collection[Any]) -> str | None:
    """Check the type of a reference to an id, which may be missing from `ids`."""
    if type(value) not in (int, str):
        return f"{name} is {short(value)}, neither an integer nor text"
    other = next(iter(ids), value)
    if type(other) is not type(value):
        return f"{name} is {short(value)}, but other ids are like {short(other)}; use one type"
    return None


def image_fault(image: dict[str, Any]) -> str | None:
    """Check the file name and the size of an image."""
    file_name = image.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        return f"file_name is {short(file_name)}, not the path of a file"
    if "\0" in file_name or not _is_encodable(file_name):
        return f"file_name is {short(file_name)}, which cannot be a path"
    if os.path.isabs(file_name) or ".." in file_name.split("/"):
        return f"file_name is {short(file_name)}, which leads outside the folder of the images"
    for side in ("height", "width"):
        if not _is_side(image.get(side)):
            return f"{side} is {short(image.get(side))}, not a positive integer"
    if image["height"] * image["width"] > MAX_PIXELS:
        size = f"{short(image['width'])} x {short(image['height'])}"
        return f"the size is {size} pixels, more than the limit of {MAX_PIXELS} pixels"
    return None


def annotation_fault(
    annotation: dict[str, Any], categories: Collection[Any], height: int, width: int
) -> str | None:
    """Check the category, the box and the flag of an annotation.

    Args:
        annotation: The annotation.
        categories: Ids of the categories.
        height: Height of its image.
        width: Width of its image.
    """
    category = annotation.get("category_id")
    if type(category) not in (int, str) or category not in categories:
        return f"category_id is {short(category)}, which is not defined"
    crowd = annotation.get("iscrowd", 0)
    if type(crowd) not in (int, bool) or crowd not in (0, 1):
        return f"iscrowd is {short(crowd)}, neither 0 nor 1"
    return _box_fault(annotation.get("bbox"), height, width)


def _box_fault(box: Any, height: int, width: int) -> str | None:
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        return f"bbox is {short(box)}, not a list of four finite numbers"
    left, top, box_width, box_height = box
    if box_width < 0 or box_height < 0:
        return f"bbox is {short(box)}, whose width or height is negative"
    right, bottom = left + box_width, top + box_height
    if max(left - width, top - height) > TOLERANCE or min(right, bottom) < -TOLERANCE:
        return f"bbox is {short(box)}, which is outside its image of {width} x {height} pixels"
    return None


def has_area(annotation: dict[str, Any], height: int, width: int, with_mask: bool) -> bool:
    """Whether a valid annotation has an area that can be learned or detected.

    Args:
        annotation: An annotation without a fault.
        height: Height of its image, to which the box is clipped.
        width: Width of its image.
        with_mask: Whether its mask counts as well.
    """
    left, top, box_width, box_height = annotation["bbox"]
    clipped_width = min(left + box_width, width) - max(left, 0)
    clipped_height = min(top + box_height, height) - max(top, 0)
    if min(clipped_width, clipped_height) <= MIN_SIDE:
        return False
    return not with_mask or masks.has_area(annotation["segmentation"])


def short(value: Any) -> str:
    """Return a value of any type as text of limited length, in one line."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2


def _is_number(value: Any) -> bool:
    """Whether a value is a number that is finite, and not absurdly large."""
    # Compares an integer of any length, which a conversion to float would not survive.
    return type(value) in (int, float) and -1e9 < value < 1e9


def _is_side(value: Any) -> bool:
    """Whether a value is a positive integer, which JSON may hold as a float."""
    return _is_number(value) and value >= 1 and value == int(value)


def _is_encodable(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True
