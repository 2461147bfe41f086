"""The `folder` source: image files below a folder."""

import array
import os
import zlib

import numpy as np
import tensorflow as tf

from moco_tf.data.decoding import decode
from moco_tf.data.pixels import RGB, Form
from moco_tf.data.sources.image_files import ARRAY_SUFFIX, IMAGES, IMAGES_AND_ARRAYS, FileKind
from moco_tf.data.sources.labeled import classes_found
from moco_tf.data.sources.layout import Group, Layout, recognize
from moco_tf.data.sources.path_list import PathList
from moco_tf.data.sources.probe import require_fit
from moco_tf.data.sources.source import Source
from moco_tf.data.sources.unclear import LEVELS, Tree, require_clear
from moco_tf.data.sources.walk import RUN_ENTRIES, Skipped, is_run_directory, listed, walk
from moco_tf.errors import UserError
from moco_tf.names import printable
from moco_tf.paths import expand_source, names_in


def load(name: str, folder: str, form: Form = RGB, kind: FileKind = IMAGES) -> Source:
    """Open the image files below a folder, in the order of their paths.

    If the first level of subfolders has the usual names of the parts of a data set, in any case and
    spelling (`train`, `val`, `test`, `unlabeled` and others, see `layout.PART_NAMES`), pre-training
    uses the images in `train` and `unlabeled`, and an evaluation trains on those in `train` and
    tests on those in `val`, or in `test` if there is no `val`. The second level then names the
    classes, if each of these images is in a subfolder and there are at least two.

    Otherwise the first level names the classes, if every image is in a subfolder and there are at
    least two.

    If there is no part for testing, an evaluation holds out a fifth of the images, chosen by a
    checksum of the path below the folder, so a new file does not move other images.

    Args:
        name: The string that names the source.
        folder: Local path, or one that `tf.io.gfile` supports.
        form: The type and the channels of the images. Files of `numpy.save` are images unless
            these are uint8 and RGB.
        kind: The kind of files. The source of another kind than images is not read from, but has
            their parts and their labels.

    Returns:
        The source. It keeps the path, the label and the index of every file, but no Python object:
        1.3 million files take 75 MB.

    Raises:
        UserError: If the folder does not exist, cannot be listed or has no image; or as
            `unclear.require_clear`, `layout.recognize` and `probe.require_fit`.
    """
    is_local = "://" not in folder
    if not (os.path.isdir(folder) if is_local else tf.io.gfile.isdir(folder)):
        raise UserError(f"data source '{name}': there is no folder '{printable(folder)}'")
    skipped = Skipped(folder)
    if kind is IMAGES and (form.dtype, form.channels) != (RGB.dtype, RGB.channels):
        kind = IMAGES_AND_ARRAYS
    files = _Files(name, folder, skipped, kind)
    if not files.groups:
        suffixes = ", ".join(sorted(kind.suffixes))
        notes = "; ".join(skipped.notes()) or "it is empty"
        if kind is IMAGES and ARRAY_SUFFIX in skipped.kinds:
            notes += (
                f"; {ARRAY_SUFFIX} files are images unless config.data.channels is 3 and "
                "config.data.pixels is uint8: set them to those of the arrays, or name the files "
                "in a list, files:LIST"
            )
        raise UserError(
            f"data source '{name}': there is no {kind.name} file ({suffixes}) in "
            f"'{printable(folder)}' or below it: {notes}"
        )
    tree = Tree(files.first_files, len(files.paths), files.paths.__getitem__)
    require_clear(name, printable(folder), tree)
    layout = recognize(name, printable(folder), files.examples())
    is_pretrain, is_train, is_test = _split(files, layout)
    paths = files.paths
    root = os.fsencode(os.path.join(folder, ""))
    fit_notes = require_fit(name, len(paths), lambda index: root + paths[index], form)

    def path_at(index: int) -> bytes:
        return paths[index]

    def read_file(index: tf.Tensor) -> tf.Tensor:
        # The paths stay in Python, because tf.data makes several copies of captured tensors.
        path = tf.ensure_shape(tf.numpy_function(path_at, [index], tf.string), [])
        return tf.io.read_file(tf.strings.join([root, path]))

    load_labels = None
    if layout.class_names:
        class_names = [printable(class_name) for class_name in layout.class_names]
        labels = _labels(files, layout)

        def load_labels() -> tuple[np.ndarray, list[str]]:
            return labels, class_names

    return Source(
        name=name,
        size=len(paths),
        read=lambda index: decode(read_file(index), form),
        describe=lambda index: printable(os.path.join(os.fsencode(folder), paths[index])),
        pretrain=np.flatnonzero(is_pretrain),
        train=np.flatnonzero(is_train),
        test=np.flatnonzero(is_test),
        load_labels=load_labels,
        ignored=skipped.paths,
        no_labels=layout.no_labels,
        found=_found(files, layout),
        part_names=_part_names(layout),
        channels=form.channels,
        notes=(*skipped.notes(), *_empty_folders(files, layout, skipped), *fit_notes),
        list_contents=lambda: list(paths),
        list_files=lambda: (root + path for path in paths),
        read_file=read_file,
        turns=form.orientation,
        dtype=form.dtype,
    )


def require_outside(name: str, path: str) -> None:
    """Check that a picture is not written where a folder of images would include it.

    A picture in a run directory is accepted, because it is not read as an image.

    Args:
        name: The string that names the source; every source but a `folder` is accepted.
        path: Path of the picture.

    Raises:
        UserError: If the picture would become an image of the source.
    """
    names = names_in(expand_source(name))
    if len(names) > 1:
        for part in names:
            require_outside(part, path)
        return
    scheme, _, folder = names[0].partition(":")
    if scheme != "folder" or ("://" in folder) != ("://" in path):
        return
    target = path
    if "://" not in folder:
        folder, target = os.path.realpath(folder), os.path.realpath(path)
    below = target.removeprefix(os.path.join(folder, ""))
    if below == target:
        return
    directory = folder
    for number, entry in enumerate(parts := below.split("/")):
        is_last = number == len(parts) - 1
        if _is_run(directory) and (number or entry + "/" * (not is_last) in RUN_ENTRIES):
            return
        directory = os.path.join(directory, entry)
    raise UserError(
        f"{path} would be one of the images of the data source '{name}': write it to another folder"
    )


def _is_run(directory: str) -> bool:
    """Return whether a directory, which may not exist yet, is a run directory."""
    is_local = "://" not in directory
    try:
        names = os.listdir(directory) if is_local else tf.io.gfile.listdir(directory)
    except (tf.errors.OpError, OSError):
        return False
    return is_run_directory({*names, *(f"{name}/" for name in names)})


class _Files:
    """The image files below a folder, in compact arrays, because there may be millions.

    Attributes:
        paths: The encoded paths, in order.
        held_out: bool `[N]`, a fifth of the files, chosen by a checksum.
        groups: The groups of files, and their numbers.
        group_of_file: int32 `[N]`, the number of each file's group.
        folders: The first two levels of folders, empty ones included.
        first_files: The index of the first file in each folder, or below it if the folder is as
            deep as `unclear.LEVELS`.
    """

    def __init__(self, name: str, folder: str, skipped: Skipped, kind: FileKind) -> None:
        self.paths = PathList()
        self.groups: dict[Group, int] = {}
        self.folders: set[Group] = set()
        self.first_files: dict[str, int] = {}
        held_out = bytearray()
        group_numbers = array.array("i")
        for below, names in walk(name, folder, skipped, kind):
            levels = below.split("/")
            first, second, *_ = [*levels[:-1], None, None]
            self.folders.add((first, second))
            if not names:
                continue
            group = self.groups.setdefault((first, second), len(self.groups))
            is_deeper = len(levels) > LEVELS + 1
            path = "/".join([*levels[:LEVELS], ""]) if is_deeper else below
            self.first_files.setdefault(path, len(self.paths))
            start = os.fsencode(below)
            checksum = zlib.crc32(start)
            for file_name in names:
                encoded = os.fsencode(file_name)
                self.paths.append(start + encoded)
                held_out.append(zlib.crc32(encoded, checksum) % 5 == 0)
                group_numbers.append(group)
        self.held_out = np.frombuffer(held_out, bool)
        self.group_of_file = np.asarray(group_numbers)

    def examples(self) -> dict[Group, str]:
        """Return the first path of each group."""
        _, first_indices = np.unique(self.group_of_file, return_index=True)
        return {
            group: os.fsdecode(self.paths[int(first_indices[number])])
            for group, number in self.groups.items()
        }

    def counts(self) -> dict[str | None, int]:
        """Return the number of images in each folder of the first level."""
        group_counts = np.bincount(self.group_of_file)
        counts: dict[str | None, int] = {}
        for (first, _), number in self.groups.items():
            counts[first] = counts.get(first, 0) + int(group_counts[number])
        return counts


def _split(files: _Files, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which files are for pre-training, training and testing, bool `[N]` each."""

    def within(*folders: str | None) -> np.ndarray:
        return np.array([first in folders for first, _ in files.groups])[files.group_of_file]

    everything = np.ones(len(files.paths), bool)
    is_pretrain = within(*layout.pretrain_folders) if layout.parts else everything
    candidates = within(layout.train_folder) if layout.parts else everything
    if layout.test_folder is not None:
        return is_pretrain, candidates, within(layout.test_folder)
    return is_pretrain, candidates & ~files.held_out, candidates & files.held_out


def _labels(files: _Files, layout: Layout) -> np.ndarray:
    """Return the labels, int32 `[N]`, with -1 for images of parts that need none."""
    label_of_class = {name: label for label, name in enumerate(layout.class_names)}
    labels = [label_of_class.get(layout.classes.get(group) or "", -1) for group in files.groups]
    return np.array(labels, np.int32)[files.group_of_file]


def _found(files: _Files, layout: Layout) -> str:
    """Return the parts and the classes, as a phrase for the summary."""
    counts = files.counts()
    phrases = []
    if layout.parts:
        parts = [f"{printable(first)}/ ({counts[first]:,})" for first in layout.parts.values()]
        phrases.append(f"in {', '.join(parts)}")
    if layout.class_names:
        phrases.append(classes_found([printable(name) for name in layout.class_names]))
    return ", ".join(phrases)


def _part_names(layout: Layout) -> tuple[str, str, str]:
    """Return the folders of pre-training, and of training and testing in an evaluation."""
    if not layout.parts:
        return "", "", ""
    unused = [
        folder
        for folder in layout.parts.values()
        if folder not in (*layout.pretrain_folders, layout.train_folder, layout.test_folder)
    ]
    test = f"{printable(layout.test_folder)}/" if layout.test_folder else ""
    return (
        ", ".join(f"{printable(folder)}/" for folder in layout.pretrain_folders),
        f"{printable(layout.train_folder or '')}/",
        test + "".join(f", not {printable(folder)}/" for folder in unused),
    )


def _empty_folders(files: _Files, layout: Layout, skipped: Skipped) -> list[str]:
    """Return a note about the folders of parts and of classes that hold no images, if any."""
    first_level = {first for first, _ in files.groups}
    empty = {first for first, _ in files.folders if first is not None} - first_level
    paths = [f"{first}/" for first in empty]
    paths += [
        f"{first}/{second}/"
        for first, second in files.folders - files.groups.keys()
        if second is not None and first in (layout.train_folder, layout.test_folder)
    ]
    paths = sorted(path for path in paths if not skipped.is_above_folder(path))
    if not paths:
        return []
    folders = "folder" if len(paths) == 1 else "folders"
    return [f"{len(paths):,} {folders} without images: {listed(map(printable, paths))}"]
