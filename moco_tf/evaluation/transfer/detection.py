"""Object detection: KerasHub's RetinaNet on a backbone, measured by COCO's average precision.

The schedule is the paper's for PASCAL VOC: 24,000 steps, with the learning rate divided by 10 after
three quarters and after eleven twelfths of them, as docs/detectron2.md describes. The learning rate
of 0.01, the two losses and the postprocessing of the predictions are those of Detectron2's
RetinaNet. The model differs from KerasHub's defaults in four points:

- The feature pyramid has BatchNormalization. The two heads have GroupNormalization, the only
  normalization that KerasHub offers for them. Its statistics are those of a single image, so they
  need no synchronization.
- The coarser levels start from the last stage of the backbone, as in RetinaNet's paper.
- The last layers are initialized as in that paper: weights from N(0, 0.01), a bias of 0 for the
  boxes, and for the classes a bias that makes every score 0.01. KerasHub gives that bias to the
  boxes.
- Non-maximum suppression treats each class separately. KerasHub's also suppresses boxes of other
  classes, and drops scores below 0.5.
"""

import contextlib
import io
import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from moco_tf.data.boxes.annotations import AnnotatedImages, Annotations
from moco_tf.data.boxes.geometry import boxes_in_image, boxes_in_square, fitted
from moco_tf.errors import UserError
from moco_tf.evaluation.settings import DetectionSettings
from moco_tf.evaluation.transfer.training import Prediction, Task

PYRAMID_LEVELS = 3, 7  # Lowest and highest level: strides of 8 to 128 pixels.
PRIOR_SCORE = 0.01  # Score of every class before training.
FOCAL_GAMMA, FOCAL_ALPHA = 2.0, 0.25
SMOOTH_L1_BETA = 0.1  # The loss of a box is quadratic below this difference.
MIN_SCORE, MAX_OVERLAP, MAX_DETECTIONS = 0.05, 0.5, 100
# Classes in the output of KerasHub's label encoder for anchors that have no box.
BACKGROUND, IGNORED_ANCHOR = -1, -2
METRICS = {"ap": "AP", "ap50": "AP50", "ap75": "AP75"}  # The first three of COCOeval.


class Suppression(keras.layers.Layer):
    """Non-maximum suppression of each class, for `RetinaNetObjectDetector.decode_predictions`.

    Args:
        image_size: Side of the images in pixels.
        **kwargs: Further arguments of `keras.layers.Layer`.
    """

    bounding_box_format = "xyxy"

    def __init__(self, image_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size

    def call(
        self, boxes: tf.Tensor, scores: tf.Tensor, images: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Return the detections that remain.

        Args:
            boxes: `[n, anchors, 4]`.
            scores: `[n, anchors, classes]`, before the sigmoid.
            images: Ignored; KerasHub passes it.

        Returns:
            `boxes` `[n, 100, 4]`, `confidence` `[n, 100]` and `labels` `[n, 100]`, best first. If
            there are fewer detections, the confidence of the others is 0.
        """
        boxes, confidence, labels, _ = tf.image.combined_non_max_suppression(
            # The function calls the first coordinate y, which makes no difference to overlaps.
            tf.clip_by_value(boxes, 0, self.image_size)[:, :, tf.newaxis],
            tf.sigmoid(scores),
            max_output_size_per_class=MAX_DETECTIONS,
            max_total_size=MAX_DETECTIONS,
            iou_threshold=MAX_OVERLAP,
            score_threshold=MIN_SCORE,
            clip_boxes=False,
        )
        return {"boxes": boxes, "confidence": confidence, "labels": labels}


def build(image_encoder: Any, num_classes: int, image_size: int) -> keras.Model:
    """Build KerasHub's RetinaNet on a backbone.

    Args:
        image_encoder: A `keras_hub.models.ResNetBackbone`, which becomes a part of the model.
        num_classes: Number of classes.
        image_size: Side of the images in pixels, a multiple of 32.

    Returns:
        A `keras_hub.models.RetinaNetObjectDetector` from normalized images `[n, size, size, 3]` to
        `bbox_regression` `[n, anchors, 4]` and `cls_logits` `[n, anchors, classes]`.
    """
    import keras_hub

    pyramid = keras_hub.models.RetinaNetBackbone(
        image_encoder,
        *PYRAMID_LEVELS,
        use_p5=True,
        use_fpn_batch_norm=True,
        image_shape=(image_size, image_size, 3),
    )
    detector = keras_hub.models.RetinaNetObjectDetector(
        pyramid,
        num_classes,
        bounding_box_format="xyxy",
        use_prediction_head_norm=True,
        prediction_decoder=Suppression(image_size),
    )
    for head, bias in (
        (detector.box_head, 0.0),
        (detector.classification_head, math.log(PRIOR_SCORE / (1 - PRIOR_SCORE))),
    ):
        layer = head.prediction_layer
        layer.kernel.assign(keras.random.normal(layer.kernel.shape, stddev=0.01))
        layer.bias.assign(tf.fill(layer.bias.shape, bias))
    return detector


def targets(
    images: AnnotatedImages, image_size: int
) -> tuple[Callable[..., tuple[np.ndarray, np.ndarray]], tuple[tf.TensorSpec, ...]]:
    """Return what a training batch contains in addition to the images.

    Args:
        images: The annotated images.
        image_size: Side of the images in pixels.

    Returns:
        `targets` and `specs` of `moco_tf.data.boxes.letterbox.TrainingBatches`: the boxes in the
        square, float32 `[m, 4]`, and their classes, float32 `[m]`. Rows without a box are -1. If an
        image has more than m boxes, the largest are used.
    """
    max_boxes = images.max_boxes

    def targets_of_image(
        annotations: Annotations, height: int, width: int, flip: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        trained = ~annotations.crowd
        boxes = boxes_in_square(annotations.boxes[trained], height, width, image_size)
        labels = annotations.labels[trained]
        new_height, new_width = fitted(height, width, image_size)
        if flip:
            boxes = np.stack(
                [new_width - boxes[:, 2], boxes[:, 1], new_width - boxes[:, 0], boxes[:, 3]], axis=1
            )
        boxes = np.clip(boxes, 0, [new_width, new_height, new_width, new_height])
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        # The regression targets are logarithms of the sides, so boxes without an area are dropped.
        largest = np.argsort(-areas, kind="stable")[: min(max_boxes, np.count_nonzero(areas))]
        order = np.sort(largest)
        padded_boxes = np.full([max_boxes, 4], -1, np.float32)
        padded_labels = np.full([max_boxes], -1, np.float32)
        padded_boxes[: len(order)] = boxes[order]
        padded_labels[: len(order)] = labels[order]
        return padded_boxes, padded_labels

    specs = tf.TensorSpec([max_boxes, 4], tf.float32), tf.TensorSpec([max_boxes], tf.float32)
    return targets_of_image, specs


def loss(
    detector: Any, squares: tf.Tensor, boxes: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the focal loss of all anchors plus the smooth L1 loss of those that have a box.

    Args:
        detector: The result of `build`.
        squares: Normalized images, float32 `[n, size, size, 3]`.
        boxes: Boxes of `targets`, `[n, m, 4]`.
        labels: Classes of `targets`, `[n, m]`.

    Returns:
        Two scalars: the sum of the losses, and the number of anchors that have a box.
    """
    predictions = detector(squares, training=True)
    box_targets, anchor_classes = detector.label_encoder(squares, boxes, labels)
    has_box = tf.cast(anchor_classes > BACKGROUND, tf.float32)
    counts = tf.cast(anchor_classes != IGNORED_ANCHOR, tf.float32)
    class_targets = tf.one_hot(tf.cast(anchor_classes, tf.int32), detector.num_classes)
    # Keras averages over the classes, where the paper sums.
    class_losses = detector.num_classes * keras.losses.binary_focal_crossentropy(
        class_targets,
        tf.sigmoid(predictions["cls_logits"]),
        apply_class_balancing=True,
        alpha=FOCAL_ALPHA,
        gamma=FOCAL_GAMMA,
    )
    difference = tf.abs(box_targets - predictions["bbox_regression"])
    smooth = tf.where(
        difference < SMOOTH_L1_BETA,
        difference**2 / (2 * SMOOTH_L1_BETA),
        difference - SMOOTH_L1_BETA / 2,
    )
    box_losses = tf.reduce_sum(smooth, axis=-1)
    total = tf.reduce_sum(counts * class_losses) + tf.reduce_sum(has_box * box_losses)
    return total, tf.reduce_sum(has_box)


def predict(detector: Any, squares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Detect objects in normalized images `[n, size, size, 3]`.

    Returns:
        Boxes in the square `[n, 100, 4]`, scores `[n, 100]` and labels `[n, 100]`, best first. The
        score is 0 in rows without a detection.
    """
    predictions = detector.decode_predictions(detector(squares, training=False), squares)
    return predictions["boxes"], predictions["confidence"], predictions["labels"]


def measure(
    images: AnnotatedImages, image_size: int, predictions: Iterable[Prediction]
) -> dict[str, float]:
    """Return COCO's AP, AP50 and AP75, computed by pycocotools in the coordinates of the images.

    A detection in the box of a crowd, or of a difficult object, counts neither as correct nor as
    wrong.

    Args:
        images: The annotated images.
        image_size: Side of the squares in pixels.
        predictions: `(index, height, width, boxes, scores, labels)` for each test image.

    Returns:
        `{"ap": float, "ap50": float, "ap75": float}`, in [0, 1].

    Raises:
        UserError: If the test images have no box that counts.
    """
    categories = [{"id": label, "name": name} for label, name in enumerate(images.class_names)]
    image_entries: list[dict[str, Any]] = []
    annotation_entries: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for index, height, width, *prediction in predictions:
        image_entries.append({"id": index, "height": height, "width": width})
        objects = images.annotations(index, height, width)
        for box, label, ignored in zip(
            _to_coco_boxes(objects.boxes),
            objects.labels,
            objects.crowd | objects.difficult,
            strict=True,
        ):
            annotation_entries.append(
                {
                    "id": len(annotation_entries) + 1,  # To pycocotools, 0 means no match.
                    "image_id": index,
                    "category_id": int(label),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(ignored),
                }
            )
        boxes, scores, labels = detections(image_size, height, width, *prediction)
        for box, score, label in zip(_to_coco_boxes(boxes), scores, labels, strict=True):
            results.append(
                {
                    "image_id": index,
                    "category_id": int(label),
                    "bbox": box,
                    "score": float(score),
                }
            )
    if all(annotation["iscrowd"] for annotation in annotation_entries):
        raise UserError(
            f"data source '{images.name}': the test images have no box to detect: add annotations "
            "of objects that are neither crowds nor difficult"
        )
    truth = {
        "images": image_entries,
        "annotations": annotation_entries,
        "categories": categories,
    }
    return dict(zip(METRICS, average_precisions(truth, results), strict=True))


def detections(
    image_size: int,
    height: int,
    width: int,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the detections in one image, with boxes in the coordinates of the image.

    Args:
        image_size: Side of the squares in pixels.
        height: Height of the image.
        width: Width of the image.
        boxes: Boxes that `predict` returned for the image, `[100, 4]`.
        scores: Its scores, `[100]`.
        labels: Its labels, `[100]`.

    Returns:
        Boxes `[k, 4]`, scores `[k]` and labels `[k]`.
    """
    detected = scores > 0
    boxes = boxes_in_image(boxes[detected], height, width, image_size)
    return boxes, scores[detected], labels[detected]


def average_precisions(
    truth: dict[str, list[dict[str, Any]]], results: list[dict[str, Any]]
) -> tuple[float, ...]:
    """Return AP, AP50 and AP75 as COCO's own evaluation computes them.

    Args:
        truth: Annotations in COCO's format.
        results: Detections in COCO's format for results.

    Returns:
        Three floats in [0, 1].
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not results:
        return 0.0, 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress.
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return tuple(float(value) for value in evaluation.stats[:3])


def _to_coco_boxes(boxes: np.ndarray) -> list[list[float]]:
    """Convert left, top, right and bottom to COCO's left, top, width and height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()


DETECTION = Task(
    name="detection",
    metrics=METRICS,
    settings=DetectionSettings,
    build=build,
    targets=targets,
    loss=loss,
    predict=predict,
    measure=measure,
)
