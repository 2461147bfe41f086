"""The `coco` source, compared with pycocotools."""

import copy
import json

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

pytest.importorskip("pycocotools")
from pycocotools import mask
from pycocotools.coco import COCO

from moco_tf.data import boxes
from moco_tf.errors import UserError
from tests.scenes import needs_fashion_mnist, write

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
    return {
        "train2017": {"images": images, "annotations": train, "categories": CATEGORIES},
        "val2017": {"images": images[:1], "annotations": val, "categories": CATEGORIES},
    }


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


@pytest.mark.parametrize("below", ["{}", "images/{}"])
def test_images_boxes_and_masks_match_pycocotools(tmp_path, below):
    write_example(tmp_path, example(), below)
    images = boxes.load(f"coco:{tmp_path}", masks=True)
    assert images.class_names == ["chair", "lamp"]
    assert images.train.tolist() == [0, 1, 2]
    assert images.test.tolist() == [3]
    assert images.max_boxes == 1  # The crowd does not count.
    labels = {3: 0, 7: 1}
    for split, first in (("train2017", 0), ("val2017", 3)):
        coco = COCO(tmp_path / "annotations" / f"instances_{split}.json")
        for number, image in enumerate(coco.dataset["images"]):
            index = first + number
            assert images.describe(index).endswith(f"{below.format(split)}/{number}.png")
            pixels = images.read(tf.constant(index, tf.int64)).numpy()
            assert pixels.shape == (30, 50, 3)
            assert (pixels == 10 * number + len(split)).all()
            annotations = images.annotations(index, 30, 50)
            expected = coco.loadAnns(coco.getAnnIds(image["id"]))
            assert len(expected) == len(annotations.boxes) == len(annotations.masks)
            assert not annotations.difficult.any()
            for row, coco_annotation in enumerate(expected):
                x, y, width, height = coco_annotation["bbox"]
                assert annotations.boxes[row].tolist() == [x, y, x + width, y + height]
                assert annotations.labels[row] == labels[coco_annotation["category_id"]]
                assert annotations.crowd[row] == coco_annotation["iscrowd"]
                inside = mask.decode(annotations.masks[row])
                np.testing.assert_array_equal(inside, coco.annToMask(coco_annotation))


def test_masks_are_optional(tmp_path):
    content = example()
    del content["train2017"]["annotations"][0]["segmentation"]
    name = f"coco:{write_example(tmp_path, content, '{}')}"
    assert boxes.load(name).annotations(2, 30, 50).masks is None
    with pytest.raises(UserError, match="has boxes without masks: .*annotation 1 has no segm"):
        boxes.load(name, masks=True)


@needs_fashion_mnist
def test_scenes_have_exact_boxes_and_masks(tmp_path):
    images = boxes.load(f"coco:{write(tmp_path)}", masks=True)
    assert images.class_names == ["T-shirt", "trouser", "sneaker", "bag"]
    assert len(images.train) == 6
    assert len(images.test) == 4
    for index in [*images.train, *images.test]:
        pixels = images.read(tf.constant(index, tf.int64)).numpy()
        assert pixels.shape == (96, 128, 3)
        assert pixels.std() > 5
        annotations = images.annotations(index, 96, 128)
        assert 1 <= len(annotations.boxes) <= 3
        masks = [mask.decode(m) for m in annotations.masks]
        assert np.sum(masks, axis=0).max() == 1  # Garments do not overlap.
        for box, inside in zip(annotations.boxes, masks, strict=True):
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert box.tolist() == expected
            assert inside.sum() > 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda files: files.pop("val2017"),
            "needs one file .*instances_val\\*.json, but there are none",
        ),
        (
            lambda files: files.update(train2014=files["train2017"]),
            "instances_train.*, but there are 2",
        ),
        (
            lambda files: files.update(train2017="[1"),
            "instances_train2017.json cannot be read: Expecting",
        ),
        (lambda files: files.update(train2017="[1]"), "instances_train2017.json cannot be read"),
        (
            lambda files: files["train2017"].pop("categories"),
            "not in COCO's format: 'categories' is",
        ),
        (
            lambda files: files["train2017"]["annotations"][0].update(image_id=5),
            "5 is missing, or is referred",
        ),
        (
            lambda files: files["train2017"]["annotations"][0].update(category_id=5),
            "1 has the category 5",
        ),
        (
            lambda files: files["train2017"]["annotations"][0].update(bbox=[1]),
            "annotation 1 has no bbox",
        ),
        (
            lambda files: files["val2017"].update(categories=[{"id": 7, "name": "x"}]),
            "category 7, 'x', but",
        ),
        (lambda files: files["val2017"].update(annotations=[]), "val2017.json has no boxes"),
        (lambda files: files["val2017"].update(images=[]), "0 is missing, or is referred"),
        (
            lambda files: files["val2017"]["images"][0].update(file_name="9.png"),
            "9.png, which is in none",
        ),
        (
            lambda files: files["train2017"]["images"][1].update(file_name="9.png"),
            "lists 1 images that are",
        ),
        (
            lambda files: files["train2017"]["images"][1].update(height=0),
            "image 10 has no size or no file name",
        ),
    ],
)
def test_error_names_the_problem(tmp_path, change, message):
    content = copy.deepcopy(example())
    change(content)
    write_example(tmp_path, content, "{}")
    with pytest.raises(UserError, match=message) as error:
        boxes.load(f"coco:{tmp_path}")
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_error_names_an_image_of_another_size(tmp_path):
    images = boxes.load(f"coco:{write_example(tmp_path, example(), '{}')}")
    with pytest.raises(
        UserError, match="0.png is 31 pixels wide and 30 pixels high, .* 50 pixels wide and 30 "
    ):
        images.annotations(0, 30, 31)


def test_error_names_a_source_without_boxes():
    with pytest.raises(UserError, match="'photos': use coco:PATH"):
        boxes.load("photos")
