"""The labels of pixels, the loss and mean IoU, against NumPy and PyTorch's definition."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("keras_hub")
pytest.importorskip("pycocotools")
from pycocotools import mask

from moco_tf import encoders
from moco_tf.data.boxes import load as load_boxes
from moco_tf.data.boxes.annotations import AnnotatedImages, Annotations
from moco_tf.data.boxes.geometry import IGNORED, map_in_square
from moco_tf.errors import UserError
from moco_tf.evaluation.transfer import segmentation, training
from moco_tf.evaluation.transfer.segmentation import SEGMENTATION
from moco_tf.export.keras_hub_preset import to_keras_hub
from tests.scenes import needs_fashion_mnist, write

SHAPE = (12, 20)
LARGE, SMALL, BESIDE = (2, 1, 12, 9), (4, 3, 7, 6), (13, 2, 18, 11)


def masked(*objects):
    """Annotations of `(box, label, crowd)`, whose masks fill their boxes."""
    boxes, labels, crowd = zip(*objects, strict=True)
    masks = []
    for left, top, right, bottom in boxes:
        inside = np.zeros(SHAPE, np.uint8, order="F")
        inside[top:bottom, left:right] = 1
        masks.append(mask.encode(inside))
    none = np.zeros(len(boxes), bool)
    crowd = np.array(crowd, bool)
    return Annotations(np.array(boxes, float), np.array(labels, np.int32), crowd, none, masks)


def filled(*parts):
    labels = np.zeros(SHAPE, np.int32)
    for (left, top, right, bottom), label in parts:
        labels[top:bottom, left:right] = label
    return labels


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_smallest_object_has_a_pixel(order):
    objects = [(LARGE, 0, 0), (SMALL, 1, 0), (BESIDE, 2, 0)]
    found = segmentation.labels_of(masked(*(objects[i] for i in order)), *SHAPE)
    np.testing.assert_array_equal(found, filled((LARGE, 1), (SMALL, 2), (BESIDE, 3)))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_pixels_of_a_crowd_alone_do_not_count(order):
    objects = [(SMALL, 1, 1), (LARGE, 0, 0)]  # smaller than the object, and behind it
    found = segmentation.labels_of(masked(*(objects[i] for i in order)), *SHAPE)
    np.testing.assert_array_equal(found, filled((SMALL, IGNORED), (LARGE, 1)))
    found = segmentation.labels_of(masked((LARGE, 0, 1), (SMALL, 1, 0)), *SHAPE)
    np.testing.assert_array_equal(found, filled((LARGE, IGNORED), (SMALL, 2)))


def images_of(*annotations):
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


def test_targets_are_mirrored_within_the_image():
    annotations = masked((LARGE, 0, 0))
    of_image, [spec] = segmentation.targets(images_of(annotations), 32)
    assert spec.shape == (32, 32)
    for flip, expected in ((False, filled((LARGE, 1))), (True, filled((LARGE, 1))[:, ::-1])):
        [found] = of_image(annotations, *SHAPE, flip)
        np.testing.assert_array_equal(found, map_in_square(expected, 32))
    assert (found[19:] == IGNORED).all()


def test_mean_iou_is_that_of_numpy():
    generator = np.random.default_rng(0)
    annotations = [masked((LARGE, 0, 0), (BESIDE, 1, 1)), masked((SMALL, 0, 0))]
    squares = [generator.integers(0, 4, (20, 20), np.int32) for _ in annotations]
    predictions = ((index, *SHAPE, square) for index, square in enumerate(squares))
    found = segmentation.measure(images_of(*annotations), 20, predictions)["mean_iou"]
    # A square of 20 pixels holds these images as they are.
    truth = np.stack([segmentation.labels_of(a, *SHAPE) for a in annotations])
    predicted = np.stack([square[: SHAPE[0]] for square in squares])
    counted = truth >= 0
    shares = []
    for label in (0, 1):  # of the others there is no pixel but a crowd's
        both = ((truth == label) & (predicted == label) & counted).sum()
        either = (((truth == label) | (predicted == label)) & counted).sum()
        shares.append(both / either)
    assert found == pytest.approx(np.mean(shares))


def test_the_best_and_the_worst_mean_iou():
    annotations = masked((LARGE, 0, 0), (BESIDE, 1, 0))
    labels = segmentation.labels_of(annotations, *SHAPE)
    for found, expected in ((labels, 1.0), ((labels + 1) % 3, 0.0)):
        predictions = [(0, *SHAPE, map_in_square(found, 40))]
        result = segmentation.measure(images_of(annotations), 40, predictions)
        assert result == {"mean_iou": expected}
    everywhere = images_of(masked(((0, 0, 20, 12), 0, 1)))
    with pytest.raises(UserError, match="has no pixel to label in its test images"):
        segmentation.measure(everywhere, 40, [(0, *SHAPE, np.zeros([40, 40], np.int32))])


def test_the_loss_is_the_cross_entropy_of_the_pixels_that_count():
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


@needs_fashion_mnist
def test_two_scenes_are_learnt(tmp_path):
    images = load_boxes(f"coco:{write(tmp_path, 2, 1)}", masks=True)
    images = dataclasses.replace(images, test=images.train)
    encoder = to_keras_hub(encoders.random_network("resnet18", "imagenet", 3, 0))
    model = training.build(SEGMENTATION, encoder, len(images.class_names), 64, 0)
    before, _ = training.evaluate(SEGMENTATION, model, images, 64)
    settings = dict(learning_rate=0.02, steps=60, milestones=(45,), warmup_steps=5, batch_size=2)
    settings = training.settings_of(SEGMENTATION, **settings)
    curve = training.fit(SEGMENTATION, model, images, 64, **settings)
    after, kept = training.evaluate(SEGMENTATION, model, images, 64, keep=[0])
    assert before["mean_iou"] < 0.3 and after["mean_iou"] > 0.5
    assert curve[-1]["loss"] < curve[0]["loss"] / 5
    [(height, width, labels)] = kept.values()
    assert (height, width, labels.shape) == (96, 128, (64, 64))
