"""Semantic segmentation: KerasHub's DeepLabV3+ on a backbone, measured by mean IoU.

Its schedule is that of the paper's appendix for PASCAL VOC: 30,000 steps, a learning rate of 0.003
that falls after seven and after nine tenths of them. The rates of the dilated convolutions, 6, 12
and 18, and the 48 channels of the finer level are those of DeepLabV3+'s paper; its last stage has a
stride of 32 here, where it has 16 there and the paper's segmenter 8, since KerasHub's ResNet has no
dilation.
"""

import numpy as np
import tensorflow as tf

from moco_tf.data.boxes.geometry import IGNORED, map_in_image, map_in_square
from moco_tf.errors import UserError
from moco_tf.evaluation.settings import SegmentationSettings
from moco_tf.evaluation.transfer.training import Task

BACKGROUND = 0  # the label of a pixel of no object; the class c has the label c + 1
METRICS = {"mean_iou": "mean IoU"}


def build(image_encoder, num_classes, image_size):
    """KerasHub's DeepLabV3+ on a backbone.

    Args:
        image_encoder: a `keras_hub.models.ResNetBackbone`, which becomes a part of it.
        num_classes: int, without the background.
        image_size: int, a multiple of 32.

    Returns:
        A `keras_hub.models.DeepLabV3ImageSegmenter`, from normalised images `[n, size, size, 3]` to
        scores `[n, size, size, 1 + classes]`.
    """
    import keras_hub

    backbone = keras_hub.models.DeepLabV3Backbone(
        image_encoder,
        spatial_pyramid_pooling_key="P5",
        upsampling_size=8,
        dilation_rates=[6, 12, 18],
        low_level_feature_key="P2",
        projection_filters=48,
        image_shape=(image_size, image_size, 3),
    )
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone, 1 + num_classes)


def labels_of(annotations, height, width):
    """A label of each pixel of an image, made of the masks of its objects.

    Of several objects at a pixel it is that of the smallest. Where there is a crowd, and no object
    of its own, pixels are not counted.

    Args:
        annotations: `moco_tf.data.annotated.Annotations` with masks.
        height, width: ints, of the image.

    Returns:
        int32 `[height, width]`: `BACKGROUND`, 1 + the class, or `IGNORED`.
    """
    from pycocotools import mask

    labels = np.full([height, width], BACKGROUND, np.int32)
    areas = np.array([mask.area(m) for m in annotations.masks])
    # Crowds first, then the largest: what comes later covers what was there.
    for number in np.lexsort([-areas, ~annotations.crowd]):
        crowd, label = annotations.crowd[number], annotations.labels[number]
        labels[mask.decode(annotations.masks[number]) > 0] = IGNORED if crowd else label + 1
    return labels


def targets(images, image_size):
    """What a training batch says of its images beside the pixels.

    Args:
        images: `moco_tf.data.annotated.AnnotatedImages` with masks.
        image_size: int.

    Returns:
        `targets` and `specs` of `moco_tf.data.letterbox.TrainingBatches`: int32 `[size, size]`, of
        each pixel of the square the label of `labels_of`, `IGNORED` around the image.
    """

    def of_image(annotations, height, width, flip):
        labels = labels_of(annotations, height, width)
        return [map_in_square(labels[:, ::-1] if flip else labels, image_size)]

    return of_image, (tf.TensorSpec([image_size, image_size], tf.int32),)


def loss(segmenter, squares, labels):
    """Cross entropy of all pixels but the ignored, with their number.

    Args:
        segmenter: of `build`.
        squares: normalised, float32 `[n, size, size, 3]`.
        labels: int32 `[n, size, size]`.

    Returns:
        Two scalars: the sum of the losses in nats, and the pixels.
    """
    scores = segmenter(squares, training=True)
    counted = tf.cast(labels != IGNORED, scores.dtype)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels, 0), scores)
    return tf.reduce_sum(counted * losses), tf.reduce_sum(counted)


def predict(segmenter, squares):
    """The likeliest label of each pixel of the squares: a tuple of int32 `[n, size, size]`."""
    return (tf.argmax(segmenter(squares, training=False), axis=-1, output_type=tf.int32),)


def measure(images, image_size, predictions):
    """Mean IoU of predicted labels, at the images' own size.

    Args:
        images: `moco_tf.data.annotated.AnnotatedImages` with masks.
        image_size: int.
        predictions: an iterator of `(index, height, width, labels)`.

    Returns:
        `{"mean_iou": float}`.

    Raises:
        UserError: there is no pixel that is counted.
    """
    count = 1 + len(images.class_names)
    confusion = np.zeros([count, count], np.int64)
    for index, height, width, square in predictions:
        truth = labels_of(images.annotations(index, height, width), height, width)
        found = map_in_image(square, height, width)
        counted = truth != IGNORED
        pairs = count * truth[counted] + found[counted]
        confusion += np.bincount(pairs, minlength=count**2).reshape(count, count)
    if not confusion.any():
        raise UserError(f"data source '{images.name}' has no pixel to label in its test images")
    return {"mean_iou": mean_iou(confusion)}


def mean_iou(confusion):
    """Intersection over union, averaged over the classes that there are, the background included.

    Args:
        confusion: int `[labels, labels]`, how many pixels of the label of a row were found to be of
            the label of a column.

    Returns:
        A float of 0 to 1. A class of which the truth has no pixel is left out.
    """
    there = confusion.sum(axis=1) > 0
    union = confusion.sum(axis=1) + confusion.sum(axis=0) - np.diag(confusion)
    return float((np.diag(confusion)[there] / union[there]).mean())


SEGMENTATION = Task(
    name="segmentation",
    metrics=METRICS,
    settings=SegmentationSettings,
    build=build,
    targets=targets,
    loss=loss,
    predict=predict,
    measure=measure,
)
