"""Faults in the values of annotation files: each is one line, or is skipped and counted."""

import copy
import json
import random

import numpy as np
import pytest

pytest.importorskip("pycocotools")
from pycocotools import mask

from moco_tf.data import boxes
from moco_tf.errors import UserError
from tests.data.boxes.coco_files import example, run_lengths, write_example

NAN, INFINITY = float("nan"), float("inf")
DAMAGED = "bbox is {}, not a list of four finite numbers"
REMEDY = "; correct it, or set skip_invalid to leave out such "


def compressed(**changes):
    """The mask of a box in the example as run lengths in text."""
    encoded = mask.frPyObjects(run_lengths(2, 3, 4, 5), 30, 50)
    return {"size": [30, 50], "counts": encoded["counts"].decode(), **changes}


# Changes of the first annotation of the training file, and what is said about it.
ANNOTATIONS = [
    (dict(bbox=None), DAMAGED.format(None)),
    (dict(bbox="1,2,3,4"), DAMAGED.format("'1,2,3,4'")),
    (dict(bbox=[1, 2, 3]), DAMAGED.format([1, 2, 3])),
    (dict(bbox=[1, 2, "3", 4]), DAMAGED.format([1, 2, "3", 4])),
    (dict(bbox=[1, 2, None, 4]), DAMAGED.format([1, 2, None, 4])),
    (dict(bbox=[1, 2, True, 4]), DAMAGED.format([1, 2, True, 4])),
    (dict(bbox=[1, 2, NAN, 4]), DAMAGED.format("[1, 2, nan, 4]")),
    (dict(bbox=[1, 2, 3, -INFINITY]), DAMAGED.format("[1, 2, 3, -inf]")),
    (dict(bbox=[1, 2, 10**30, 4]), DAMAGED.format(f"[1, 2, {10**30}, 4]")),
    (dict(bbox=[1, 2, -3, 4]), "bbox is [1, 2, -3, 4], whose width or height is negative"),
    (
        dict(bbox=[60, 2, 3, 4]),
        "bbox is [60, 2, 3, 4], which is outside its image of 50 x 30 pixels",
    ),
    (
        dict(bbox=[1, -9, 3, 4]),
        "bbox is [1, -9, 3, 4], which is outside its image of 50 x 30 pixels",
    ),
    (dict(category_id=5), "category_id is 5, which is not defined"),
    (dict(category_id="7"), "category_id is '7', which is not defined"),
    (dict(category_id=[7]), "category_id is [7], which is not defined"),
    (dict(iscrowd="no"), "iscrowd is 'no', neither 0 nor 1"),
    (dict(iscrowd=None), "iscrowd is None, neither 0 nor 1"),
    (dict(image_id="20"), "image_id is '20', but other ids are like 0; use one type"),
    (dict(image_id=None), "image_id is None, neither an integer nor text"),
    (dict(image_id=2.5), "image_id is 2.5, neither an integer nor text"),
]
POLYGON = "segmentation has a polygon "
RUN_LENGTHS = "segmentation has run lengths "
MASKS = [
    (None, "there is no segmentation, without which only detection is possible"),
    ([], "there is no segmentation, without which only detection is possible"),
    ("abc", "segmentation is neither polygons nor run lengths"),
    ([1, 2, 3, 4, 5, 6], POLYGON + "that is not a list of numbers"),
    ([["1", "2", "3", "4", "5", "6"]], POLYGON + "that is not a list of numbers"),
    ([[1, 2, 3, 4, 5, None]], POLYGON + "that is not a list of numbers"),
    ([[1, 2, 3, 4, 5, [6]]], POLYGON + "that is not a list of numbers"),
    ([[1, 2, 3, 4, 5, 10**400]], POLYGON + "with points far outside its image of 50 x 30 pixels"),
    ([[1, 2, 3, 4, 5, 6, 7]], POLYGON + "of 7 numbers instead of pairs of x and y"),
    ([[]], POLYGON + "of 0 numbers instead of pairs of x and y"),
    ([[1, 2, 3, 4, 5, NAN]], POLYGON + "with points far outside its image of 50 x 30 pixels"),
    ([[1, 2, 3, 4, 1e9, 6]], POLYGON + "with points far outside its image of 50 x 30 pixels"),
    (run_lengths(0, 0, 3, 3, height=31), RUN_LENGTHS + "whose size is not the image's, [30, 50]"),
    ({"counts": [1500]}, RUN_LENGTHS + "whose size is not the image's, [30, 50]"),
    ({"size": [30, 50]}, RUN_LENGTHS + "that are not a list of integers"),
    ({"size": [30, 50], "counts": [1.5, 1498.5]}, RUN_LENGTHS + "that are not a list of integers"),
    ({"size": [30, 50], "counts": [1499]}, RUN_LENGTHS + "that do not add up to 1500 pixels"),
    ({"size": [30, 50], "counts": []}, RUN_LENGTHS + "that are not a list of integers"),
    ({"size": [30, 50], "counts": [1501]}, RUN_LENGTHS + "that do not add up to 1500 pixels"),
    ({"size": [30, 50], "counts": [1600, -100]}, RUN_LENGTHS + "that do not add up to 1500 pixels"),
    (compressed(counts=""), RUN_LENGTHS + "whose text is damaged"),
    (compressed(counts="ä"), RUN_LENGTHS + "whose text is damaged"),
    (compressed(counts="PPPPPPPPP0"), RUN_LENGTHS + "whose text is damaged"),
    (compressed(counts=compressed()["counts"][:-1]), RUN_LENGTHS + "whose text is damaged"),
    (compressed(counts=compressed()["counts"][:-3]), RUN_LENGTHS + "that do not add up to 1500"),
    (compressed(counts=compressed()["counts"] + "1"), RUN_LENGTHS + "that do not add up to 1500"),
]
# Changes of the second image of the training file, which has no annotations.
IMAGES = [
    (dict(file_name=None), "file_name is None, not the path of a file"),
    (dict(file_name=""), "file_name is '', not the path of a file"),
    (dict(file_name=5), "file_name is 5, not the path of a file"),
    (dict(file_name="a\0.png"), r"file_name is 'a\x00.png', which cannot be a path"),
    (dict(file_name="\ud800.png"), r"file_name is '\ud800.png', which cannot be a path"),
    (
        dict(file_name="/etc/passwd"),
        "file_name is '/etc/passwd', which leads outside the folder of the images",
    ),
    (
        dict(file_name="a/../../passwd"),
        "file_name is 'a/../../passwd', which leads outside the folder of the images",
    ),
    (dict(height=0), "height is 0, not a positive integer"),
    (dict(height=None), "height is None, not a positive integer"),
    (dict(width=-50), "width is -50, not a positive integer"),
    (dict(width="50"), "width is '50', not a positive integer"),
    (dict(width=50.5), "width is 50.5, not a positive integer"),
    (dict(width=NAN), "width is nan, not a positive integer"),
    (
        dict(width=10**8, height=10**8),
        "the size is 100000000 x 100000000 pixels, more than the limit of 178956970 pixels",
    ),
    (dict(id=20), "id is 20, which another one has as well"),
    (dict(id="10"), "id is '10', but other ids are like 0; use one type"),
    (dict(id=None), "id is None, neither an integer nor text"),
]


def load(tmp_path, content, masks=False, skip_invalid=False):
    write_example(tmp_path, content, "{}")
    return boxes.load(f"coco:{tmp_path}", masks=masks, skip_invalid=skip_invalid)


def check_line(tmp_path, content, expected, masks=False):
    """Check the whole line, except for the values in `expected` that are cut off."""
    with pytest.raises(UserError) as error:
        load(tmp_path, content, masks)
    line = str(error.value)
    path = tmp_path / "annotations" / "instances_train2017.json"
    assert line.startswith(f"{path}: {expected}")
    assert "\n" not in line
    assert line.isprintable()
    return line


@pytest.mark.parametrize(("change", "fault"), ANNOTATIONS)
def test_invalid_annotation_is_one_line_or_skipped(tmp_path, change, fault):
    content = example()
    content["train2017"]["annotations"][0].update(change)
    line = check_line(tmp_path, content, "annotations[0] (id 1): ")
    assert line.endswith(f"(id 1): {fault}{REMEDY}annotations")

    images = load(tmp_path, content, skip_invalid=True)
    assert images.tally.skipped == {"invalid annotations": 1}
    assert images.tally.first_fault.endswith(f"annotations[0] (id 1): {fault}")
    # The image keeps its other annotation, and the other image its own.
    assert images.annotations(2, 30, 50).boxes.tolist() == [[0, 0, 50, 30]]
    assert images.annotations(0, 30, 50).boxes.tolist() == [[20, 10, 25, 16]]


@pytest.mark.parametrize(("segmentation", "fault"), MASKS)
def test_invalid_mask_is_one_line_or_skipped(tmp_path, segmentation, fault):
    content = example()
    content["train2017"]["annotations"][0]["segmentation"] = segmentation
    line = check_line(tmp_path, content, f"annotations[0] (id 1): {fault}", masks=True)
    assert line.endswith(f"{REMEDY}annotations")

    images = load(tmp_path, content, masks=True, skip_invalid=True)
    assert images.tally.skipped == {"invalid annotations": 1}
    assert len(images.annotations(2, 30, 50).masks) == 1
    # Detection does not need the masks.
    assert len(load(tmp_path, content).annotations(2, 30, 50).boxes) == 2


@pytest.mark.parametrize(("change", "fault"), IMAGES)
def test_invalid_image_is_one_line_or_skipped(tmp_path, change, fault):
    content = example()
    # Ids are compared with those before, so the image is the last one.
    content["train2017"]["images"].append(content["train2017"]["images"].pop(1))
    content["train2017"]["images"][2].update(change)
    id_ = change.get("id", 10)
    line = check_line(tmp_path, content, f"images[2] (id {id_!r}): ")
    assert line.endswith(f": {fault}{REMEDY}images")

    images = load(tmp_path, content, skip_invalid=True)
    assert images.tally.skipped == {"invalid images": 1}
    assert [images.describe(index)[-5:] for index in images.train] == ["0.png", "2.png"]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("annotations", [5], "annotations[0]: 5 is not an object with an image_id and a bbox"),
        ("images", ["x"], "images[0]: 'x' is not an object with an id and a file_name"),
        ("categories", [7], "categories[0]: 7 is not an object with an id and a name; correct it"),
        ("categories", [{"id": 7}], "categories[0]: name is None, not text; correct it"),
        (
            "categories",
            [{"id": 7, "name": "a"}, {"id": 7, "name": "b"}],
            "categories[1]: id is 7, which another one has as well; correct it",
        ),
        (
            "categories",
            [{"id": 7, "name": "a"}, {"id": "7", "name": "b"}],
            "categories[1]: id is '7', but other ids are like 7; use one type; correct it",
        ),
    ],
)
def test_invalid_item_is_one_line(tmp_path, key, value, expected):
    content = example()
    content["train2017"][key] = value
    check_line(tmp_path, content, expected)


def test_duplicate_annotation_id(tmp_path):
    content = example()
    content["train2017"]["annotations"][1]["id"] = 1
    check_line(tmp_path, content, "annotations[1] (id 1): id is 1, which another one has as well")
    images = load(tmp_path, content, skip_invalid=True)
    assert images.tally.skipped == {"invalid annotations": 1}
    assert len(images.annotations(0, 30, 50).boxes) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "is not in COCO's format: it holds [1], no object"),
        ('{"images": {}, "categories": []}', "is not in COCO's format: 'images' is {}, not a list"),
        ('{"images": [1e999], "categories": []}', "images[0]: inf is not an object"),
        ("[" * 100_000, "cannot be read: its lists are nested too deeply"),
        ("\x80", "cannot be read: "),
        ("", "cannot be read: Expecting value"),
    ],
)
def test_file_of_another_format(tmp_path, text, message):
    content = {**example(), "train2017": text}
    write_example(tmp_path, content, "{}")
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as error:
        boxes.load(f"coco:{tmp_path}")
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))
    assert str(error.value).isprintable()


def test_boxes_are_clipped_and_those_without_area_left_out(tmp_path):
    content = example()
    train = content["train2017"]["annotations"]
    train[0]["bbox"] = [-0.4, 1, 50.8, 29.3]  # Rounding, as in COCO itself.
    train[1]["bbox"] = [20, 10, 500, 600]
    for number, box in enumerate(
        [[5, 5, 0, 3], [5, 5, 3, 0], [50, 3, 0.5, 5], [-0.5, 3, 0.5, 5], [5, 5, 1e-9, 2]]
    ):
        train.append({**train[0], "id": 10 + number, "bbox": box})
    images = load(tmp_path, content)
    assert images.annotations(2, 30, 50).boxes.tolist() == [[0, 1, 50, 30], [0, 0, 50, 30]]
    assert images.annotations(0, 30, 50).boxes.tolist() == [[20, 10, 50, 30]]
    assert images.tally.skipped == {"annotations without an area": 5}
    assert images.tally.clipped == 1
    assert str(images.tally) == (
        "skipped annotations without an area (5); clipped boxes to their images (1)"
    )


def test_polygons_of_one_or_two_points_are_left_out(tmp_path):
    content = example()
    first, second, _ = content["train2017"]["annotations"]
    expected = np.array(example()["train2017"]["annotations"][0]["segmentation"][0])
    first["segmentation"] = [[1, 2], expected.tolist(), [1, 2, 3, 4]]
    second["segmentation"] = [[1, 2], [1, 2, 3, 4]]
    images = load(tmp_path, content, masks=True)
    assert images.tally.skipped == {"annotations without an area": 1}
    assert len(images.annotations(0, 30, 50).masks) == 0
    polygon, _ = images.annotations(2, 30, 50).masks
    np.testing.assert_array_equal(
        mask.decode(polygon), mask.decode(mask.frPyObjects([expected], 30, 50))[..., 0]
    )


def test_annotations_may_be_those_of_a_larger_data_set(tmp_path):
    content = example()
    train = content["train2017"]
    train["images"].append({**train["images"][0], "id": 30, "file_name": "30.png"})
    for number, image in enumerate((30, 30, 40)):
        train["annotations"].append(
            {**train["annotations"][1], "id": 9 + number, "image_id": image}
        )
    images = load(tmp_path, content)
    assert images.train.tolist() == [0, 1, 2]
    assert images.test.tolist() == [3]
    assert images.tally.skipped == {
        "annotations of images that are not listed": 1,
        "images without a file": 1,
        "annotations of images without a file": 2,
    }
    assert images.annotations(2, 30, 50).boxes.tolist() == [[1.5, 1, 40, 20.5], [0, 0, 50, 30]]


def test_folder_with_most_of_the_images_is_used(tmp_path):
    content = example()
    write_example(tmp_path, content, "images")
    (tmp_path / "train2017").mkdir()
    (tmp_path / "images" / "0.png").rename(tmp_path / "train2017" / "0.png")
    content["val2017"]["images"][0]["file_name"] = "1.png"
    write = tmp_path / "annotations" / "instances_val2017.json"
    write.write_text(json.dumps(content["val2017"]))
    images = boxes.load(f"coco:{tmp_path}")
    assert [images.describe(index) for index in images.train] == [
        f"{tmp_path}/images/{number}.png" for number in (1, 2)
    ]
    assert images.tally.skipped["images without a file"] == 1


def places(value):
    """Yield every container with each of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, dict | list):
            yield from places(item)


VALUES = [
    None, True, False, 0, 1, -1, 7, 50, 2**31, 10**400, 0.5, -1.5, 1e300, NAN, INFINITY, "", "1",
    "\0", "\ud800", "../..", "ä" * 99, [], [[]], [1], [1, 2, 3, 4], ["x"], {}, {"counts": [1]},
]  # fmt: skip


@pytest.mark.parametrize("skip_invalid", [False, True])
def test_random_changes_are_at_most_a_user_error(tmp_path, skip_invalid):
    """A few hundred files with one to three values changed, added twice or removed."""
    write_example(tmp_path, example(), "{}")
    draw = random.Random(0)
    messages = []
    for _ in range(300):
        content = example()
        for _ in range(draw.randint(1, 3)):
            container, key = draw.choice(list(places(content["train2017"])))
            if draw.random() < 0.2:
                del container[key]
            elif isinstance(container, list) and draw.random() < 0.2:
                container.append(container[key])
            else:
                container[key] = copy.deepcopy(draw.choice(VALUES))
        path = tmp_path / "annotations" / "instances_train2017.json"
        path.write_text(json.dumps(content["train2017"]))
        try:
            images = boxes.load(f"coco:{tmp_path}", masks=True, skip_invalid=skip_invalid)
            indices = [*images.train.tolist(), *images.test.tolist()]
            loaded = [images.annotations(index, 30, 50) for index in indices]
        except UserError as error:
            messages.append(str(error))
            continue
        for annotations in loaded:
            left, top, right, bottom = annotations.boxes.T
            assert ((left >= 0) & (top >= 0) & (right <= 50) & (bottom <= 30)).all()
            assert ((left < right) & (top < bottom)).all()
            assert len(annotations.masks) == len(annotations.labels) == len(left)
            for encoded in annotations.masks:
                assert mask.decode(encoded).shape == (30, 50)
    assert all(message.isprintable() for message in messages)
    assert 10 < 300 - len(messages) < 290
