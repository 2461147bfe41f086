"""Boxes of data sets that tensorflow-datasets prepared, in the format of its voc and coco."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from moco_tf.data import boxes
from moco_tf.data.sources import examples
from moco_tf.errors import UserError

CLASSES = ["cat", "dog"]
COUNTS = {"train": 5, "validation": 4, "test": 3}


def example(split, number):
    """An image; boxes in pixels (left, top, right, bottom), and their labels and flags."""
    generator = np.random.default_rng([*split.encode(), number])
    height, width = generator.integers(20, 40, 2)
    pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
    count = number % 3  # Every third image has no boxes.
    corners = generator.integers(0, 10, (count, 2))
    boxes = np.concatenate([corners, corners + generator.integers(1, 10, (count, 2))], axis=1)
    return pixels, boxes, generator.integers(0, 2, count), generator.integers(0, 2, count) > 0


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    FLAG = "is_difficult"
    SPLITS_WITHOUT_BOXES = ()

    def _info(self):
        objects = {
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(names=CLASSES),
            self.FLAG: np.bool_,
        }
        features = {
            "image": tfds.features.Image(encoding_format="png"),
            "objects": tfds.features.Sequence(objects),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in COUNTS}

    def _generate_examples(self, split):
        for number in range(COUNTS[split]):
            pixels, boxes, labels, flags = example(split, number)
            height, width = pixels.shape[:2]
            objects = [
                {
                    "bbox": tfds.features.BBox(
                        xmin=left / width,
                        ymin=top / height,
                        xmax=right / width,
                        ymax=bottom / height,
                    ),
                    "label": label,
                    self.FLAG: flag,
                }
                for (left, top, right, bottom), label, flag in zip(
                    boxes, labels, flags, strict=True
                )
            ]
            yield (
                number,
                {"image": pixels, "objects": [] if split in self.SPLITS_WITHOUT_BOXES else objects},
            )


class VocLike(Builder, skip_registration=True):
    pass


class CocoLike(Builder, skip_registration=True):
    FLAG = "is_crowd"
    SPLITS_WITHOUT_BOXES = ("test",)  # As in COCO.


class NoTest(Builder, skip_registration=True):
    SPLITS_WITHOUT_BOXES = ("test", "validation")


class NoBoxes(Builder, skip_registration=True):
    def _info(self):
        features = {"image": tfds.features.Image(encoding_format="png")}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, split):
        yield 0, {"image": example(split, 0)[0]}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    tfds.display_progress_bar(False)
    for builder in (VocLike, CocoLike, NoTest, NoBoxes):
        builder(data_dir=folder).download_and_prepare()
    return folder


def contents(images, indices):
    """The images and annotations at some indices, sorted, because tfds shuffles them."""
    examples = []
    for index in indices:
        pixels = images.read(tf.constant(index, tf.int64)).numpy()
        objects = images.annotations(int(index), *pixels.shape[:2])
        boxes = objects.boxes.round(4).tolist()
        flags = objects.crowd.tolist(), objects.difficult.tolist()
        assert objects.masks is None
        examples.append((pixels.tobytes(), boxes, objects.labels.tolist(), *flags))
    return sorted(examples)


def expected_contents(*splits, crowd=False):
    examples = []
    for split in splits:
        for number in range(COUNTS[split]):
            pixels, boxes, labels, flags = example(split, number)
            no_flags = [False] * len(flags)
            both = (flags.tolist(), no_flags) if crowd else (no_flags, flags.tolist())
            examples.append((pixels.tobytes(), boxes.tolist(), labels.tolist(), *both))
    return sorted(examples)


def test_data_set_like_voc(data_dir):
    images = boxes.load("tfds:voc_like:train+validation", tfds_dir=data_dir)
    assert images.class_names == CLASSES
    assert contents(images, images.train) == expected_contents("train", "validation")
    assert contents(images, images.test) == expected_contents("test")
    assert images.max_boxes >= 2
    assert "record 0 of " in images.describe(int(images.train[0]))


def test_data_set_like_coco(data_dir):
    images = boxes.load("tfds:coco_like", tfds_dir=data_dir)
    assert contents(images, images.train) == expected_contents("train", crowd=True)
    assert contents(images, images.test) == expected_contents("validation", crowd=True)


@pytest.mark.parametrize(
    ("dataset", "masks", "message"),
    [
        ("voc_like", True, "has boxes but no masks: use coco:PATH"),
        ("no_test", False, "has no other split with boxes to test on"),
        ("no_test:test", False, "there is no box in the split 'test'"),
        (
            "no_boxes",
            False,
            "has no boxes: it needs the features image, objects/bbox and objects/label",
        ),
        ("nosuchset", False, "has no nosuchset"),
        ("voc_like:valid", False, "there is no split 'valid'"),
    ],
)
def test_error_names_the_problem(data_dir, dataset, masks, message):
    with pytest.raises(UserError, match=message):
        boxes.load(f"tfds:{dataset}", masks=masks, tfds_dir=data_dir)


# Boxes (top, left, bottom, right), relative to the sides of an image of 20 x 40 pixels.
MALFORMED = {
    "valid": [0.1, 0.2, 0.3, 0.4],
    "rounded": [-0.001, 0.0, 1.001, 1.0],
    "beyond": [0.5, 0.5, 1.5, 3.0],
    "flat": [0.1, 0.2, 0.1, 0.4],
    "nan": [0.1, float("nan"), 0.3, 0.4],
    "infinite": [0.1, 0.2, 0.3, float("inf")],
    "swapped": [0.3, 0.2, 0.1, 0.4],
    "outside": [1.2, 0.2, 1.3, 0.4],
}


class Malformed(Builder, skip_registration=True):
    def _generate_examples(self, split):
        objects = [{"bbox": box, "label": 1, self.FLAG: False} for box in MALFORMED.values()]
        objects = objects if split == "validation" else objects[:3]
        yield 0, {"image": np.zeros([20, 40, 3], np.uint8), "objects": objects}


@pytest.fixture
def malformed(tmp_path, monkeypatch):
    # tensorflow-datasets itself checks boxes, but data sets may be written by other programs.
    monkeypatch.setattr(
        tfds.features.BBoxFeature, "encode_example", lambda self, box: np.array(box, np.float32)
    )
    tfds.display_progress_bar(False)
    Malformed(data_dir=str(tmp_path)).download_and_prepare()
    return str(tmp_path)


def test_invalid_boxes_are_one_line_or_skipped(malformed):
    images = boxes.load("tfds:malformed:validation", tfds_dir=malformed)
    index = int(images.train[0])
    with pytest.raises(
        UserError, match=r"record 0 of .*: object 4 is invalid: its box .* nan"
    ) as e:
        images.annotations(index, 20, 40)
    assert str(e.value).isprintable()
    assert str(e.value).endswith("or set skip_invalid to leave out such objects")

    images = boxes.load("tfds:malformed:validation", tfds_dir=malformed, skip_invalid=True)
    for _ in range(2):  # An image is counted once, however often it is read.
        annotations = images.annotations(index, 20, 40)
        expected = [[8, 2, 16, 6], [0, 0, 40, 20], [20, 10, 40, 20]]
        np.testing.assert_allclose(annotations.boxes, expected, rtol=1e-6)
        assert annotations.labels.tolist() == [1, 1, 1]
        assert images.tally.skipped == {"invalid annotations": 4, "annotations without an area": 1}
        assert images.tally.clipped == 1
        assert ": object 4 is invalid" in images.tally.first_fault


@pytest.mark.parametrize(
    ("feature", "values", "fault"),
    [
        ("objects/label", [7, 0, 1], "object 0 is invalid: .* its label 7 of 2"),
        ("objects/label", [0, -1, 1], "object 1 is invalid: .* its label -1 of 2"),
        ("objects/label", [0, 1], "it has 2 labels, but 12 numbers of boxes instead of four each"),
        ("objects/bbox", [0.5] * 9, "it has 3 labels, but 9 numbers of boxes"),
        ("objects/bbox", [b"0.5"] * 12, "its objects have text instead of numbers"),
        ("objects/is_difficult", [1], "it has 3 objects, but 0 or 1 flags"),
    ],
)
def test_inconsistent_record_is_one_line(malformed, monkeypatch, feature, values, fault):
    values_of = examples.feature_values
    monkeypatch.setattr(
        examples,
        "feature_values",
        lambda example, name: values if name == feature else values_of(example, name),
    )
    images = boxes.load("tfds:malformed", tfds_dir=malformed)
    with pytest.raises(UserError, match=f"record 0 of .*: {fault}"):
        images.annotations(int(images.train[0]), 20, 40)
    images = boxes.load("tfds:malformed", tfds_dir=malformed, skip_invalid=True)
    assert len(images.annotations(int(images.train[0]), 20, 40).boxes) < 3
    assert str(images.tally).isprintable()
