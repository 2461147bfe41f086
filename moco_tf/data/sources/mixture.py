"""Several sources as one, such as `folder:~/photos;tfrecord:/data/shards-*`."""

import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from moco_tf.data.sources.indices import Blocks, join
from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError

Reader = Callable[[tf.Tensor], tf.Tensor]


def mix(name: str, parts: Sequence[Source], weights: Sequence[float] = ()) -> Source:
    """Return the images of several sources as one source, one source after the other.

    Classes of the same name are one class. If any of the sources has labels, an evaluation uses
    those with labels only.

    Args:
        name: The string that names the source.
        parts: The sources, at least two.
        weights: Relative frequency of the images of each source in pre-training, greater than 0. If
            there are none, every image of an epoch is as frequent as any other.

    Returns:
        The source.

    Raises:
        UserError: If the images differ in their channels or in the type or range of their pixel
            values, or there are not as many weights as sources.

    Example:
        >>> from moco_tf.data import sources
        >>> photos = sources.load("photos")
        >>> twice = mix("photos;photos", [photos, photos], weights=(3, 1))
        >>> twice.size == 2 * photos.size, twice.class_names == photos.class_names
        (True, True)
    """
    _require_same_pixels(name, parts)
    if weights and len(weights) != len(parts):
        raise UserError(
            f"config.data.weights={tuple(weights)} has {len(weights)} weights, but data source "
            f"'{name}' consists of {len(parts)} sources: use one weight for each source"
        )
    firsts = [0, *itertools.accumulate(part.size for part in parts)]
    labeled = [part.has_labels for part in parts]
    evaluated = labeled if any(labeled) else [True] * len(parts)

    def locate(index: int) -> tuple[Source, int]:
        number = int(np.searchsorted(firsts, index, side="right")) - 1
        return parts[number], index - firsts[number]

    def read_by(readers: Sequence[Reader], index: tf.Tensor) -> tf.Tensor:
        number = tf.searchsorted(tf.constant(firsts, tf.int64), index[tf.newaxis], "right")[0] - 1
        return tf.switch_case(
            number,
            [
                lambda reader=reader, first=first: reader(index - first)
                for reader, first in zip(readers, firsts, strict=False)
            ],
        )

    def read(index: tf.Tensor) -> tf.Tensor:
        image = read_by([part.read for part in parts], index)
        return tf.ensure_shape(image, [None, None, parts[0].channels])

    file_readers = [part.read_file for part in parts if part.read_file is not None]

    def describe(index: int) -> str:
        part, own_index = locate(index)
        return part.describe(own_index)

    def load_labels() -> tuple[np.ndarray, list[str]]:
        names = list(dict.fromkeys(name for part in parts for name in part.class_names or []))
        numbers = {class_name: number for number, class_name in enumerate(names)}
        labels = np.full(firsts[-1], -1, np.int32)
        for part, first in zip(parts, firsts, strict=False):
            if part.labels is not None and part.class_names is not None:
                # One more entry, which the label -1 of an image without a label refers to.
                merged = np.array([*(numbers[name] for name in part.class_names), -1], np.int32)
                labels[first : first + part.size] = merged[part.labels]
        return labels, names

    def joined(attribute: str, used: Sequence[bool]) -> Blocks:
        indices = [
            (first, getattr(part, attribute))
            for part, first, is_used in zip(parts, firsts, used, strict=False)
            if is_used
        ]
        return join(indices)

    return Source(
        name=name,
        size=firsts[-1],
        read=read,
        describe=describe,
        pretrain=joined("pretrain", [True] * len(parts)),
        train=joined("train", evaluated),
        test=joined("test", evaluated),
        load_labels=load_labels if any(labeled) else None,
        channels=parts[0].channels,
        dtype=parts[0].dtype,
        value_range=parts[0].value_range,
        ignored=[path for part in parts for path in part.ignored],
        no_labels="" if any(labeled) else parts[0].no_labels,
        found=f"from {len(parts)} sources",
        notes=tuple(f"  {line}" for part in parts for line in part.summary.splitlines()),
        list_contents=lambda: [line for part in parts for line in part.list_contents()],
        mixture=tuple(
            (len(part.pretrain), float(weight))
            for part, weight in zip(parts, weights, strict=False)
        ),
        read_file=(
            functools.partial(read_by, file_readers) if len(file_readers) == len(parts) else None
        ),
        options={
            f"source {number}": dict(part.options)
            for number, part in enumerate(parts, start=1)
            if part.options
        },
    )


def _require_same_pixels(name: str, parts: Sequence[Source]) -> None:
    """Raise a `UserError` if the images differ in their channels or in their pixel values."""
    first = parts[0]
    for part in parts:
        for attribute, phrase in (
            ("channels", "have {} channels"),
            ("dtype", "have pixels of the type {}"),
            ("value_range", "have pixel values in the range {}"),
        ):
            values = getattr(first, attribute), getattr(part, attribute)
            if values[0] != values[1]:
                raise UserError(
                    f"data source '{name}': the images of '{first.name}' "
                    f"{phrase.format(values[0])}, but those of '{part.name}' "
                    f"{phrase.format(values[1])}: use sources whose images are alike"
                )
