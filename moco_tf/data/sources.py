"""Where images come from: one string names a source, and every image in it has a stable index."""

import dataclasses
import os
import typing
import zlib

import numpy as np
import tensorflow as tf

from moco_tf.data import idx, photos
from moco_tf.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class Source:
    """Images by index, with labels where they have any.

    Attributes:
        name: the string that names it.
        size: int N, images in it.
        read: an index, int64 scalar tensor, to uint8 `[H, W, 3]`, inside a tf.data function; an
            image that cannot be read is an error there.
        describe: an index, int, to the words that name the image to a person.
        pretrain: int64 indices, those that pre-training sees.
        train, test: int64 indices, the two disjoint parts that evaluation works on.
        labels: int32 `[N]`, or None.
        class_names: the names that the labels index, or None.
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
    ignored: list = dataclasses.field(default_factory=list)


def load(name):
    """Opens a source.

    Args:
        name: "photos"; "folder:PATH", of JPEG and PNG files; or "idx:PATH", a folder of files as
            MNIST's and Fashion-MNIST's.

    Returns:
        A `Source`.

    Raises:
        UserError: no such kind of source, or nothing that can be read there.
    """
    kind, _, place = name.partition(":")
    if name == "photos":
        return _photos()
    if kind == "folder" and place:
        return _folder(name, place)
    if kind == "idx" and place:
        return _idx(name, place)
    raise UserError(f"data source '{name}' is unknown: give photos, folder:PATH or idx:PATH")


def _photos():
    patches = photos.load()
    images = tf.constant(patches.images)  # an eager tensor: captured, not copied into the graph
    return Source(
        name="photos",
        size=len(patches.images),
        read=lambda index: tf.repeat(images[index], 3, axis=-1),
        describe=lambda index: (
            f"{patches.class_names[patches.labels[index]]} at {tuple(patches.corners[index])}"
        ),
        pretrain=patches.train,
        train=patches.train,
        test=patches.test,
        labels=patches.labels,
        class_names=patches.class_names,
    )


def _folder(name, folder):
    """Every JPEG and PNG file below a folder, in the order of their paths.

    The first level of subfolders names the classes, where all images lie in two or more of them.
    Evaluation holds out a fifth of the images, chosen by a checksum of the path below the folder,
    so that a new file does not move the others.
    """
    if not tf.io.gfile.isdir(folder):
        raise UserError(f"data source '{name}': there is no folder '{folder}'")
    below, ignored = [], []  # paths below the folder
    for parent, _, names in tf.io.gfile.walk(folder):
        for file in names:
            path = os.path.relpath(os.path.join(parent, file), folder)
            if path.startswith(".") or f"{os.sep}." in path:
                continue  # hidden, or in a hidden folder
            # A file without a suffix may be an image; decoding it will tell.
            is_image = os.path.splitext(file)[1].lower() in (*IMAGE_SUFFIXES, "")
            (below if is_image else ignored).append(path)
    if not below:
        raise UserError(f"data source '{name}': no JPEG or PNG file in '{folder}' or below it")
    below.sort()
    files = [os.path.join(folder, path) for path in below]
    paths = tf.constant(files)

    classes = [path.split(os.sep)[0] if os.sep in path else None for path in below]
    class_names = sorted(set(classes) - {None})
    labelled = None not in classes and len(class_names) > 1
    indices = np.arange(len(files), dtype=np.int64)
    held_out = np.array([zlib.crc32(path.encode()) % 5 == 0 for path in below])
    return Source(
        name=name,
        size=len(files),
        read=lambda index: _decode(tf.io.read_file(paths[index])),
        describe=lambda index: files[index],
        pretrain=indices,
        train=indices[~held_out],
        test=indices[held_out],
        labels=np.array([class_names.index(c) for c in classes], np.int32) if labelled else None,
        class_names=class_names if labelled else None,
        ignored=sorted(os.path.join(folder, path) for path in ignored),
    )


def _idx(name, folder):
    """Training images first, then those for testing, which the files keep apart already."""
    train, test = idx.load(folder)
    parts = [train, test] if test else [train]
    if len({part.images.shape[1:] for part in parts}) > 1:
        raise UserError(f"data source '{name}': its training and test images differ in size")
    images = tf.constant(np.concatenate([part.images for part in parts]))
    labels = None
    if all(part.labels is not None for part in parts):
        labels = np.concatenate([part.labels for part in parts])
    first_test, size = len(train.images), len(images)

    def read(index):
        image = images[index]
        return image if images.shape.rank == 4 else tf.repeat(image[..., tf.newaxis], 3, axis=-1)

    def describe(index):
        if index < first_test:
            return f"training image {index} of {folder}"
        return f"test image {index - first_test} of {folder}"

    return Source(
        name=name,
        size=size,
        read=read,
        describe=describe,
        pretrain=np.arange(first_test),
        train=np.arange(first_test),
        test=np.arange(first_test, size),
        labels=labels,
        class_names=None if labels is None else [str(label) for label in range(labels.max() + 1)],
    )


def _decode(contents):
    """An image file's bytes to uint8 `[H, W, 3]`, whatever the file is called.

    Of PNG and what else TensorFlow reads (BMP, GIF, WebP), it takes the first picture.
    """

    def jpeg():
        # The fast integer DCT differs by a grey level or so and saves a third of the decoding.
        return tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_FAST")

    def other():
        image = tf.io.decode_image(contents, channels=3, expand_animations=False)
        return tf.ensure_shape(image, [None, None, 3])

    return tf.cond(tf.io.is_jpeg(contents), jpeg, other)
