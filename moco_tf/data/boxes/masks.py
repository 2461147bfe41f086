"""Masks of objects in COCO's format: polygons, run lengths as a list, or run lengths as text."""

import math
from typing import Any

import numpy as np

MIN_POINTS = 3  # A polygon with fewer points has no area; Detectron2 leaves these out as well.


def run_lengths(
    segmentation: list[list[float]] | dict[str, Any], height: int, width: int
) -> dict[str, Any]:
    """Return a valid mask in the format that `pycocotools.mask` decodes.

    Args:
        segmentation: The mask as a file holds it: polygons, run lengths as a list, or run lengths
            as text. Polygons without an area are left out.
        height: Height of the image.
        width: Width of the image.
    """
    from pycocotools import mask

    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= 2 * MIN_POINTS]
        return mask.merge(mask.frPyObjects(polygons, height, width))
    if isinstance(segmentation["counts"], list):
        return mask.frPyObjects(segmentation, height, width)
    return segmentation


def has_area(segmentation: list[list[float]] | dict[str, Any]) -> bool:
    """Whether a valid mask has an area, unlike polygons of one or two points."""
    return isinstance(segmentation, dict) or any(
        len(polygon) >= 2 * MIN_POINTS for polygon in segmentation
    )


def fault(segmentation: Any, height: int, width: int) -> str | None:
    """Return what is wrong with a mask, or None.

    pycocotools itself does not check a mask, and may end the process at an invalid one.

    Args:
        segmentation: The value of `segmentation` in a file.
        height: Height of the image.
        width: Width of the image.
    """
    if isinstance(segmentation, dict):
        return _run_lengths_fault(segmentation, height, width)
    if not isinstance(segmentation, list):
        return "segmentation is neither polygons nor run lengths"
    for polygon in segmentation:
        if problem := _polygon_fault(polygon, height, width):
            return problem
    return None


def _polygon_fault(polygon: Any, height: int, width: int) -> str | None:
    if not isinstance(polygon, list):
        return "segmentation has a polygon that is not a list of numbers"
    if len(polygon) % 2 or not polygon:
        return f"segmentation has a polygon of {len(polygon)} numbers instead of pairs of x and y"
    # Without NumPy, which is slower for the short lists of most polygons.
    if not {*map(type, polygon)} <= {int, float}:
        return "segmentation has a polygon that is not a list of numbers"
    xs, ys = polygon[::2], polygon[1::2]
    # The memory that a polygon takes grows with its extent. NaN, which the order of the numbers may
    # hide from min and max, makes the sum NaN.
    x_is_near = -width <= min(xs) and max(xs) <= 2 * width
    y_is_near = -height <= min(ys) and max(ys) <= 2 * height
    if not (x_is_near and y_is_near) or math.isnan(sum(polygon)):
        return (
            f"segmentation has a polygon with points far outside its image of {width} x {height} "
            "pixels"
        )
    return None


def _run_lengths_fault(segmentation: dict[str, Any], height: int, width: int) -> str | None:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or len(size) != 2 or size != [height, width]:
        return f"segmentation has run lengths whose size is not the image's, [{height}, {width}]"
    if isinstance(counts, str):
        lengths = _decompress(counts)
        if lengths is None:
            return "segmentation has run lengths whose text is damaged"
    else:
        numbers = _numbers(counts) if isinstance(counts, list) else None
        if numbers is None or numbers.dtype.kind != "i":
            return "segmentation has run lengths that are not a list of integers"
        lengths = numbers
    # Each at most the number of pixels, so that the sum does not overflow.
    num_pixels = height * width
    if ((lengths < 0) | (lengths > num_pixels)).any() or lengths.sum() != num_pixels:
        return f"segmentation has run lengths that do not add up to {num_pixels} pixels"
    return None


def _numbers(values: list[Any]) -> np.ndarray | None:
    """Return a list of numbers as an array, int64 or float64; None if it holds anything else."""
    try:
        # Without a dtype, because NumPy would convert text to numbers.
        array = np.array(values)
    except (ValueError, OverflowError):
        return None
    return array if array.ndim == 1 and array.dtype.kind in "if" else None


def _decompress(text: str) -> np.ndarray | None:
    """Return the run lengths that a text encodes, int64; None if it is damaged.

    Each number has one character for every five bits, the lowest first, plus 32 in all but its
    last character, plus 48. From the fourth number on, a number is the difference from the number
    two places before it.
    """
    codes = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    if not len(codes) or ((codes < 0) | (codes > 63)).any() or codes[-1] & 32:
        return None
    [ends] = np.nonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 6:  # Seven characters hold 35 bits, more than any image needs.
        return None
    places = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    numbers = np.add.reduceat((codes & 31) << (5 * places), starts)
    is_negative = codes[ends] & 16 != 0
    numbers -= np.where(is_negative, 1 << (5 * (places[ends] + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
