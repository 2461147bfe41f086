"""The `folder` source: image files below a folder."""

import array
import os
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from moco_tf.data.decoding import decode
from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("val", "validation", "test")

# The first two levels of folders that an image is in, with None for a level that it lacks.
Group = tuple[str | None, str | None]


def load(name: str, folder: str) -> Source:
    """Open the image files below a folder, in the order of their paths.

    The first level of subfolders names the classes if every image is in one of them and there are
    at least two. An evaluation holds out a fifth of the images, chosen by a checksum of the path
    below the folder, so a new file does not move other images.

    If the first level consists of a folder for training (`train` or `training`) and one for testing
    (`val`, `validation` or `test`; the first of these that exists) and nothing else, as is usual
    for ImageNet, pre-training and the training of an evaluation use the images of the former, and
    its test uses those of the latter. The second level then names the classes, if every one of
    these images is in a subfolder and there are at least two for training.

    Args:
        name: The string that names the source.
        folder: Local path, or one that `tf.io.gfile` supports.

    Returns:
        The source. It keeps the path, the label and the index of every file, but no Python object:
        1.3 million files take 75 MB.

    Raises:
        UserError: If the folder does not exist, cannot be listed or has no image, or a class for
            testing has no images for training.
    """
    if not tf.io.gfile.isdir(folder):
        raise UserError(f"data source '{name}': there is no folder '{folder}'")
    # Compact arrays, because there may be millions of files.
    paths = _PathList()
    is_held_out = bytearray()
    group_numbers = array.array("i")
    groups: dict[Group, int] = {}
    ignored = []
    for path in _walk(name, folder):
        encoded_path = os.fsencode(path)
        # A file without a suffix may be an image, which decoding will show.
        if os.path.splitext(path)[1].lower() not in (*IMAGE_SUFFIXES, ""):
            ignored.append(_printable(folder, encoded_path))
            continue
        paths.append(encoded_path)
        is_held_out.append(zlib.crc32(encoded_path) % 5 == 0)
        first, second, *_ = [*path.split("/")[:-1], None, None]
        group_numbers.append(groups.setdefault((first, second), len(groups)))
    if not groups:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        raise UserError(
            f"data source '{name}': there is no image file ({suffixes}) in '{folder}' or below it"
        )

    group_of_image = np.asarray(group_numbers)
    test_folder = _test_folder(groups)
    if test_folder is None:
        is_pretrain = np.ones(len(paths), bool)
        is_test = np.frombuffer(is_held_out, bool)
        class_of_group = {group: group[0] for group in groups}
    else:
        is_pretrain = np.array([first in TRAIN_FOLDERS for first, _ in groups])[group_of_image]
        is_test = np.array([first == test_folder for first, _ in groups])[group_of_image]
        class_of_group = {
            (first, second): second
            for first, second in groups
            if first in (*TRAIN_FOLDERS, test_folder)
        }
        _require_training_images(name, folder, class_of_group)

    def path_at(index: int) -> bytes:
        return paths[index]

    def read(index: tf.Tensor) -> tf.Tensor:
        # The paths stay in Python, because tf.data makes several copies of captured tensors.
        path = tf.ensure_shape(tf.numpy_function(path_at, [index], tf.string), [])
        return decode(tf.io.read_file(tf.strings.join([os.path.join(folder, ""), path])))

    load_labels = None
    class_names = _class_names(class_of_group.values())
    if class_names is not None:
        label_of_class: dict[str | None, int] = {
            class_name: label for label, class_name in enumerate(class_names)
        }
        label_of_group = [label_of_class.get(class_of_group.get(group), -1) for group in groups]
        labels = np.array(label_of_group, np.int32)[group_of_image]

        def load_labels() -> tuple[np.ndarray, list[str]]:
            return labels, class_names

    return Source(
        name=name,
        size=len(paths),
        read=read,
        describe=lambda index: _printable(folder, paths[index]),
        pretrain=np.flatnonzero(is_pretrain),
        train=np.flatnonzero(is_pretrain & ~is_test),
        test=np.flatnonzero(is_test),
        load_labels=load_labels,
        ignored=ignored,
    )


class _PathList:
    """Encoded paths, stored end to end.

    A list of as many Python objects would take several times the memory.
    """

    def __init__(self) -> None:
        self._contents = bytearray()
        self._ends = array.array("q", [0])

    def append(self, path: bytes) -> None:
        self._contents += path
        self._ends.append(len(self._contents))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        return bytes(self._contents[self._ends[index] : self._ends[index + 1]])


def _test_folder(groups: Iterable[Group]) -> str | None:
    """Return the folder for testing; None if the first level has no folders for both purposes."""
    first_level = {first for first, _ in groups}
    if not first_level <= {*TRAIN_FOLDERS, *TEST_FOLDERS} or first_level.isdisjoint(TRAIN_FOLDERS):
        return None
    return next((folder for folder in TEST_FOLDERS if folder in first_level), None)


def _require_training_images(
    name: str, folder: str, class_of_group: dict[Group, str | None]
) -> None:
    """Raise a `UserError` if a class for testing has no images for training."""
    classes = [class_name for class_name in class_of_group.values() if class_name is not None]
    if len(classes) < len(class_of_group):  # The images have no labels.
        return
    train_classes = {second for first, second in class_of_group if first in TRAIN_FOLDERS}
    missing = sorted({*classes} - train_classes)
    if missing:
        raise UserError(
            f"data source '{name}': '{folder}' holds images of '{missing[0]}' for testing but none "
            "for training: give both the same class folders"
        )


def _class_names(classes: Iterable[str | None]) -> list[str] | None:
    """Return the distinct classes in order; None if there is only one, or an image has none."""
    class_names = [class_name for class_name in {*classes} if class_name is not None]
    return sorted(class_names) if len(class_names) == len({*classes}) > 1 else None


def _walk(name: str, folder: str, below: str = "") -> Iterator[str]:
    """Yield the paths below a folder of all files that are not hidden, in order."""
    directory = os.path.join(folder, below)
    try:
        entries = sorted(_entries(directory))
    except (tf.errors.OpError, OSError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", "")
        raise UserError(
            f"data source '{name}': '{directory}' cannot be listed ({reason}): make it readable, "
            "or remove it"
        ) from error
    for entry in entries:
        if entry.startswith("."):
            continue
        if entry.endswith("/"):
            yield from _walk(name, folder, below + entry)
        else:
            yield below + entry


def _entries(directory: str) -> list[str]:
    """Return the names in a directory. Those of folders end in a slash, to sort by whole paths."""
    if "://" not in directory:
        # tf.io.gfile queries every file, which takes four times as long for a million of them.
        with os.scandir(directory) as entries:
            return [entry.name + "/" * entry.is_dir() for entry in entries]
    names = []
    for name in tf.io.gfile.listdir(directory):
        is_folder = name.endswith("/") or tf.io.gfile.isdir(os.path.join(directory, name))
        names.append(name.rstrip("/") + "/" * is_folder)
    return names


def _printable(folder: str, path: bytes) -> str:
    """Return a path for messages; bytes that are not UTF-8 are written as escapes."""
    return os.path.join(folder, path.decode(errors="backslashreplace"))
