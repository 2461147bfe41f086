"""Images by index, with the boxes and, if there are any, the masks of their objects."""

import collections
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


@dataclasses.dataclass
class Tally:
    """What was left out of a source, or changed.

    Attributes:
        skipped: Numbers of annotations and images that were left out, by what they are, such as
            "annotations without an area".
        clipped: Number of boxes that exceeded their image by more than a pixel. All boxes are
            clipped to their image.
        first_fault: Description of the first annotation or image that is invalid; empty if there is
            none, or if such a fault is an error.
    """

    skipped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    clipped: int = 0
    first_fault: str = ""

    def __bool__(self) -> bool:
        """Whether anything was left out or changed."""
        return bool(self.skipped or self.clipped)

    def __str__(self) -> str:
        """Return the numbers in one line; empty if there are none."""
        parts = []
        if self.skipped:
            counts = ", ".join(f"{what} ({count})" for what, count in self.skipped.items())
            parts.append(f"skipped {counts}")
        if self.clipped:
            parts.append(f"clipped boxes to their images ({self.clipped})")
        if self.first_fault:
            parts.append(f"the first fault is in {self.first_fault}")
        return "; ".join(parts)


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
        tally: What was left out or changed. A source that reads its annotations with the images
            counts those that were read so far.
        unreadable_train: Names of the training images that were left out because they cannot be
            read, or have another size than their annotations, by their indices; see
            `moco_tf.data.boxes.readable.readable_only`.
        unreadable_test: The same of the test images.
        checksum: Checksum of the names of the images, the classes and the annotations; "" for a
            source that reads its annotations with the images.
    """

    name: str
    class_names: list[str]
    read: Callable[[tf.Tensor], tf.Tensor]
    annotations: Callable[[int, int, int], Annotations]
    describe: Callable[[int], str]
    train: np.ndarray
    test: np.ndarray
    max_boxes: int
    tally: Tally = dataclasses.field(default_factory=Tally)
    unreadable_train: dict[int, str] = dataclasses.field(default_factory=dict)
    unreadable_test: dict[int, str] = dataclasses.field(default_factory=dict)
    checksum: str = ""
