"""Boxes of data sets that tensorflow-datasets itself prepared on disk, in the manner of its voc and
its coco."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from moco_tf.data import boxes
from moco_tf.errors import UserError

CLASSES = ["cat", "dog"]
COUNTS = {"train": 5, "validation": 4, "test": 3}


def example(split, number):
    """An image, and its boxes in pixels (left, top, right, bottom), classes and flags."""
    generator = np.random.default_rng([*split.encode(), number])
    height, width = generator.integers(20, 40, 2)
    pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
    count = number % 3  # every third image has none
    corners = generator.integers(0, 10, (count, 2))
    boxes = np.concatenate([corners, corners + generator.integers(1, 10, (count, 2))], axis=1)
    return pixels, boxes, generator.integers(0, 2, count), generator.integers(0, 2, count) > 0


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    FLAG = "is_difficult"
    UNLABELLED = ()

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
            yield number, {"image": pixels, "objects": [] if split in self.UNLABELLED else objects}


class VocLike(Builder, skip_registration=True):
    pass


class CocoLike(Builder, skip_registration=True):
    FLAG = "is_crowd"
    UNLABELLED = ("test",)  # COCO's test images come without


class NoTest(Builder, skip_registration=True):
    UNLABELLED = ("test", "validation")


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
    """What is at some indices, in an order of its own: tfds shuffles what it writes."""
    found = []
    for index in indices:
        pixels = images.read(tf.constant(index, tf.int64)).numpy()
        objects = images.annotations(int(index), *pixels.shape[:2])
        boxes = objects.boxes.round(4).tolist()
        flags = objects.crowd.tolist(), objects.difficult.tolist()
        assert objects.masks is None
        found.append((pixels.tobytes(), boxes, objects.labels.tolist(), *flags))
    return sorted(found)


def expected(*splits, crowd=False):
    found = []
    for split in splits:
        for number in range(COUNTS[split]):
            pixels, boxes, labels, flags = example(split, number)
            none = [False] * len(flags)
            both = (flags.tolist(), none) if crowd else (none, flags.tolist())
            found.append((pixels.tobytes(), boxes.tolist(), labels.tolist(), *both))
    return sorted(found)


def test_in_the_manner_of_voc(data_dir):
    images = boxes.load("tfds:voc_like:train+validation", tfds_dir=data_dir)
    assert images.class_names == CLASSES
    assert contents(images, images.train) == expected("train", "validation")
    assert contents(images, images.test) == expected("test")
    assert images.most_boxes >= 2
    assert "record 0 of " in images.describe(int(images.train[0]))


def test_in_the_manner_of_coco(data_dir):
    images = boxes.load("tfds:coco_like", tfds_dir=data_dir)
    assert contents(images, images.train) == expected("train", crowd=True)
    assert contents(images, images.test) == expected("validation", crowd=True)


@pytest.mark.parametrize(
    ("place", "masks", "words"),
    [
        ("voc_like", True, "has boxes without masks: --protocol=segmentation needs coco:PATH"),
        ("no_test", False, "has no other split with boxes to test on"),
        ("no_test:test", False, "there is no box in that split"),
        ("no_boxes", False, "has no boxes: it needs image, objects/bbox and objects/label"),
        ("nosuchset", False, "knows no nosuchset"),
        ("voc_like:valid", False, "there is no split 'valid'"),
    ],
)
def test_what_cannot_be_had_is_named(data_dir, place, masks, words):
    with pytest.raises(UserError, match=words):
        boxes.load(f"tfds:{place}", masks=masks, tfds_dir=data_dir)
