"""Folders in COCO's format against pycocotools' own reading of them."""

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
    """The mask of a box as a list of run lengths, column by column."""
    inside = np.zeros([height, width], np.uint8)
    left, top, across, down = box
    inside[top : top + down, left : left + across] = 1
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
    """Two files: of the three images for training one has no annotation."""
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
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for part, of_part in content.items():
        path = folder / "annotations" / f"instances_{part}.json"
        path.write_text(of_part if isinstance(of_part, str) else json.dumps(of_part))
        place = folder / below.format(part)
        place.mkdir(parents=True, exist_ok=True)
        for number in range(3):
            pixels = np.full([30, 50, 3], 10 * number + len(part), np.uint8)
            PIL.Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


@pytest.mark.parametrize("below", ["{}", "images/{}"])
def test_images_boxes_and_masks_are_those_of_pycocotools(tmp_path, below):
    write_example(tmp_path, example(), below)
    images = boxes.load(f"coco:{tmp_path}", masks=True)
    assert images.class_names == ["chair", "lamp"]
    assert (images.train.tolist(), images.test.tolist()) == ([0, 1, 2], [3])
    assert images.most_boxes == 1  # the crowd's does not count
    ids = {3: 0, 7: 1}
    for part, first in (("train2017", 0), ("val2017", 3)):
        coco = COCO(tmp_path / "annotations" / f"instances_{part}.json")
        for number, image in enumerate(coco.dataset["images"]):
            index = first + number
            assert images.describe(index).endswith(f"{below.format(part)}/{number}.png")
            pixels = images.read(tf.constant(index, tf.int64)).numpy()
            assert pixels.shape == (30, 50, 3) and (pixels == 10 * number + len(part)).all()
            found = images.annotations(index, 30, 50)
            expected = coco.loadAnns(coco.getAnnIds(image["id"]))
            assert len(expected) == len(found.boxes) == len(found.masks)
            for row, wanted in enumerate(expected):
                x, y, width, height = wanted["bbox"]
                assert found.boxes[row].tolist() == [x, y, x + width, y + height]
                assert found.labels[row] == ids[wanted["category_id"]]
                assert found.crowd[row] == wanted["iscrowd"] and not found.difficult[row]
                np.testing.assert_array_equal(mask.decode(found.masks[row]), coco.annToMask(wanted))


def test_without_masks_none_are_kept(tmp_path):
    content = example()
    del content["train2017"]["annotations"][0]["segmentation"]
    name = f"coco:{write_example(tmp_path, content, '{}')}"
    assert boxes.load(name).annotations(2, 30, 50).masks is None
    with pytest.raises(UserError, match="has boxes without masks: .*annotation 1 has no segm"):
        boxes.load(name, masks=True)


@needs_fashion_mnist
def test_the_scenes_are_what_they_say(tmp_path):
    images = boxes.load(f"coco:{write(tmp_path)}", masks=True)
    assert images.class_names == ["T-shirt", "trouser", "sneaker", "bag"]
    assert (len(images.train), len(images.test)) == (6, 4)
    for index in [*images.train, *images.test]:
        pixels = images.read(tf.constant(index, tf.int64)).numpy()
        assert pixels.shape == (96, 128, 3) and pixels.std() > 5
        found = images.annotations(index, 96, 128)
        assert 1 <= len(found.boxes) <= 3
        masks = [mask.decode(m) for m in found.masks]
        assert np.sum(masks, axis=0).max() == 1  # no pixel is of two garments
        for box, inside in zip(found.boxes, masks, strict=True):
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert box.tolist() == expected and inside.sum() > 50


def changed(change):
    content = copy.deepcopy(example())
    change(content)
    return content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("val2017"), "needs one file .*instances_val\\*.json, and there is none"),
        (lambda c: c.update(train2014=c["train2017"]), "instances_train.*, and there are 2"),
        (lambda c: c.update(train2017="[1"), "instances_train2017.json cannot be read: Expecting"),
        (lambda c: c.update(train2017="[1]"), "instances_train2017.json cannot be read"),
        (lambda c: c["train2017"].pop("categories"), "not in COCO's format: 'categories' is"),
        (lambda c: c["train2017"]["annotations"][0].update(image_id=5), "5 is missing, or named"),
        (
            lambda c: c["train2017"]["annotations"][0].update(category_id=5),
            "1 is of the category 5",
        ),
        (lambda c: c["train2017"]["annotations"][0].update(bbox=[1]), "annotation 1 has no bbox"),
        (
            lambda c: c["val2017"].update(categories=[{"id": 7, "name": "x"}]),
            "category 7, 'x', and",
        ),
        (lambda c: c["val2017"].update(annotations=[]), "val2017.json has no box"),
        (lambda c: c["val2017"].update(images=[]), "0 is missing, or named and not"),
        (lambda c: c["val2017"]["images"][0].update(file_name="9.png"), "9.png, which is in none"),
        (
            lambda c: c["train2017"]["images"][1].update(file_name="9.png"),
            "names 1 images that are",
        ),
        (lambda c: c["train2017"]["images"][1].update(height=0), "image 10 has no size or no name"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, words):
    write_example(tmp_path, changed(change), "{}")
    with pytest.raises(UserError, match=words) as caught:
        boxes.load(f"coco:{tmp_path}")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_image_of_another_size_is_named(tmp_path):
    images = boxes.load(f"coco:{write_example(tmp_path, example(), '{}')}")
    with pytest.raises(UserError, match="0.png is 31 pixels wide and 30 high, .* for 50 and 30"):
        images.annotations(0, 30, 31)


def test_other_data_is_named():
    with pytest.raises(UserError, match="--data=photos is no source of images with boxes: give co"):
        boxes.load("photos")
