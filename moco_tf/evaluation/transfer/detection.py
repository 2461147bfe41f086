"""Object detection: KerasHub's RetinaNet on a backbone, trained and measured by COCO's AP.

Its schedule is the paper's for PASCAL VOC, 24,000 steps, with falls after three quarters and after
eleven twelfths of them, as docs/detectron2.md has it. The learning rate of 0.01, the two losses and
what becomes of the predictions are those of Detectron2's RetinaNet. Of KerasHub's model these are
set otherwise than by default:

- The feature pyramid has BatchNormalization, and the two heads GroupNormalization, which is what
  KerasHub has for them; its statistics are of one image, so there is nothing to synchronise.
- The coarser levels start from the backbone's last stage, as in RetinaNet's paper.
- The last layers begin as in that paper, with weights N(0, 0.01), a bias of 0 for the boxes, and
  for the classes one that makes every score 0.01. KerasHub gives that bias to the boxes.
- Overlapping detections are suppressed class by class. KerasHub lets a box of another class
  suppress too, and leaves out scores below 0.5.
"""

import contextlib
import io
import math

import keras
import numpy as np
import tensorflow as tf

from moco_tf.data.boxes.geometry import boxes_in_image, boxes_in_square, fitted
from moco_tf.errors import UserError
from moco_tf.evaluation.settings import DetectionSettings
from moco_tf.evaluation.transfer.training import Task

LEVELS = 3, 7  # of the feature pyramid: strides of 8 to 128 pixels
PRIOR = 0.01  # every score before the training
FOCUS, POSITIVE_WEIGHT = 2.0, 0.25  # of the focal loss: gamma, alpha
BETA = 0.1  # below this difference the loss of a box is quadratic
LOWEST_SCORE, OVERLAP, MOST_DETECTIONS = 0.05, 0.5, 100
BACKGROUND, UNDECIDED = -1, -2  # what KerasHub's label encoder says of an anchor without a box
METRICS = {"ap": "AP", "ap50": "AP50", "ap75": "AP75"}  # COCOeval's first three


class Suppression(keras.layers.Layer):
    """Non-maximum suppression class by class, for `RetinaNetObjectDetector.decode_predictions`.

    Args:
        image_size: int, side of the images in pixels.

    Call arguments: boxes `[n, anchors, 4]`, scores before the sigmoid `[n, anchors, classes]`.
    Returns a dict of `boxes` `[n, 100, 4]`, `confidence` `[n, 100]` and `labels` `[n, 100]`, best
    first; where there are fewer detections, their confidence is 0.
    """

    bounding_box_format = "xyxy"

    def __init__(self, image_size, **kwargs):
        super().__init__(**kwargs)
        self.image_size = image_size

    def call(self, boxes, scores, images=None):
        found = tf.image.combined_non_max_suppression(
            # For overlaps it is all the same which axis is called x.
            tf.clip_by_value(boxes, 0, self.image_size)[:, :, tf.newaxis],
            tf.sigmoid(scores),
            max_output_size_per_class=MOST_DETECTIONS,
            max_total_size=MOST_DETECTIONS,
            iou_threshold=OVERLAP,
            score_threshold=LOWEST_SCORE,
            clip_boxes=False,
        )
        return {"boxes": found[0], "confidence": found[1], "labels": found[2]}


def build(image_encoder, num_classes, image_size):
    """KerasHub's RetinaNet on a backbone.

    Args:
        image_encoder: a `keras_hub.models.ResNetBackbone`, which becomes a part of it.
        num_classes: int.
        image_size: int, a multiple of 32.

    Returns:
        A `keras_hub.models.RetinaNetObjectDetector`, from normalised images `[n, size, size, 3]` to
        `bbox_regression` `[n, anchors, 4]` and `cls_logits` `[n, anchors, classes]`.
    """
    import keras_hub

    pyramid = keras_hub.models.RetinaNetBackbone(
        image_encoder,
        *LEVELS,
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
        (detector.classification_head, math.log(PRIOR / (1 - PRIOR))),
    ):
        layer = head.prediction_layer
        layer.kernel.assign(keras.random.normal(layer.kernel.shape, stddev=0.01))
        layer.bias.assign(tf.fill(layer.bias.shape, bias))
    return detector


def targets(images, image_size):
    """What a training batch says of its images beside the pixels.

    Args:
        images: `moco_tf.data.annotated.AnnotatedImages`.
        image_size: int.

    Returns:
        `targets` and `specs` of `moco_tf.data.letterbox.TrainingBatches`: float32 `[m, 4]`, boxes
        in the square; float32 `[m]`, their classes. Rows for which there is no box are all -1. Of
        more boxes than m the largest are taken.
    """
    most = images.most_boxes

    def of_image(annotations, height, width, flip):
        wanted = ~annotations.crowd
        boxes = boxes_in_square(annotations.boxes[wanted], height, width, image_size)
        labels = annotations.labels[wanted]
        new_height, new_width = fitted(height, width, image_size)
        if flip:
            boxes = np.stack(
                [new_width - boxes[:, 2], boxes[:, 1], new_width - boxes[:, 0], boxes[:, 3]], axis=1
            )
        boxes = np.clip(boxes, 0, [new_width, new_height, new_width, new_height])
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        # Without an area a box has no logarithm to train for.
        largest = np.argsort(-areas, kind="stable")[: min(most, np.count_nonzero(areas))]
        order = np.sort(largest)
        found = np.full([most, 4], -1, np.float32), np.full([most], -1, np.float32)
        found[0][: len(order)], found[1][: len(order)] = boxes[order], labels[order]
        return found

    return of_image, (tf.TensorSpec([most, 4], tf.float32), tf.TensorSpec([most], tf.float32))


def loss(detector, squares, boxes, labels):
    """Focal loss of all anchors and smooth L1 of those that have a box, with its number.

    Args:
        detector: of `build`.
        squares: normalised, float32 `[n, size, size, 3]`.
        boxes, labels: of `targets`, with a first axis of n.

    Returns:
        Two scalars: the sum of the losses, and the anchors that have a box.
    """
    found = detector(squares, training=True)
    wanted_boxes, anchors = detector.label_encoder(squares, boxes, labels)
    positive = tf.cast(anchors > BACKGROUND, tf.float32)
    decided = tf.cast(anchors != UNDECIDED, tf.float32)
    classes = tf.one_hot(tf.cast(anchors, tf.int32), detector.num_classes)
    # Keras has the mean over the classes where the paper has the sum.
    of_classes = detector.num_classes * keras.losses.binary_focal_crossentropy(
        classes,
        tf.sigmoid(found["cls_logits"]),
        apply_class_balancing=True,
        alpha=POSITIVE_WEIGHT,
        gamma=FOCUS,
    )
    difference = tf.abs(wanted_boxes - found["bbox_regression"])
    smooth = tf.where(difference < BETA, difference**2 / (2 * BETA), difference - BETA / 2)
    of_boxes = tf.reduce_sum(smooth, axis=-1)
    total = tf.reduce_sum(decided * of_classes) + tf.reduce_sum(positive * of_boxes)
    return total, tf.reduce_sum(positive)


def predict(detector, squares):
    """Detections in the squares: boxes `[n, 100, 4]`, scores `[n, 100]`, labels `[n, 100]`."""
    found = detector.decode_predictions(detector(squares, training=False), squares)
    return found["boxes"], found["confidence"], found["labels"]


def measure(images, image_size, predictions):
    """COCO's AP, AP50 and AP75 of detections, by pycocotools, in the images' own coordinates.

    A detection in a crowd's box, or of a difficult object, counts neither way.

    Args:
        images: `moco_tf.data.annotated.AnnotatedImages`.
        image_size: int.
        predictions: an iterator of `(index, height, width, boxes, scores, labels)`.

    Returns:
        `{"ap": float, "ap50": float, "ap75": float}`.

    Raises:
        UserError: there is no box to find.
    """
    truth = {"images": [], "annotations": [], "categories": []}
    truth["categories"] = [{"id": n, "name": name} for n, name in enumerate(images.class_names)]
    found = []
    for index, height, width, *prediction in predictions:
        truth["images"].append({"id": index, "height": height, "width": width})
        objects = images.annotations(index, height, width)
        for box, label, ignored in zip(
            _corner_and_sides(objects.boxes),
            objects.labels,
            objects.crowd | objects.difficult,
            strict=True,
        ):
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,  # pycocotools takes 0 for no match
                    "image_id": index,
                    "category_id": int(label),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(ignored),
                }
            )
        boxes, scores, labels = detections(image_size, height, width, *prediction)
        for box, score, label in zip(_corner_and_sides(boxes), scores, labels, strict=True):
            found.append(
                {
                    "image_id": index,
                    "category_id": int(label),
                    "bbox": box,
                    "score": float(score),
                }
            )
    if all(annotation["iscrowd"] for annotation in truth["annotations"]):
        raise UserError(f"data source '{images.name}' has no box to find in its test images")
    return dict(zip(METRICS, average_precisions(truth, found), strict=True))


def detections(image_size, height, width, boxes, scores, labels):
    """What of `predict` is a detection, with boxes in the image's own coordinates."""
    some = scores > 0
    return boxes_in_image(boxes[some], height, width, image_size), scores[some], labels[some]


def average_precisions(truth, found):
    """AP, AP50 and AP75 as COCO's own evaluation has them.

    Args:
        truth: a dict in COCO's format.
        found: a list of results in COCO's format.

    Returns:
        Three floats of 0 to 1.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not found:
        return 0.0, 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # it talks
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return tuple(float(value) for value in evaluation.stats[:3])


def _corner_and_sides(boxes):
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
