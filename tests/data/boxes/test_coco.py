"""The `coco` source, compared with pycocotools."""

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("pycocotools")
from pycocotools import mask
from pycocotools.coco import COCO

from moco_tf.data import boxes
from moco_tf.errors import UserError
from tests.data.boxes.coco_files import example, write_example
from tests.scenes import needs_fashion_mnist, write


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


def test_folder_with_brackets_in_its_name(tmp_path):
    folder = tmp_path / "coco [v2]"
    folder.mkdir()
    assert len(boxes.load(f"coco:{write_example(folder, example(), '{}')}").train) == 3


def test_masks_are_optional(tmp_path):
    content = example()
    del content["train2017"]["annotations"][0]["segmentation"]
    name = f"coco:{write_example(tmp_path, content, '{}')}"
    assert boxes.load(name).annotations(2, 30, 50).masks is None
    with pytest.raises(UserError, match=r"annotations\[0\] \(id 1\): there is no segm"):
        boxes.load(name, masks=True)


def test_checksum_covers_annotations(tmp_path):
    def checksum(change, masks=True):
        content = example()
        change(content["train2017"]["annotations"][0])
        name = f"coco:{write_example(tmp_path, content, '{}')}"
        return boxes.load(name, masks=masks).checksum

    def move(annotation):
        annotation["bbox"][0] += 0.5

    def relabel(annotation):
        annotation["category_id"] = {3: 7, 7: 3}[annotation["category_id"]]

    def outline(annotation):
        annotation["segmentation"] = [[1, 1, 9, 1, 9, 9]]

    def nothing(annotation):
        pass

    expected = checksum(nothing)
    assert checksum(nothing) == expected
    assert len({expected, *map(checksum, (move, relabel, outline))}) == 4
    assert checksum(outline, masks=False) == checksum(nothing, masks=False)


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
        (
            lambda files: files["train2017"].pop("categories"),
            "not in COCO's format: 'categories' is",
        ),
        (
            lambda files: files["val2017"].update(categories=[{"id": 7, "name": "x"}]),
            "category 7, 'x', but",
        ),
        (lambda files: files["val2017"].update(annotations=[]), "val2017.json has no boxes"),
        (lambda files: files["val2017"].update(images=[]), "val2017.json has no images"),
        (
            lambda files: files["val2017"]["images"][0].update(file_name="9.png"),
            "lists the image '9.png', which is in none of ",
        ),
        (
            lambda files: [
                image.update(file_name="9.png") for image in files["train2017"]["images"]
            ],
            "lists the image '9.png', and 2 others, which are in none of ",
        ),
    ],
)
def test_error_names_the_problem(tmp_path, change, message):
    content = example()
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
