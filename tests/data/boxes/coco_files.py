"""A small folder in COCO's format."""

import copy
import json

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("pycocotools")
from pycocotools import mask

CATEGORIES = [{"id": 7, "name": "lamp"}, {"id": 3, "name": "chair"}]
POLYGON = [[10.0, 5.0, 40.0, 5.0, 40.0, 20.5, 10.0, 20.5], [1, 1, 4, 1, 4, 4]]


def run_lengths(*box, height=30, width=50):
    """The mask of a box (left, top, width, height) as run lengths, column by column."""
    inside = np.zeros([height, width], np.uint8)
    left, top, box_width, box_height = box
    inside[top : top + box_height, left : left + box_width] = 1
    flat = inside.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"size": [height, width], "counts": [0] * int(flat[0]) + counts}


def annotation(id_, image, category, box, segmentation, iscrowd=0):
    return {
        "id": id_,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "segmentation": segmentation,
        "iscrowd": iscrowd,
        "area": box[2] * box[3],
    }


def example():
    """The contents of two files. One of the three training images has no annotations."""
    images = [{"id": 10 * n, "file_name": f"{n}.png", "height": 30, "width": 50} for n in range(3)]
    train = [
        annotation(1, 20, 7, [1.5, 1, 38.5, 19.5], POLYGON),
        annotation(2, 0, 3, [20, 10, 5, 6], run_lengths(20, 10, 5, 6)),
        annotation(3, 20, 3, [0, 0, 50, 30], run_lengths(0, 0, 50, 30), iscrowd=1),
    ]
    encoded = mask.frPyObjects(run_lengths(2, 3, 4, 5), 30, 50)
    encoded["counts"] = encoded["counts"].decode()
    val = [annotation(1, 0, 7, [2, 3, 4, 5], encoded)]
    content = {
        "train2017": {"images": images, "annotations": train, "categories": CATEGORIES},
        "val2017": {"images": images[:1], "annotations": val, "categories": CATEGORIES},
    }
    return copy.deepcopy(content)  # Tests change single values.


def write_example(folder, content, below=""):
    """Write JSON files and their images; `{}` in `below` is the split."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split, annotations in content.items():
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(annotations if isinstance(annotations, str) else json.dumps(annotations))
        image_folder = folder / below.format(split)
        image_folder.mkdir(parents=True, exist_ok=True)
        for number in range(3):
            pixels = np.full([30, 50, 3], 10 * number + len(split), np.uint8)
            PIL.Image.fromarray(pixels).save(image_folder / f"{number}.png")
    return folder
