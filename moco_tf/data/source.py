"""What every kind of data source gives: images by index."""

import dataclasses
import typing

import numpy as np


@dataclasses.dataclass(frozen=True)
class Source:
    """Images by index, with labels where they have any.

    Attributes:
        name: the string that names it.
        size: int N, images in it.
        read: an index, int64 scalar tensor, to uint8 `[H, W, channels]`, inside a tf.data
            function; an image that cannot be read is an error there.
        describe: an index, int, to the words that name the image to a person.
        pretrain: int64 indices, those that pre-training sees.
        train, test: int64 indices, the two disjoint parts that evaluation works on.
        labels: int32 `[N]`, or None.
        class_names: the names that the labels index, or None.
        channels: int, of every image: 3 is RGB.
        ignored: names of files that were not taken for images.
    """

    name: str
    size: int
    read: typing.Callable
    describe: typing.Callable
    pretrain: np.ndarray
    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray | None = None
    class_names: list | None = None
    channels: int = 3
    ignored: list = dataclasses.field(default_factory=list)
