"""Sources in which each image may have a label: their classes, and which images are for what."""

import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from moco_tf.data.sources.indices import Indices
from moco_tf.data.sources.source import Source
from moco_tf.data.sources.walk import listed
from moco_tf.names import printable

MAX_CLASSES = 5  # Maximum number of classes that the summary lists.
INTEGER = re.compile(r"0|-?[1-9]\d*")


def make_source(
    name: str,
    read: Callable[[tf.Tensor], tf.Tensor],
    describe: Callable[[int], str],
    list_contents: Callable[[], list[bytes]],
    list_files: Callable[[], Iterable[bytes]],
    labels: Sequence[str],
    label_of_image: np.ndarray,
    split: tuple[Indices, Indices, Indices, tuple[str, str, str]],
    no_labels: str,
    labels_file: str,
    channels: int = 3,
    notes: Sequence[str] = (),
    read_file: Callable[[tf.Tensor], tf.Tensor] | None = None,
    turns: bool = False,
    label_names: Mapping[int, str] | None = None,
    dtype: str = "uint8",
) -> Source:
    """Return the source of images that may each have a label.

    An evaluation uses only images with a label, unless there are no labels at all.

    Args:
        name: The string that names the source.
        read: As in `Source`.
        describe: As in `Source`.
        list_contents: As in `Source`, for the images. The labels are added to it.
        list_files: As in `Source`.
        labels: The distinct labels. Integers are the classes in ascending order, and negative ones
            mean that there is no label, as an empty text does. If one of the labels is not an
            integer, the classes are in alphabetical order.
        label_of_image: int `[N]`, an index into `labels` for each image, or -1.
        split: Indices of the images for pre-training, and for training and testing in an
            evaluation, and the names of these three parts; see `by_holding_out`.
        no_labels: Why there are no labels, as a phrase, for the case that no image has one.
        labels_file: Name of the file that the labels are read from.
        channels: Number of channels of the images.
        notes: As in `Source`, further ones.
        read_file: As in `Source`.
        turns: As in `Source`.
        label_names: Names of the classes whose labels are these integers. Others are named by their
            labels.
        dtype: As in `Source`.

    Returns:
        The source.
    """
    class_names, values = _classes(labels, label_of_image, label_names or {})
    pretrain, train, test, part_names = split
    if len(class_names) == 1:
        no_labels = f"there is only one class, {class_names[0]}"
    has_labels = len(class_names) > 1
    unlabeled = 0
    if has_labels:
        # The indices of many images are not stored unless there are labels, which are.
        train, test = (part[:][values[part[:]] >= 0] for part in (train, test))
        unlabeled = int((values < 0).sum())
    images = "image without a label is" if unlabeled == 1 else "images without a label are"
    lack = "image has" if unlabeled == 1 else "images have"
    return Source(
        name=name,
        size=len(values),
        read=read,
        describe=describe,
        pretrain=pretrain,
        train=train,
        test=test,
        load_labels=(lambda: (values, class_names)) if has_labels else None,
        channels=channels,
        no_labels="" if has_labels else no_labels,
        part_names=part_names,
        found=classes_found(class_names) if has_labels else "",
        notes=(*notes, *([f"{unlabeled:,} {images} for pre-training only"] if unlabeled else [])),
        collection_notes=(*notes, *([f"{unlabeled:,} {lack} no label"] if unlabeled else [])),
        list_contents=lambda: [*list_contents(), *_contents(class_names, values, labels_file)],
        list_files=list_files,
        read_file=read_file,
        turns=turns,
        dtype=dtype,
    )


def by_holding_out(
    held_out: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, str, str]]:
    """Return the split in which pre-training uses all images, and an evaluation holds some out.

    Args:
        held_out: bool `[N]`, whether an image is for testing in an evaluation.
    """
    indices = np.arange(len(held_out))
    return indices, indices[~held_out], indices[held_out], ("", "", "")


def _contents(class_names: Sequence[str], values: np.ndarray, labels_file: str) -> list[bytes]:
    """Return a line with the checksum of the labels; none if there are no labels."""
    if not class_names:
        return []
    checksum = zlib.crc32(values.data, zlib.crc32("\0".join(class_names).encode()))
    return [os.fsencode(f"labels in {labels_file} with the checksum {checksum:08x}")]


def classes_found(class_names: Sequence[str]) -> str:
    """Return a phrase for the summary of a source.

    Args:
        class_names: Printable names of the classes.

    Example:
        >>> classes_found(["cat", "dog"])
        'in 2 classes: cat, dog'
    """
    names = listed([name[:40] for name in class_names], limit=MAX_CLASSES)
    return f"in {len(class_names):,} classes: {names}"


def _classes(
    labels: Sequence[str], label_of_image: np.ndarray, label_names: Mapping[int, str]
) -> tuple[list[str], np.ndarray]:
    """Return the names of the classes, and the class of each image, int32 `[N]`, or -1."""
    given = [label for label in labels if label]
    if all(INTEGER.fullmatch(label) for label in given):
        classes = sorted({int(label) for label in given if int(label) >= 0})
        positions = {number: position for position, number in enumerate(classes)}
        number_of = {label: positions.get(int(label), -1) for label in given}
        class_names = [label_names.get(number, str(number)) for number in classes]
    else:
        class_names = sorted(given)
        number_of = {label: number for number, label in enumerate(class_names)}
    # One more entry, which the index -1 of an image without a label refers to.
    numbers = np.array([*(number_of.get(label, -1) for label in labels), -1], np.int32)
    return [printable(name) for name in class_names], numbers[label_of_image]
