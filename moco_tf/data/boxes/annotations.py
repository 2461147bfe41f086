"""Images by index with the boxes, and where there are any the masks, of the objects in them."""

import collections.abc
import dataclasses

import numpy as np

MOST_BOXES = 100  # Boxes of an image that training looks at; COCO images have up to 93.


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The objects of one image.

    Attributes:
        boxes: float64 `[n, 4]`, left, top, right and bottom in pixels of the image, from its left
            upper corner.
        labels: int32 `[n]`, classes counted from 0.
        crowd: bool `[n]`, where a box is about a group of objects: not trained on, and a detection
            in it counts neither way, which is what COCO means by `iscrowd`.
        difficult: bool `[n]`, where an object is trained on, and a detection of it counts neither
            way: PASCAL VOC's `difficult`.
        masks: a list of n masks, each as pycocotools has it in memory ("RLE"); None where the data
            has none, or nobody asked for them.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    masks: list | None = None


@dataclasses.dataclass(frozen=True)
class AnnotatedImages:
    """Images by index, each with `Annotations`.

    Attributes:
        name: the string that names the source.
        class_names: the names of the labels, a list.
        read: an index, int64 scalar tensor, to uint8 `[H, W, 3]`, inside a tf.data function; an
            image that cannot be read is an error there.
        annotations: `(index, height, width)`, ints, the last two of the image as it was read, to
            `Annotations`.
        describe: an index, int, to the words that name the image to a person.
        train, test: int64 indices, the two disjoint parts.
        most_boxes: int, at least the boxes of a training image without those of crowds, or as many
            as training looks at.
    """

    name: str
    class_names: list
    read: collections.abc.Callable
    annotations: collections.abc.Callable
    describe: collections.abc.Callable
    train: np.ndarray
    test: np.ndarray
    most_boxes: int
