"""RetinaNet's loss and the postprocessing of its predictions, against NumPy and closed forms."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("keras_hub")
pytest.importorskip("pycocotools")

from moco_tf.data.boxes import load as load_boxes
from moco_tf.data.boxes.annotations import AnnotatedImages, Annotations
from moco_tf.errors import UserError
from moco_tf.evaluation.settings import DetectionSettings
from moco_tf.evaluation.transfer import detection, training
from moco_tf.evaluation.transfer.detection import DETECTION
from moco_tf.keras_internals import all_layers
from tests.evaluation.transfer.helpers import small_encoder
from tests.scenes import needs_fashion_mnist, write

CLASSES, SIZE = 3, 96


def annotated_boxes(*boxes_of_images, shape=(60, 90)):
    """Return test images that have only boxes, each `(box, label, crowd, difficult)`."""

    def annotations(index, height, width):
        assert (height, width) == shape
        objects = boxes_of_images[index]
        boxes, labels, crowd, difficult = zip(*objects, strict=True) if objects else [[]] * 4
        return Annotations(
            np.array(boxes, float).reshape(-1, 4),
            np.array(labels, np.int32),
            np.array(crowd, bool),
            np.array(difficult, bool),
        )

    indices = np.arange(len(boxes_of_images))
    names = [f"class {number}" for number in range(CLASSES)]
    return AnnotatedImages("memory", names, None, annotations, str, indices, indices, 3)


def predictions_of(*detections_of_images):
    """Return the predictions that contain these detections: `(box, label, score)` per image.

    The boxes are in the coordinates of the images. The predictions are for squares of 180 pixels,
    twice as large.
    """
    for index, detections in enumerate(detections_of_images):
        boxes, scores, labels = np.zeros([100, 4]), np.zeros(100), np.zeros(100)
        for row, (box, label, score) in enumerate(detections):
            boxes[row], labels[row], scores[row] = 2 * np.array(box), label, score
        yield index, 60, 90, boxes, scores, labels


def measure(images, *detections_of_images):
    return detection.measure(images, 180, predictions_of(*detections_of_images))


A, B, C = (10, 10, 30, 30), (50, 10, 80, 50), (5, 35, 25, 55)


def test_perfect_detections_have_ap_1():
    images = annotated_boxes([(A, 0, 0, 0), (B, 2, 0, 0)], [], [(C, 1, 0, 0)])
    detections = [[(A, 0, 0.9), (B, 2, 0.3)], [], [(C, 1, 0.5)]]
    assert measure(images, *detections) == pytest.approx({"ap": 1.0, "ap50": 1.0, "ap75": 1.0})
    assert measure(images, [], [], []) == {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
    # With a wrong class, one of three objects is missed, and another class has a false positive.
    detections[0][1] = (B, 1, 0.3)
    assert measure(images, *detections)["ap50"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("shift", "overlap"), [(2, 18 / 22), (4, 16 / 24), (6, 14 / 26), (8, 12 / 28)]
)
def test_shifted_box_has_ap_of_its_overlap(shift, overlap):
    # A square that is shifted by a share s of its side has an overlap of (1 - s) / (1 + s).
    images = annotated_boxes([(A, 0, 0, 0)])
    box = (A[0] + shift, A[1], A[2] + shift, A[3])
    metrics = measure(images, [(box, 0, 0.9)])
    # The thresholds are 0.5, 0.55, ... 0.95.
    passed = sum(overlap >= 0.5 + 0.05 * number for number in range(10))
    assert metrics["ap"] == pytest.approx(passed / 10)
    assert metrics["ap50"] == pytest.approx(float(overlap >= 0.5))
    assert metrics["ap75"] == pytest.approx(float(overlap >= 0.75))


def test_false_positive_costs_precision_only_above_the_true_one():
    images = annotated_boxes([(A, 0, 0, 0)])
    assert measure(images, [(A, 0, 0.5), (B, 0, 0.4)])["ap"] == pytest.approx(1)
    assert measure(images, [(A, 0, 0.5), (B, 0, 0.6)])["ap"] == pytest.approx(1 / 2)


@pytest.mark.parametrize(("crowd", "difficult"), [(1, 0), (0, 1)])
def test_crowds_and_difficult_objects_count_neither_way(crowd, difficult):
    images = annotated_boxes([(A, 0, 0, 0), (B, 0, crowd, difficult)])
    assert measure(images, [(A, 0, 0.5)])["ap"] == pytest.approx(1)
    assert measure(images, [(A, 0, 0.5), (B, 0, 0.6)])["ap"] == pytest.approx(1)
    with pytest.raises(UserError, match="'memory': the test images have no box to detect"):
        measure(annotated_boxes([(B, 0, crowd, difficult)]), [(B, 0, 0.6)])


def test_targets_leave_out_crowds_and_empty_boxes_and_are_flipped():
    boxes = [(A, 0, 0, 0), (B, 1, 1, 0), (C, 2, 0, 1), ((7, 7, 7, 20), 1, 0, 0)]
    images = annotated_boxes(boxes)
    annotations = images.annotations(0, 60, 90)
    targets_of_image, specs = detection.targets(images, SIZE)
    assert [spec.shape.as_list() for spec in specs] == [[3, 4], [3]]
    scale = SIZE / 90
    targets, labels = targets_of_image(annotations, 60, 90, False)
    np.testing.assert_allclose(targets[:2], scale * np.array([A, C]), rtol=1e-6)
    assert (targets[2] == -1).all()
    assert labels.tolist() == [0, 2, -1]
    targets, _ = targets_of_image(annotations, 60, 90, True)
    flipped = np.array([[60, 10, 80, 30], [65, 35, 85, 55]])
    np.testing.assert_allclose(targets[:2], scale * flipped, rtol=1e-6)


def test_largest_of_too_many_boxes_are_used():
    images = annotated_boxes([((0, 0, side, side), 0, 0, 0) for side in (5, 20, 10, 30, 15)])
    targets_of_image, _ = detection.targets(images, 90)
    targets, _ = targets_of_image(images.annotations(0, 60, 90), 60, 90, False)
    assert targets[:, 2].tolist() == [20, 30, 15]


def test_suppression_treats_each_class_separately():
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 60, (2, 40, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(5, 50, (2, 40, 2))], axis=2)
    scores = generator.normal(-3, 2, (2, 40, CLASSES))
    result = detection.Suppression(SIZE)(boxes.astype(np.float32), scores.astype(np.float32))
    clipped = np.clip(boxes, 0, SIZE)
    for image in range(2):
        expected = []
        for label in range(CLASSES):
            probabilities = 1 / (1 + np.exp(-scores[image, :, label]))
            kept = []
            for row in np.argsort(-probabilities):
                if probabilities[row] > 0.05 and all(
                    overlap_of(clipped[image, row], clipped[image, other]) <= 0.5 for other in kept
                ):
                    kept.append(row)
            expected += [(probabilities[row], label, *clipped[image, row]) for row in kept]
        expected = np.array(sorted(expected, reverse=True))
        count = len(expected)
        assert 10 < count < 100
        parts = result["confidence"], result["labels"], *tf.unstack(result["boxes"], axis=-1)
        rows = np.stack([part[image].numpy() for part in parts], axis=1)
        np.testing.assert_allclose(rows[:count], expected, rtol=1e-5, atol=1e-4)
        assert (rows[count:, 0] == 0).all()


def overlap_of(one, other):
    """Return the intersection over union of two boxes."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    intersection = np.prod(np.maximum(sides, 0))
    area = sum(np.prod(box[2:] - box[:2]) for box in (one, other))
    return intersection / (area - intersection)


@pytest.fixture(scope="module")
def detector():
    return training.build(DETECTION, small_encoder(), CLASSES, SIZE, 0)


def test_detector_has_the_documented_initial_values(detector):
    squares = tf.zeros([1, SIZE, SIZE, 3])
    scores = tf.sigmoid(detector(squares, training=False)["cls_logits"])
    # Strides of 8 to 128 pixels, nine anchors at each place.
    assert scores.shape == (1, 9 * (12**2 + 6**2 + 3**2 + 2**2 + 1), CLASSES)
    np.testing.assert_allclose(scores, 0.01, atol=0.01)
    assert detector.box_head.prediction_layer.bias.numpy().tolist() == [0] * 36
    for head in (detector.box_head, detector.classification_head):
        assert head.prediction_layer.kernel.numpy().std() == pytest.approx(0.01, rel=0.05)
        assert len(head.group_norm_layers) == 4


def test_detector_has_synchronized_normalization(detector):
    layers = {
        id(layer): layer
        for layer in all_layers(detector)
        if isinstance(layer, keras.layers.BatchNormalization)
    }.values()
    encoder_layers = [
        layer
        for layer in all_layers(small_encoder())
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    # The pyramid has three lateral and five output layers with normalization.
    assert len(layers) == len(encoder_layers) + 8
    assert all(layer.synchronized for layer in layers)
    assert {layer.momentum for layer in layers} == {0.9}


def test_loss_equals_that_of_the_paper(detector):
    """The focal loss covers all anchors except ignored ones, and smooth L1 those with a box."""
    generator = np.random.default_rng(1)
    boxes = np.array([[[10, 12, 50, 60], [30, 5, 70, 40]], [[-1] * 4] * 2], np.float32)
    labels = np.array([[2, 0], [-1, -1]], np.float32)  # The second image has no box.
    anchors = np.concatenate(list(detector.anchor_generator(np.zeros([2, SIZE, SIZE, 3])).values()))
    scores = generator.normal(-2, 2, (2, len(anchors), CLASSES))
    deltas = generator.normal(0, 0.3, (2, len(anchors), 4))
    outputs = {"cls_logits": tf.constant(scores, tf.float32)}
    outputs["bbox_regression"] = tf.constant(deltas, tf.float32)

    class FixedOutputs:
        num_classes, label_encoder = CLASSES, detector.label_encoder

        def __call__(self, squares, training):
            assert training
            return outputs

    total, count = detection.loss(FixedOutputs(), tf.zeros([2, SIZE, SIZE, 3]), boxes, labels)
    expected, num_positive = 0.0, 0
    for image in range(2):
        real = [k for k in range(2) if labels[image, k] >= 0]
        for anchor, score, delta in zip(anchors, scores[image], deltas[image], strict=True):
            overlaps = [overlap_of(anchor, boxes[image, k].astype(float)) for k in real]
            best = max(overlaps, default=0)
            target = np.zeros(CLASSES)
            if 0.4 <= best < 0.5:
                continue
            if best >= 0.5:
                num_positive += 1
                k = real[int(np.argmax(overlaps))]
                target[int(labels[image, k])] = 1
                center, sides = (anchor[:2] + anchor[2:]) / 2, anchor[2:] - anchor[:2]
                box = boxes[image, k].astype(float)
                box_target = [*(((box[:2] + box[2:]) / 2 - center) / sides)]
                box_target += [*np.log((box[2:] - box[:2]) / sides)]
                difference = np.abs(delta - box_target)
                expected += np.where(difference < 0.1, difference**2 / 0.2, difference - 0.05).sum()
            p = 1 / (1 + np.exp(-score))
            expected -= (target * 0.25 * (1 - p) ** 2 * np.log(p)).sum()
            expected -= ((1 - target) * 0.75 * p**2 * np.log(1 - p)).sum()
    assert num_positive > 5
    assert float(count) == num_positive
    assert float(total) == pytest.approx(expected, rel=1e-4)


@pytest.mark.nightly
@needs_fashion_mnist
def test_two_scenes_are_learned(tmp_path):
    images = load_boxes(f"coco:{write(tmp_path, 2, 1)}")
    images = dataclasses.replace(images, test=images.train)
    model = training.build(DETECTION, small_encoder(), len(images.class_names), SIZE, 0)
    before, _ = training.evaluate(DETECTION, model, images, SIZE)
    settings = DetectionSettings(steps=48, milestones=(40,), warmup_steps=15, batch_size=2)
    curve = training.fit(DETECTION, model, images, SIZE, settings)
    after, kept = training.evaluate(DETECTION, model, images, SIZE, keep=[1])
    assert before["ap50"] < 0.1
    assert after["ap50"] > 0.5
    losses = [point["loss"] for point in curve]
    assert np.mean(losses[-5:]) < losses[0] / 4
    [(height, width, *prediction)] = kept.values()
    assert (height, width) == (96, 128)
    truth = images.annotations(1, height, width)
    boxes, _, labels = detection.detections(SIZE, height, width, *prediction)
    assert max(overlap_of(boxes[0], box) for box in truth.boxes) > 0.5
    assert labels[0] in truth.labels
