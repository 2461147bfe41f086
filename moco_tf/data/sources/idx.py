"""The `idx` source: IDX files, the format of MNIST and Fashion-MNIST, gzipped or not."""

import dataclasses
import gzip
import math
import os
import re
import zlib
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError
from moco_tf.files import error_reason
from moco_tf.names import printable
from moco_tf.paths import absolute

# The format's code of unsigned bytes, the type of all images and labels of the MNIST family.
UNSIGNED_BYTES = 0x08
MAX_DIMENSIONS = 4  # Number, height, width and channels.
MAX_COMPRESSION = 1032  # Deflate, the method of gzip, expands one byte to no more than these.
CHUNK = 2**24  # Number of bytes to read at a time.


@dataclasses.dataclass(frozen=True)
class Part:
    """The training or the test images of a folder.

    Attributes:
        images: uint8 `[N, H, W]` or `[N, H, W, 3]`.
        labels: int32 `[N]`; None if there is no file of labels.
    """

    images: np.ndarray
    labels: np.ndarray | None


def load(name: str, folder: str) -> Source:
    """Open a folder of IDX files: first the training images, then the test images.

    Args:
        name: The string that names the source.
        folder: Folder with the files that `load_parts` reads.

    Returns:
        The source. Pre-training uses the training images only. Grayscale images are repeated to
        three channels.

    Raises:
        UserError: As `load_parts`, or if training and test images differ in size.
    """
    train, test = load_parts(folder)
    parts = [train] if test is None else [train, test]
    if len({part.images.shape[1:] for part in parts}) > 1:
        sizes = " and ".join(str(part.images.shape[1:]) for part in parts)
        raise UserError(
            f"data source '{name}': its training and test images differ in size ({sizes}): use "
            "files of the same data set"
        )
    images = tf.constant(np.concatenate([part.images for part in parts]))
    num_train, size = len(train.images), len(images)

    def read(index: tf.Tensor) -> tf.Tensor:
        image = images[index]
        return image if image.shape.rank == 3 else tf.repeat(image[..., tf.newaxis], 3, axis=-1)

    def describe(index: int) -> str:
        if index < num_train:
            return f"training image {index} of {folder}"
        return f"test image {index - num_train} of {folder}"

    load_labels = None
    unlabeled = [
        name for name, part in zip(("training", "test"), parts, strict=False) if part.labels is None
    ]
    labels = [part.labels for part in parts if part.labels is not None]
    if not unlabeled:
        all_labels = np.concatenate(labels)
        class_names = [str(label) for label in range(all_labels.max() + 1)]

        def load_labels() -> tuple[np.ndarray, list[str]]:
            return all_labels, class_names

    return Source(
        name=name,
        size=size,
        read=read,
        describe=describe,
        pretrain=np.arange(num_train),
        train=np.arange(num_train),
        test=np.arange(num_train, size),
        load_labels=load_labels,
        no_labels=f"there is no file with the labels of the {' and '.join(unlabeled)} images"
        if unlabeled
        else "",
        list_contents=lambda: [_contents(part) for part in parts],
        # The folder stands for its files, of which a source reads all.
        list_files=lambda: [os.fsencode(absolute(folder).rstrip("/"))],
    )


def _contents(part: Part) -> bytes:
    checksum = zlib.crc32(part.images.data)
    return f"{len(part.images)} images with the checksum {checksum:08x}".encode()


def load_parts(folder: str) -> tuple[Part, Part | None]:
    """Read the training and the test images of a folder.

    The training images are in `train-images-idx3-ubyte` and their labels in
    `train-labels-idx1-ubyte`; the test images and labels have `t10k` or `test` instead of `train`.
    A name may have a prefix that ends in a hyphen, and `.gz` at its end. Only the training images
    are required.

    Args:
        folder: Path of the folder.

    Returns:
        The training images, and the test images or None.

    Raises:
        UserError: If the folder has no training images, or a file is invalid or incomplete.
    """
    if not tf.io.gfile.isdir(folder):
        raise UserError(f"data source 'idx:{folder}': there is no folder '{folder}'")
    train = _read_part(folder, "train")
    if train is None:
        raise UserError(
            f"data source 'idx:{folder}': the folder holds no train-images-idx3-ubyte, with or "
            "without .gz"
        )
    return train, _read_part(folder, "t10k|test")


def _read_part(folder: str, name_pattern: str) -> Part | None:
    image_path = _find(folder, rf"(.*-)?({name_pattern})-images-idx\d-ubyte(\.gz)?")
    if image_path is None:
        return None
    images = read(image_path)
    if not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)) or not images.size:
        raise UserError(
            f"{image_path} holds no images: its shape is {images.shape}, but images have the shape "
            "(number, height, width) or (number, height, width, 3)"
        )
    label_path = _find(folder, rf"(.*-)?({name_pattern})-labels-idx1-ubyte(\.gz)?")
    if label_path is None:
        return Part(images, labels=None)
    labels = read(label_path).astype(np.int32)
    if labels.ndim != 1:
        raise UserError(f"{label_path} holds no labels: its shape is {labels.shape}")
    if len(labels) != len(images):
        raise UserError(
            f"{label_path} holds {len(labels)} labels, but {image_path} holds {len(images)} "
            "images: use files of the same data set"
        )
    return Part(images, labels)


def _find(folder: str, pattern: str) -> str | None:
    """Return the path of the folder's file whose name matches, or None.

    Raises:
        UserError: If several match, other than a file and its `.gz`.
    """
    names = sorted(name for name in tf.io.gfile.listdir(folder) if re.fullmatch(pattern, name))
    if len({name.removesuffix(".gz") for name in names}) > 1:
        raise UserError(
            f"'{folder}' holds several data sets, with the files {printable(', '.join(names))}: "
            "move each to a folder of its own"
        )
    return f"{folder.rstrip('/')}/{names[0]}" if names else None


def read(path: str) -> np.ndarray:
    """Return the uint8 array in an IDX file of unsigned bytes.

    Args:
        path: Path of the file. If it ends in `.gz`, the file is decompressed.

    Returns:
        uint8 array of the shape in the file's header.

    Raises:
        UserError: If the file is not an IDX file of unsigned bytes, or has another length than its
            header declares.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            max_length = file.size()
            if not path.endswith(".gz"):
                return _read_array(path, file, max_length)
            with gzip.GzipFile(fileobj=file) as decompressed:
                return _read_array(path, decompressed, MAX_COMPRESSION * max_length)
    except (tf.errors.OpError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error_reason(error)}") from error
    except MemoryError as error:
        raise UserError(f"{path} is larger than the memory: use a smaller data set") from error


def _read_array(path: str, file: Any, max_length: int) -> np.ndarray:
    """Read the header of a file, and as many bytes as it declares.

    Args:
        path: Path of the file, for messages.
        file: The open file.
        max_length: Number of bytes that the file can hold, compressed or not.
    """
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] != UNSIGNED_BYTES:
        raise UserError(
            f"{path} is not an IDX file of bytes: it begins with {start.hex()} instead of 000008; "
            "use a file of MNIST's format"
        )
    header_length = 4 + 4 * start[3]
    sides = file.read(4 * start[3])
    shape = [int.from_bytes(sides[i : i + 4], "big") for i in range(0, len(sides), 4)]
    total = header_length + math.prod(shape)
    declared = f"{total} bytes, the length in its header"
    if len(sides) < 4 * start[3] or total > max_length:
        raise UserError(f"{path} is incomplete: it holds less than {declared}; copy the file again")
    # No more than is needed to notice that the file is longer: a small file can decompress to
    # terabytes.
    contents = bytearray()
    while len(contents) < total - header_length + 1:
        chunk = file.read(min(total - header_length + 1 - len(contents), CHUNK))
        if not chunk:
            break
        contents += chunk
    if len(contents) < total - header_length:
        raise UserError(
            f"{path} is incomplete: it holds {header_length + len(contents)} bytes instead of "
            f"{declared}; copy the file again"
        )
    if len(contents) > total - header_length:
        raise UserError(f"{path} is damaged: it holds more than {declared}; copy the file again")
    if len(shape) > MAX_DIMENSIONS:
        raise UserError(f"{path} holds no images: it has {len(shape)} dimensions")
    return np.frombuffer(contents, np.uint8).reshape(shape)
