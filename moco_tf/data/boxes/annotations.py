"""Images by index, with the boxes and, if there are any, the masks of their objects."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

MAX_BOXES = 100  # Maximum number of boxes of a training image; images of COCO have up to 93.


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The objects of one image.

    Attributes:
        boxes: float64 `[n, 4]`, left, top, right and bottom in pixels, measured from the top left
            corner of the image.
        labels: int32 `[n]`, classes counted from 0.
        crowd: bool `[n]`, True for a box around a group of objects, COCO's `iscrowd`. It is not
            used for training, and a detection in it counts neither as correct nor as wrong.
        difficult: bool `[n]`, True for an object that is used for training, but whose detection
            counts neither as correct nor as wrong, PASCAL VOC's `difficult`.
        masks: List of n masks in pycocotools' in-memory format ("RLE"); None if the data has none
            or they were not requested.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    masks: list[dict[str, Any]] | None = None


@dataclasses.dataclass(frozen=True)
class AnnotatedImages:
    """Images by index, each with `Annotations`.

    Attributes:
        name: The string that names the source, such as `"coco:PATH"`.
        class_names: Names of the labels.
        read: Function from an index, an int64 scalar tensor, to an image, uint8 `[H, W, 3]`. It
            works inside tf.data functions. An image that cannot be read raises a
            `tf.errors.OpError` there.
        annotations: Function from an index, and the height and width of the image as `read`
            returned it, to the `Annotations` of the image.
        describe: Function from an index to a short description of the image for messages, such as
            its path.
        train: Indices of the training images, int64.
        test: Indices of the test images, int64, disjoint from `train`.
        max_boxes: An upper bound on the boxes of a training image, not counting crowds; at most
            `MAX_BOXES`.
    """

    name: str
    class_names: list[str]
    read: Callable[[tf.Tensor], tf.Tensor]
    annotations: Callable[[int, int, int], Annotations]
    describe: Callable[[int], str]
    train: np.ndarray
    test: np.ndarray
    max_boxes: int
