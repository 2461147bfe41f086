"""RetinaNet's loss and what becomes of its predictions, against NumPy and closed forms."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("keras_hub")
pytest.importorskip("pycocotools")

from moco_tf import encoders
from moco_tf.data.boxes import load as load_boxes
from moco_tf.data.boxes.annotations import AnnotatedImages, Annotations
from moco_tf.errors import UserError
from moco_tf.evaluation.transfer import detection, training
from moco_tf.evaluation.transfer.detection import DETECTION
from moco_tf.export.keras_hub_preset import to_keras_hub
from tests.scenes import needs_fashion_mnist, write

CLASSES, SIZE = 3, 96


def annotated_boxes(*of_images, shape=(60, 90)):
    """Images of nothing but boxes, all tested on: of each `(box, label, crowd, difficult)`."""

    def annotations(index, height, width):
        assert (height, width) == shape
        columns = zip(*of_images[index], strict=True) if of_images[index] else [[]] * 4
        boxes, labels, crowd, difficult = columns
        return Annotations(
            np.array(boxes, float).reshape(-1, 4),
            np.array(labels, np.int32),
            np.array(crowd, bool),
            np.array(difficult, bool),
        )

    indices = np.arange(len(of_images))
    names = [f"class {number}" for number in range(CLASSES)]
    return AnnotatedImages("memory", names, None, annotations, str, indices, indices, 3)


def predicted(*of_images):
    """What `predict` would say of these detections, of each `(box, label, score)`, in the images'
    own coordinates: it works in squares of 180 pixels, twice as large."""
    for index, found in enumerate(of_images):
        boxes, scores, labels = np.zeros([100, 4]), np.zeros(100), np.zeros(100)
        for row, (box, label, score) in enumerate(found):
            boxes[row], labels[row], scores[row] = 2 * np.array(box), label, score
        yield index, 60, 90, boxes, scores, labels


def measure(images, *of_images):
    return detection.measure(images, 180, predicted(*of_images))


A, B, C = (10, 10, 30, 30), (50, 10, 80, 50), (5, 35, 25, 55)


def test_perfect_detections_have_an_ap_of_1():
    images = annotated_boxes([(A, 0, 0, 0), (B, 2, 0, 0)], [], [(C, 1, 0, 0)])
    found = [[(A, 0, 0.9), (B, 2, 0.3)], [], [(C, 1, 0.5)]]
    assert measure(images, *found) == pytest.approx({"ap": 1.0, "ap50": 1.0, "ap75": 1.0})
    assert measure(images, [], [], []) == {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
    found[0][1] = (B, 1, 0.3)  # of another class: one of three is not found, another has a mistake
    assert measure(images, *found)["ap50"] == pytest.approx(2 / 3)


def test_shifted_boxes_have_the_ap_of_their_overlap():
    # Of a square shifted by a share s of its side the overlap is (1 - s) / (1 + s).
    images = annotated_boxes([(A, 0, 0, 0)])
    for shift, overlap in ((2, 18 / 22), (4, 16 / 24), (6, 14 / 26), (8, 12 / 28)):
        box = (A[0] + shift, A[1], A[2] + shift, A[3])
        # The thresholds are 0.5, 0.55, ... 0.95.
        passed = sum(overlap >= 0.5 + 0.05 * number for number in range(10))
        found = measure(images, [(box, 0, 0.9)])
        assert found["ap"] == pytest.approx(passed / 10)
        assert found["ap50"] == pytest.approx(float(overlap >= 0.5))
        assert found["ap75"] == pytest.approx(float(overlap >= 0.75))


def test_a_mistake_above_costs_precision_and_one_below_does_not():
    images = annotated_boxes([(A, 0, 0, 0)])
    assert measure(images, [(A, 0, 0.5), (B, 0, 0.4)])["ap"] == pytest.approx(1)
    assert measure(images, [(A, 0, 0.5), (B, 0, 0.6)])["ap"] == pytest.approx(1 / 2)


def test_crowds_and_difficult_objects_count_neither_way():
    for crowd, difficult in ((1, 0), (0, 1)):
        images = annotated_boxes([(A, 0, 0, 0), (B, 0, crowd, difficult)])
        assert measure(images, [(A, 0, 0.5)])["ap"] == pytest.approx(1)
        assert measure(images, [(A, 0, 0.5), (B, 0, 0.6)])["ap"] == pytest.approx(1)
        with pytest.raises(UserError, match="'memory' has no box to find in its test images"):
            measure(annotated_boxes([(B, 0, crowd, difficult)]), [(B, 0, 0.6)])


def test_targets_leave_crowds_and_empty_boxes_out_and_mirror():
    boxes = [(A, 0, 0, 0), (B, 1, 1, 0), (C, 2, 0, 1), ((7, 7, 7, 20), 1, 0, 0)]
    images = annotated_boxes(boxes)
    annotations = images.annotations(0, 60, 90)
    of_image, specs = detection.targets(images, SIZE)
    assert [spec.shape.as_list() for spec in specs] == [[3, 4], [3]]
    found, labels = of_image(annotations, 60, 90, False)
    scale = SIZE / 90
    np.testing.assert_allclose(found[:2], scale * np.array([A, C]), rtol=1e-6)
    assert (found[2] == -1).all() and labels.tolist() == [0, 2, -1]
    found, _ = of_image(annotations, 60, 90, True)
    mirrored = np.array([[60, 10, 80, 30], [65, 35, 85, 55]])
    np.testing.assert_allclose(found[:2], scale * mirrored, rtol=1e-6)


def test_of_many_boxes_the_largest_are_taken():
    boxes = [((0, 0, side, side), 0, 0, 0) for side in (5, 20, 10, 30, 15)]
    found, _ = detection.targets(images := annotated_boxes(boxes), 90)[0](
        images.annotations(0, 60, 90), 60, 90, False
    )
    assert found[:, 2].tolist() == [20, 30, 15]


def test_suppression_is_class_by_class():
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 60, (2, 40, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(5, 50, (2, 40, 2))], axis=2)
    scores = generator.normal(-3, 2, (2, 40, CLASSES))
    found = detection.Suppression(SIZE)(boxes.astype(np.float32), scores.astype(np.float32))
    clipped = np.clip(boxes, 0, SIZE)
    for image in range(2):
        expected = []
        for label in range(CLASSES):
            probabilities = 1 / (1 + np.exp(-scores[image, :, label]))
            kept = []
            for row in np.argsort(-probabilities):
                if probabilities[row] > 0.05 and all(
                    overlap(clipped[image, row], clipped[image, other]) <= 0.5 for other in kept
                ):
                    kept.append(row)
            expected += [(probabilities[row], label, *clipped[image, row]) for row in kept]
        expected = np.array(sorted(expected, reverse=True))
        count = len(expected)
        assert 10 < count < 100
        parts = found["confidence"], found["labels"], *tf.unstack(found["boxes"], axis=-1)
        rows = np.stack([part[image].numpy() for part in parts], axis=1)
        np.testing.assert_allclose(rows[:count], expected, rtol=1e-5, atol=1e-4)
        assert (rows[count:, 0] == 0).all()


def overlap(one, other):
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    common = np.prod(np.maximum(sides, 0))
    area = sum(np.prod(box[2:] - box[:2]) for box in (one, other))
    return common / (area - common)


@pytest.fixture(scope="module")
def detector():
    encoder = to_keras_hub(encoders.random_network("resnet18", "imagenet", 3, 0))
    return training.build(DETECTION, encoder, CLASSES, SIZE, 0)


def test_the_model_is_as_the_module_says(detector):
    squares = tf.zeros([1, SIZE, SIZE, 3])
    scores = tf.sigmoid(detector(squares, training=False)["cls_logits"])
    # Strides of 8 to 128 pixels, nine anchors at each place.
    assert scores.shape == (1, 9 * (12**2 + 6**2 + 3**2 + 2**2 + 1), CLASSES)
    np.testing.assert_allclose(scores, 0.01, atol=0.01)
    assert detector.box_head.prediction_layer.bias.numpy().tolist() == [0] * 36
    for head in (detector.box_head, detector.classification_head):
        assert head.prediction_layer.kernel.numpy().std() == pytest.approx(0.01, rel=0.05)
        assert len(head.group_norm_layers) == 4
    import keras

    found = [
        layer
        for layer in detector._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    # 20 of the ResNet-18; three lateral and five output ones of the pyramid.
    assert len({id(layer) for layer in found}) == 20 + 8
    assert all(layer.synchronized and layer.momentum == 0.9 for layer in found)


def test_the_loss_is_the_papers(detector, monkeypatch):
    """In float64: focal loss of every anchor but the undecided, smooth L1 of those with a box."""
    generator = np.random.default_rng(1)
    boxes = np.array([[[10, 12, 50, 60], [30, 5, 70, 40]], [[-1] * 4] * 2], np.float32)
    labels = np.array([[2, 0], [-1, -1]], np.float32)  # the second image has none
    anchors = np.concatenate(list(detector.anchor_generator(np.zeros([2, SIZE, SIZE, 3])).values()))
    scores = generator.normal(-2, 2, (2, len(anchors), CLASSES))
    deltas = generator.normal(0, 0.3, (2, len(anchors), 4))
    found = {"cls_logits": tf.constant(scores, tf.float32)}
    found["bbox_regression"] = tf.constant(deltas, tf.float32)

    class Predicts:
        num_classes, label_encoder = CLASSES, detector.label_encoder

        def __call__(self, squares, training):
            assert training
            return found

    total, count = detection.loss(Predicts(), tf.zeros([2, SIZE, SIZE, 3]), boxes, labels)
    expected, positives = 0.0, 0
    for image in range(2):
        real = [k for k in range(2) if labels[image, k] >= 0]
        for anchor, score, delta in zip(anchors, scores[image], deltas[image], strict=True):
            overlaps = [overlap(anchor, boxes[image, k].astype(float)) for k in real]
            best = max(overlaps, default=0)
            target = np.zeros(CLASSES)
            if 0.4 <= best < 0.5:
                continue
            if best >= 0.5:
                positives += 1
                k = real[int(np.argmax(overlaps))]
                target[int(labels[image, k])] = 1
                centre, sides = (anchor[:2] + anchor[2:]) / 2, anchor[2:] - anchor[:2]
                box = boxes[image, k].astype(float)
                wanted = [*(((box[:2] + box[2:]) / 2 - centre) / sides)]
                wanted += [*np.log((box[2:] - box[:2]) / sides)]
                difference = np.abs(delta - wanted)
                expected += np.where(difference < 0.1, difference**2 / 0.2, difference - 0.05).sum()
            p = 1 / (1 + np.exp(-score))
            expected -= (target * 0.25 * (1 - p) ** 2 * np.log(p)).sum()
            expected -= ((1 - target) * 0.75 * p**2 * np.log(1 - p)).sum()
    assert positives > 5 and float(count) == positives
    assert float(total) == pytest.approx(expected, rel=1e-4)


@needs_fashion_mnist
def test_two_scenes_are_learnt(tmp_path):
    images = load_boxes(f"coco:{write(tmp_path, 2, 1)}")
    images = dataclasses.replace(images, test=images.train)
    encoder = to_keras_hub(encoders.random_network("resnet18", "imagenet", 3, 0))
    model = training.build(DETECTION, encoder, len(images.class_names), SIZE, 0)
    before, _ = training.evaluate(DETECTION, model, images, SIZE)
    settings = dict(steps=40, milestones=(30,), warmup_steps=5, batch_size=2)
    settings = training.settings_of(DETECTION, **settings)
    curve = training.fit(DETECTION, model, images, SIZE, **settings)
    after, kept = training.evaluate(DETECTION, model, images, SIZE, keep=[1])
    assert before["ap50"] < 0.1 and after["ap50"] > 0.5
    losses = [point["loss"] for point in curve]
    assert np.mean(losses[-5:]) < losses[0] / 4
    [(height, width, boxes, scores, labels)] = kept.values()
    assert (height, width) == (96, 128)
    truth = images.annotations(1, height, width)
    found, _, classes = detection.detections(SIZE, height, width, boxes, scores, labels)
    best = overlap(found[0], truth.boxes[np.argmax([overlap(found[0], b) for b in truth.boxes])])
    assert best > 0.5 and classes[0] in truth.labels
