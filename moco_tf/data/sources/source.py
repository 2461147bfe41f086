"""What every kind of data source gives: images by index."""

import collections.abc
import dataclasses
import functools
import typing

import numpy as np

SOURCE_NAMES = "photos, folder:PATH, idx:PATH, tfrecord:GLOB or tfds:NAME"


class Later(collections.abc.Sequence):
    """A list or array that is made when it is first looked into, and then kept.

    Args:
        make: a function of no arguments that returns it, or raises.
    """

    def __init__(self, make):
        self._make = make

    @functools.cached_property
    def _value(self):
        return self._make()

    def __getitem__(self, index):
        return self._value[index]

    def __len__(self):
        return len(self._value)

    def __eq__(self, other):
        return self._value == other

    def __getattr__(self, name):
        # Of a list or an array; a question for an underscored one must not start the making.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._value, name)

    def __array__(self, dtype=None, copy=None):
        return np.array(self._value, dtype)


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
        labels: int32 `[N]`, or None. Reading them may take a pass over all records: then this is
            a `Later` of them, and -1 is the label of a record that cannot be read.
        class_names: the names that the labels index, a list or a `Later` of one, or None.
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
    labels: np.ndarray | Later | None = None
    class_names: list | Later | None = None
    channels: int = 3
    ignored: list = dataclasses.field(default_factory=list)


def evenly_spaced(indices: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` of the indices, evenly spaced over them.

    Args:
        indices: int64 `[N]`.
        count: Number of indices to return; all of them if there are fewer.

    Returns:
        int64 `[min(N, count)]`.

    Example:
        >>> evenly_spaced(np.arange(10), 3).tolist()
        [0, 3, 6]
    """
    if len(indices) <= count:
        return indices
    return indices[np.arange(count) * len(indices) // count]
