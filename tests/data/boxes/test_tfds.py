"""Boxes of data sets that tensorflow-datasets prepared, in the format of its voc and coco."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from moco_tf.data import boxes
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
