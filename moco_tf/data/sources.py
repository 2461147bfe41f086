"""Where images come from: one string names a source, and every image in it has a stable index."""

import numpy as np
import tensorflow as tf

from moco_tf.data import folder, idx, photos
from moco_tf.data.source import Source
from moco_tf.errors import UserError


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
        return folder.load(name, place)
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


def _idx(name, place):
    """Training images first, then those for testing, which the files keep apart already."""
    train, test = idx.load(place)
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
            return f"training image {index} of {place}"
        return f"test image {index - first_test} of {place}"

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
