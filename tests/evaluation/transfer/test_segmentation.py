"""The labels of pixels, the loss and mean IoU, against NumPy and closed forms."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("keras_hub")
pytest.importorskip("pycocotools")
from pycocotools import mask

from moco_tf.data.boxes import load as load_boxes
from moco_tf.data.boxes.annotations import AnnotatedImages, Annotations
from moco_tf.data.boxes.geometry import IGNORED, map_in_square
from moco_tf.errors import UserError
from moco_tf.evaluation.settings import SegmentationSettings
from moco_tf.evaluation.transfer import segmentation, training
from moco_tf.evaluation.transfer.segmentation import SEGMENTATION
from tests.evaluation.transfer.helpers import small_encoder
from tests.scenes import needs_fashion_mnist, write

SHAPE = (12, 20)
LARGE, SMALL, BESIDE = (2, 1, 12, 9), (4, 3, 7, 6), (13, 2, 18, 11)


def annotations_of(*objects):
    """Return annotations of `(box, label, crowd)`, whose masks fill their boxes."""
    boxes, labels, crowd = zip(*objects, strict=True)
    masks = []
    for left, top, right, bottom in boxes:
        inside = np.zeros(SHAPE, np.uint8, order="F")
        inside[top:bottom, left:right] = 1
        masks.append(mask.encode(inside))
    difficult = np.zeros(len(boxes), bool)
    crowd = np.array(crowd, bool)
    return Annotations(np.array(boxes, float), np.array(labels, np.int32), crowd, difficult, masks)


def label_map(*parts):
    """Return the labels of an image in which each box, `(box, label)`, has its label."""
    labels = np.zeros(SHAPE, np.int32)
    for (left, top, right, bottom), label in parts:
        labels[top:bottom, left:right] = label
    return labels


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_smallest_object_gives_the_label(order):
    objects = [(LARGE, 0, 0), (SMALL, 1, 0), (BESIDE, 2, 0)]
    labels = segmentation.labels_of(annotations_of(*(objects[i] for i in order)), *SHAPE)
    np.testing.assert_array_equal(labels, label_map((LARGE, 1), (SMALL, 2), (BESIDE, 3)))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_object_covers_a_smaller_crowd(order):
    objects = [(SMALL, 1, 1), (LARGE, 0, 0)]
    labels = segmentation.labels_of(annotations_of(*(objects[i] for i in order)), *SHAPE)
    np.testing.assert_array_equal(labels, label_map((LARGE, 1)))


def test_pixels_of_a_crowd_alone_are_ignored():
    labels = segmentation.labels_of(annotations_of((LARGE, 0, 1), (SMALL, 1, 0)), *SHAPE)
    np.testing.assert_array_equal(labels, label_map((LARGE, IGNORED), (SMALL, 2)))


def images_of(*annotations):
    """Return test images that have only annotations."""
    indices = np.arange(len(annotations))
    return AnnotatedImages(
        "memory",
        ["a", "b", "c"],
        None,
        lambda index, *_: annotations[index],
        str,
        indices,
        indices,
        1,
    )


def test_targets_are_flipped_within_the_image():
    annotations = annotations_of((LARGE, 0, 0))
    targets_of_image, [spec] = segmentation.targets(images_of(annotations), 32)
    assert spec.shape == (32, 32)
    expected = label_map((LARGE, 1))
    for flip, labels in ((False, expected), (True, expected[:, ::-1])):
        [target] = targets_of_image(annotations, *SHAPE, flip)
        np.testing.assert_array_equal(target, map_in_square(labels, 32))
        assert (target[19:] == IGNORED).all()


def test_mean_iou_equals_that_of_numpy():
    generator = np.random.default_rng(0)
    annotations = [
        annotations_of((LARGE, 0, 0), (BESIDE, 1, 1)),
        annotations_of((SMALL, 0, 0)),
    ]
    squares = [generator.integers(0, 4, (20, 20), np.int32) for _ in annotations]
    predictions = ((index, *SHAPE, square) for index, square in enumerate(squares))
    result = segmentation.measure(images_of(*annotations), 20, predictions)
    # A square of 20 pixels holds these images at their own size.
    truth = np.stack([segmentation.labels_of(objects, *SHAPE) for objects in annotations])
    predicted = np.stack([square[: SHAPE[0]] for square in squares])
    counted = truth >= 0
    shares = []
    for label in (0, 1):  # The others have no pixel, except those of a crowd.
        intersection = ((truth == label) & (predicted == label) & counted).sum()
        union = (((truth == label) | (predicted == label)) & counted).sum()
        shares.append(intersection / union)
    assert result == {"mean_iou": pytest.approx(np.mean(shares))}


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (1, 0.0)])
def test_best_and_worst_mean_iou(shift, expected):
    annotations = annotations_of((LARGE, 0, 0), (BESIDE, 1, 0))
    labels = (segmentation.labels_of(annotations, *SHAPE) + shift) % 3
    predictions = [(0, *SHAPE, map_in_square(labels, 40))]
    result = segmentation.measure(images_of(annotations), 40, predictions)
    assert result == {"mean_iou": expected}


def test_images_without_counted_pixels_are_refused():
    images = images_of(annotations_of(((0, 0, 20, 12), 0, 1)))
    predictions = [(0, *SHAPE, np.zeros([40, 40], np.int32))]
    with pytest.raises(UserError, match="'memory': every pixel of the test images is ignored"):
        segmentation.measure(images, 40, predictions)


def test_loss_is_cross_entropy_of_counted_pixels():
    generator = np.random.default_rng(0)
    scores = generator.normal(0, 2, (2, 5, 5, 4))
    labels = generator.integers(IGNORED, 4, (2, 5, 5), np.int32)

    def segmenter(squares, training):
        assert training
        return tf.constant(scores, tf.float32)

    total, count = segmentation.loss(segmenter, None, labels)
    expected = 0.0
    for place in np.ndindex(labels.shape):
        if labels[place] >= 0:
            expected += np.log(np.exp(scores[place]).sum()) - scores[place][labels[place]]
    assert float(count) == (labels >= 0).sum() < labels.size
    assert float(total) == pytest.approx(expected, rel=1e-5)


@pytest.mark.nightly
@needs_fashion_mnist
def test_two_scenes_are_learned(tmp_path):
    images = load_boxes(f"coco:{write(tmp_path, 2, 1)}", masks=True)
    images = dataclasses.replace(images, test=images.train)
    model = training.build(SEGMENTATION, small_encoder(), len(images.class_names), 64, 0)
    before, _ = training.evaluate(SEGMENTATION, model, images, 64)
    settings = SegmentationSettings(
        learning_rate=0.02, steps=60, milestones=(45,), warmup_steps=5, batch_size=2
    )
    curve = training.fit(SEGMENTATION, model, images, 64, settings)
    after, kept = training.evaluate(SEGMENTATION, model, images, 64, keep=[0])
    assert before["mean_iou"] < 0.3
    assert after["mean_iou"] > 0.5
    assert curve[-1]["loss"] < curve[0]["loss"] / 5
    [(height, width, labels)] = kept.values()
    assert (height, width, labels.shape) == (96, 128, (64, 64))
