"""Where images come from: one string names a source, and every image in it has a stable index."""

import numpy as np
import tensorflow as tf

from moco_tf.data import folder, idx, photos, tfds, tfrecord
from moco_tf.data.source import KINDS, Source
from moco_tf.errors import UserError


def load(name, image_feature="image/encoded", label_feature="image/class/label", tfds_dir=""):
    """Opens a source.

    Args:
        name: "photos"; "folder:PATH", of JPEG, PNG, GIF, BMP and WebP files; "idx:PATH", a folder
            of files as MNIST's and Fashion-MNIST's; "tfrecord:GLOB", a pattern of TFRecord
            files; or "tfds:NAME[/CONFIG][:VERSION][:SPLIT]", a data set of tensorflow-datasets.
        image_feature: the feature of a `tfrecord` record that holds the bytes of its image.
        label_feature: the feature that holds its label; "" for no labels.
        tfds_dir: the directory of tensorflow-datasets; "" for its own default.

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
    if kind == "tfrecord" and place:
        return tfrecord.load(name, place, image_feature, label_feature)
    if kind == "tfds" and place:
        return tfds.load(name, place, tfds_dir)
    raise UserError(f"data source '{name}' is unknown: give {KINDS}")


def options(data):
    """What `load` takes beside the name, as a dict, of `config.data`."""
    return {key: data[key] for key in ("image_feature", "label_feature", "tfds_dir")}


def _photos():
    patches = photos.load()
    images = tf.constant(patches.images)  # an eager tensor: captured, not copied into the graph
    return Source(
        name="photos",
        size=len(patches.images),
        read=lambda index: tf.repeat(images[index], 3, axis=-1),
        describe=lambda index: (
            f"{patches.class_names[patches.labels[index]]} at "
            f"{tuple(patches.corners[index].tolist())}"
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
