"""A folder of image files."""

import array
import os
import zlib

import numpy as np
import tensorflow as tf

from moco_tf.data.decoding import decode
from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("val", "validation", "test")


def load(name, folder):
    """Every image file below a folder, in the order of their paths.

    The first level of subfolders names the classes, where all images lie in two or more of them.
    Evaluation holds out a fifth of the images, chosen by a checksum of the path below the folder,
    so that a new file does not move the others.

    Where the first level is a folder for training (`train` or `training`) and one for testing
    (`val`, `validation` or `test`, the first of these that is there) and nothing else, as ImageNet
    lies on disks, pre-training and evaluation's training see the images of the one, and testing
    those of the other. The second level names the classes, where all of these images lie in
    subfolders, those for training in two or more.

    Args:
        name: str, the source as it was asked for.
        folder: str, local or a `tf.io.gfile` path.

    Returns:
        A `Source`. Of each file it keeps the path, the label and the index, and no Python object:
        1.3 million take 75 MB.

    Raises:
        UserError: no such folder, one that cannot be listed, no image in it, or a class for testing
            that is not among those for training.
    """
    if not tf.io.gfile.isdir(folder):
        raise UserError(f"data source '{name}': there is no folder '{folder}'")
    # Not a Python object for each of what may be millions.
    paths, ends = bytearray(), array.array("q", [0])  # below the folder, end to end
    held_out, groups, numbers = bytearray(), array.array("i"), {}
    ignored = []
    for path in walk(name, folder):
        encoded = os.fsencode(path)
        # A file without a suffix may be an image; decoding it will tell.
        if os.path.splitext(path)[1].lower() not in (*IMAGE_SUFFIXES, ""):
            ignored.append(_words(folder, encoded))
            continue
        paths += encoded
        ends.append(len(paths))
        held_out.append(zlib.crc32(encoded) % 5 == 0)
        first, second, *_ = [*path.split("/")[:-1], None, None]
        groups.append(numbers.setdefault((first, second), len(numbers)))
    if not groups:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise UserError(f"data source '{name}': no image file ({kinds}) in '{folder}' or below it")

    groups, held_out = np.asarray(groups), np.frombuffer(held_out, bool)
    pretrain = np.ones(len(groups), bool)
    firsts = {first for first, _ in numbers}
    if firsts <= {*TRAIN_NAMES, *TEST_NAMES} and firsts & {*TRAIN_NAMES} and firsts & {*TEST_NAMES}:
        testing = next(first for first in TEST_NAMES if first in firsts)
        pretrain = np.array([first in TRAIN_NAMES for first, _ in numbers])[groups]
        held_out = np.array([first == testing for first, _ in numbers])[groups]
        classes = {key: key[1] for key in numbers if key[0] in (*TRAIN_NAMES, testing)}
        known = {second for first, second in numbers if first in TRAIN_NAMES}
        if None not in classes.values() and (unknown := sorted({*classes.values()} - known)):
            raise UserError(
                f"data source '{name}': '{folder}' holds images of '{unknown[0]}' for testing and "
                "none for training: give both the same class folders"
            )
    else:
        classes = {key: key[0] for key in numbers}
    class_names, labels = None, None
    if None not in classes.values() and len({*classes.values()}) > 1:
        class_names = sorted({*classes.values()})
        label = {class_name: number for number, class_name in enumerate(class_names)}
        labels = np.array([label.get(classes.get(key), -1) for key in numbers], np.int32)[groups]

    def path_at(index):
        return bytes(paths[ends[index] : ends[index + 1]])

    def read(index):
        # From Python: tf.data copies several times what its functions have captured.
        path = tf.ensure_shape(tf.numpy_function(path_at, [index], tf.string), [])
        return decode(tf.io.read_file(tf.strings.join([os.path.join(folder, ""), path])))

    return Source(
        name=name,
        size=len(groups),
        read=read,
        describe=lambda index: _words(folder, path_at(index)),
        pretrain=np.flatnonzero(pretrain),
        train=np.flatnonzero(pretrain & ~held_out),
        test=np.flatnonzero(held_out),
        labels=labels,
        class_names=class_names,
        ignored=ignored,
    )


def walk(name, folder, below=""):
    """The paths below a folder of all files that are not hidden, in their order."""
    place = os.path.join(folder, below)
    try:
        entries = sorted(_entries(place))
    except (tf.errors.OpError, OSError) as error:
        reason = getattr(error, "strerror", None) or error.message
        raise UserError(
            f"data source '{name}': '{place}' cannot be listed ({reason}): allow reading it, or "
            "take it out"
        ) from error
    for entry in entries:
        if entry.startswith("."):
            continue
        if entry.endswith("/"):
            yield from walk(name, folder, below + entry)
        else:
            yield below + entry


def _entries(folder):
    """What a folder holds; the names of folders end in a slash, as sorting whole paths needs."""
    if "://" not in folder:
        # tf.io.gfile asks the disk about every file: four times as long for a million of them.
        with os.scandir(folder) as entries:
            return [entry.name + "/" * entry.is_dir() for entry in entries]
    names = tf.io.gfile.listdir(folder)
    is_folder = [
        name.endswith("/") or tf.io.gfile.isdir(os.path.join(folder, name)) for name in names
    ]
    return [name.rstrip("/") + "/" * d for name, d in zip(names, is_folder, strict=True)]


def _words(folder, path):
    """A path for people; bytes that are no text are written as such."""
    return os.path.join(folder, path.decode(errors="backslashreplace"))
