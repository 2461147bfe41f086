"""Semantic segmentation: KerasHub's DeepLabV3+ on a backbone, measured by mean IoU.

The schedule is that of the paper's appendix for PASCAL VOC: 30,000 steps with a learning rate of
0.003, which is divided by 10 after seven tenths and after nine tenths of them. The rates of the
dilated convolutions, 6, 12 and 18, and the 48 channels of the finer level are those of DeepLabV3+'s
paper. The last stage has a stride of 32 because KerasHub's ResNet has no dilation; DeepLabV3+'s
paper has 16 there, and the segmenter of MoCo's paper 8.
"""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from moco_tf.data.boxes.annotations import AnnotatedImages, Annotations
from moco_tf.data.boxes.geometry import IGNORED, map_in_image, map_in_square
from moco_tf.errors import UserError
from moco_tf.evaluation.settings import SegmentationSettings
from moco_tf.evaluation.transfer.training import Prediction, Task

BACKGROUND = 0  # Label of a pixel that belongs to no object; class c has the label c + 1.
METRICS = {"mean_iou": "mean IoU"}


def build(image_encoder: Any, num_classes: int, image_size: int) -> keras.Model:
    """Build KerasHub's DeepLabV3+ on a backbone.

    Args:
        image_encoder: A `keras_hub.models.ResNetBackbone`, which becomes a part of the model.
        num_classes: Number of classes, not counting the background.
        image_size: Side of the images in pixels, a multiple of 32.

    Returns:
        A `keras_hub.models.DeepLabV3ImageSegmenter` from normalized images `[n, size, size, 3]` to
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


def labels_of(annotations: Annotations, height: int, width: int) -> np.ndarray:
    """Return the label of each pixel of an image, from the masks of its objects.

    A pixel of several objects has the label of the smallest one. A pixel that belongs to a crowd
    only is ignored.

    Args:
        annotations: Annotations with masks.
        height: Height of the image.
        width: Width of the image.

    Returns:
        int32 `[height, width]`: `BACKGROUND`, 1 + the class, or `IGNORED`.
    """
    from pycocotools import mask

    assert annotations.masks is not None
    labels = np.full([height, width], BACKGROUND, np.int32)
    areas = np.array([mask.area(encoded) for encoded in annotations.masks])
    # Crowds first, then the objects by decreasing area: later ones overwrite earlier ones.
    for number in np.lexsort([-areas, ~annotations.crowd]):
        crowd, label = annotations.crowd[number], annotations.labels[number]
        labels[mask.decode(annotations.masks[number]) > 0] = IGNORED if crowd else label + 1
    return labels


def targets(
    images: AnnotatedImages, image_size: int
) -> tuple[Callable[..., list[np.ndarray]], tuple[tf.TensorSpec, ...]]:
    """Return what a training batch contains in addition to the images.

    Args:
        images: The annotated images, with masks.
        image_size: Side of the images in pixels.

    Returns:
        `targets` and `specs` of `moco_tf.data.boxes.letterbox.TrainingBatches`: the labels of
        `labels_of` for the pixels of the square, int32 `[size, size]`, with `IGNORED` in the
        padding.
    """

    def targets_of_image(
        annotations: Annotations, height: int, width: int, flip: bool
    ) -> list[np.ndarray]:
        labels = labels_of(annotations, height, width)
        return [map_in_square(labels[:, ::-1] if flip else labels, image_size)]

    return targets_of_image, (tf.TensorSpec([image_size, image_size], tf.int32),)


def loss(segmenter: Any, squares: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the cross entropy of all pixels that are not ignored, and their number.

    Args:
        segmenter: The result of `build`.
        squares: Normalized images, float32 `[n, size, size, 3]`.
        labels: int32 `[n, size, size]`.

    Returns:
        Two scalars: the sum of the losses in nats, and the number of pixels.
    """
    scores = segmenter(squares, training=True)
    counted = tf.cast(labels != IGNORED, scores.dtype)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels, 0), scores)
    return tf.reduce_sum(counted * losses), tf.reduce_sum(counted)


def predict(segmenter: Any, squares: tf.Tensor) -> tuple[tf.Tensor]:
    """Return the best label of each pixel of normalized images, int32 `[n, size, size]`."""
    return (tf.argmax(segmenter(squares, training=False), axis=-1, output_type=tf.int32),)


def measure(
    images: AnnotatedImages, image_size: int, predictions: Iterable[Prediction]
) -> dict[str, float]:
    """Return the mean IoU of predicted labels, at the original size of the images.

    Args:
        images: The annotated images, with masks.
        image_size: Side of the squares in pixels.
        predictions: `(index, height, width, labels)` for each test image.

    Returns:
        `{"mean_iou": float}`, in [0, 1].

    Raises:
        UserError: If the test images have no pixel that counts.
    """
    num_labels = 1 + len(images.class_names)
    confusion = np.zeros([num_labels, num_labels], np.int64)
    for index, height, width, square in predictions:
        truth = labels_of(images.annotations(index, height, width), height, width)
        predicted = map_in_image(square, height, width)
        counted = truth != IGNORED
        pairs = num_labels * truth[counted] + predicted[counted]
        confusion += np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)
    if not confusion.any():
        raise UserError(
            f"data source '{images.name}': every pixel of the test images is ignored, because "
            "crowds cover it: add images with other annotations"
        )
    return {"mean_iou": mean_iou(confusion)}


def mean_iou(confusion: np.ndarray) -> float:
    """Return the mean intersection over union of the labels, the background included.

    Args:
        confusion: int `[labels, labels]`, numbers of pixels by true label (row) and predicted label
            (column).

    Returns:
        A float in [0, 1]. Labels without a true pixel are left out.

    Example:
        >>> mean_iou(np.array([[3, 1], [0, 4]]))
        0.775
    """
    present = confusion.sum(axis=1) > 0
    intersection = np.diag(confusion)
    union = confusion.sum(axis=1) + confusion.sum(axis=0) - intersection
    return float((intersection[present] / union[present]).mean())


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
