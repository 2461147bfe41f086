"""Several sources as one, such as `folder:~/photos;tfrecord:/data/shards-*`."""

import functools
import itertools
import os
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from moco_tf.data import order
from moco_tf.data.sources.indices import Blocks, join
from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError
from moco_tf.names import printable

Reader = Callable[[tf.Tensor], tf.Tensor]


def mix(name: str, parts: Sequence[Source], weights: Sequence[float] = ()) -> Source:
    """Concatenate several sources into one.

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
            values, some are named twice, or the weights do not fit the sources.

    Example:
        >>> from moco_tf.data import sources
        >>> np.save("more.npy", np.zeros([100, 32, 32], np.uint8))
        >>> parts = [sources.load("photos"), sources.load("npy:more.npy")]
        >>> mix("photos;npy:more.npy", parts, weights=(3, 1)).size
        10034
    """
    _require_same_pixels(name, parts)
    _require_distinct(name, parts)
    sizes = [len(part.pretrain) for part in parts]
    if weights:
        _require_valid(name, parts, weights)
        shares = order.shares(list(zip(sizes, weights, strict=True)))
    else:
        shares = sizes
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
        notes=tuple(
            line
            for part, share in zip(parts, shares, strict=True)
            for line in (
                f"{share / sum(shares):.1%} of the images of an epoch are from {part.name}:",
                *(f"  {line}" for line in part.summary.splitlines()),
            )
        ),
        collection_notes=tuple(
            f"  {line}" for part in parts for line in part.collection_summary.splitlines()
        ),
        list_files=lambda: (file for part in parts for file in part.list_files()),
        list_contents=lambda: [line for part in parts for line in part.list_contents()],
        mixture=tuple(zip(sizes, map(float, weights), strict=False)),
        read_file=(
            functools.partial(read_by, file_readers) if len(file_readers) == len(parts) else None
        ),
        turns=any(part.turns for part in parts),
        options={
            f"source {number}": dict(part.options)
            for number, part in enumerate(parts, start=1)
            if part.options
        },
    )


def _require_distinct(name: str, parts: Sequence[Source]) -> None:
    """Raise a `UserError` if a source is named twice, or if two sources have a file in common.

    The same image could then be for training and for testing.
    """
    if shared := shared_file(parts):
        first, second, path = shared
        if first.name.startswith("tfds:"):
            raise UserError(
                f"data source '{name}': '{second.name}' and '{first.name}' are parts of one data "
                "set, which may have images in common: name its splits in one source, such as "
                "tfds:NAME:train+test"
            )
        raise UserError(
            f"data source '{name}': '{second.name}' and '{first.name}' both have {path}: name each "
            "image once, and use config.data.weights to use some more often"
        )


def shared_file(parts: Sequence[Source]) -> tuple[Source, Source, str] | None:
    """Return two of several sources that have a file in common, and its path; None without any."""
    for first, second in itertools.combinations(parts, 2):
        if first.name == second.name:
            return first, second, "the same images"
    find = _Finder()
    counts = Counter(folder for part in parts for folder in {find(f)[0] for f in part.list_files()})
    shared = {folder for folder, count in counts.items() if count > 1}
    if not shared:  # The usual case, which keeps no names of files; there may be millions.
        return None
    part_of_file: dict[tuple[bytes, bytes], int] = {}
    for number, part in enumerate(parts):
        for file in part.list_files():
            location = find(file)
            if location[0] not in shared:
                continue
            first_number = part_of_file.setdefault(location, number)
            if first_number != number:
                return parts[first_number], part, printable(os.path.join(*location))
    return None


class _Finder:
    """Finds the folder and the name of a file in the same spelling however its path leads there.

    Only folders and symbolic links are resolved, because there may be millions of files.
    """

    def __init__(self) -> None:
        self._folders: dict[bytes, tuple[bytes, frozenset[bytes] | None]] = {}

    def __call__(self, path: bytes) -> tuple[bytes, bytes]:
        """Return the real folder of a file, and its name there.

        Args:
            path: Path of the file; one of `tf.io.gfile` is returned as it is.
        """
        folder, name = os.path.split(path)
        if folder not in self._folders:
            is_local = b"://" not in path
            real = os.path.realpath(folder) if is_local else folder
            self._folders[folder] = real, _links(real) if is_local else frozenset()
        real, links = self._folders[folder]
        may_be_link = links is None or name in links
        return os.path.split(os.path.realpath(path)) if may_be_link else (real, name)


def _links(folder: bytes) -> frozenset[bytes] | None:
    """Return the names of the links in a folder, without a query for each file.

    It is None if the folder cannot be listed, though its files may be read.
    """
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_symlink())
    except OSError:
        return None


def _require_valid(name: str, parts: Sequence[Source], weights: Sequence[float]) -> None:
    """Raise a `UserError` if weights do not fit the sources."""
    shown = f"config.data.weights={','.join(f'{weight:g}' for weight in weights)}"
    if len(weights) != len(parts):
        raise UserError(
            f"{shown} has {len(weights)} weights, but data source '{name}' consists of "
            f"{len(parts)} sources: use one weight for each source"
        )
    if min(weights) <= 0 or not np.isfinite(np.sum(weights)):
        raise UserError(f"{shown}: use finite numbers greater than 0")
    sizes = [len(part.pretrain) for part in parts]
    shares = order.shares(list(zip(sizes, weights, strict=True)))
    for part, share in zip(parts, shares, strict=True):
        if not share:
            raise UserError(
                f"{shown}: an epoch of {sum(sizes):,} images would have none of '{part.name}': use "
                "a larger weight for it, or leave it out"
            )


def _require_same_pixels(name: str, parts: Sequence[Source]) -> None:
    """Raise a `UserError` if the images differ in their channels or in their pixel values."""
    first = parts[0]
    alike = "use sources whose images are alike"
    remedies = {"value_range": "set config.data.value_range to two numbers for all sources"}
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
                    f"{phrase.format(values[1])}: {remedies.get(attribute, alike)}"
                )
