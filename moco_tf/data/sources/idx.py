"""IDX files, the format of MNIST and its relatives, gzipped or not."""

import dataclasses
import gzip
import math
import re
import zlib

import numpy as np
import tensorflow as tf

from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError

UNSIGNED_BYTES = 0x08  # the format's code; images and labels of the whole family are bytes


@dataclasses.dataclass(frozen=True)
class Part:
    """`images`, uint8 `[N, H, W]` or `[N, H, W, 3]`, of one file, and their `labels`, int32 `[N]`,
    or None."""

    images: np.ndarray
    labels: np.ndarray | None


def load_parts(folder):
    """Reads the training and the test images of a folder.

    Args:
        folder: str, which holds `train-images-idx3-ubyte`, or a name that ends so, with `.gz` or
            without, and as it may be `train-labels-idx1-ubyte`, and `t10k-` or `test-` beside them.

    Returns:
        The training `Part`, and the test `Part` or None.

    Raises:
        UserError: no training images there, or a file that is not whole.
    """
    if not tf.io.gfile.isdir(folder):
        raise UserError(f"data source 'idx:{folder}': there is no folder '{folder}'")
    names = sorted(tf.io.gfile.listdir(folder))

    def part(which):
        images = _find(folder, names, rf"(.*-)?({which})-images-idx\d-ubyte(\.gz)?")
        if images is None:
            return None
        labels = _find(folder, names, rf"(.*-)?({which})-labels-idx1-ubyte(\.gz)?")
        part = Part(read(images), labels and read(labels).astype(np.int32))
        if part.images.ndim < 3:
            raise UserError(f"{images} holds no images: its items have one dimension")
        if labels and len(part.labels) != len(part.images):
            raise UserError(
                f"{labels} holds {len(part.labels)} labels for {len(part.images)} images"
            )
        return part

    train = part("train")
    if train is None:
        raise UserError(
            f"data source 'idx:{folder}': there is no train-images-idx3-ubyte or .gz in it"
        )
    return train, part("t10k|test")


def read(path):
    """The array in an IDX file of bytes.

    Raises:
        UserError: it is not one, or not whole.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            contents = file.read()
        if path.endswith(".gz"):
            contents = gzip.decompress(contents)
    except (tf.errors.OpError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if len(contents) < 4 or contents[:2] != b"\0\0" or contents[2] != UNSIGNED_BYTES:
        raise UserError(f"{path} is not an IDX file of bytes: it begins with {contents[:4].hex()}")
    start = 4 + 4 * contents[3]
    shape = [int.from_bytes(contents[i : i + 4], "big") for i in range(4, start, 4)]
    length = start + math.prod(shape)
    if len(contents) != length:
        raise UserError(f"{path} is not whole: {len(contents)} bytes where {length} belong")
    return np.frombuffer(contents, np.uint8, offset=start).reshape(shape)


def _find(folder, names, pattern):
    """The first file of the folder whose name is of the pattern, or None."""
    for name in names:
        if re.fullmatch(pattern, name):
            return f"{folder.rstrip('/')}/{name}"
    return None


def load(name, place):
    """Training images first, then those for testing, which the files keep apart already."""
    train, test = load_parts(place)
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
