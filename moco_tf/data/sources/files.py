"""The `files` source: a text file that lists image files, with or without labels."""

import array
import os
import zlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf.data.decoding import decode
from moco_tf.data.pixels import RGB, Form
from moco_tf.data.sources import labeled
from moco_tf.data.sources.path_list import PathList
from moco_tf.data.sources.probe import require_fit
from moco_tf.data.sources.source import Source, evenly_spaced
from moco_tf.data.sources.walk import MAX_NAMES, listed
from moco_tf.errors import UserError
from moco_tf.files import error_reason
from moco_tf.names import printable
from moco_tf.paths import absolute

MAX_ATTEMPTS = 100  # Paths that are tried when looking for a file.
MAX_LOOKED_FOR = 4096  # Paths of a list that are looked for, to warn of missing files.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def load(name: str, path: str, form: Form = RGB) -> Source:
    """Open the image files that a text file lists.

    Each line is the path of an image, and may go on with a tab and a label. A relative path starts
    at the folder of the list. Blank lines are skipped, and a file that is listed several times
    counts once. Pre-training uses all images, and an evaluation those with a label. An evaluation
    holds out a fifth of the images, chosen by a checksum of the path from the folder of the list,
    however it is spelled, so a new line does not move other images.

    Args:
        name: The string that names the source.
        path: Path of the text file, local or one that `tf.io.gfile` supports.
        form: The type and the channels of the images.

    Returns:
        The source.

    Raises:
        UserError: If there is no such file, it is not a list of paths, a file in it has two labels,
            or none of the first files in it exists; or as `probe.require_fit`.
    """
    lines = _read_list(name, path)
    root = os.fsencode(os.path.dirname(path))
    _require_files(name, root, lines.paths)
    lines, checksums, notes = _without_repetitions(name, root, lines)
    paths = lines.paths
    notes += _missing(root, paths)
    notes += require_fit(name, len(paths), lambda index: _join(root, paths[index]), form)

    def read_file(index: tf.Tensor) -> tf.Tensor:
        # The paths stay in Python, because tf.data makes several copies of captured tensors.
        file = tf.numpy_function(lambda number: _join(root, paths[number]), [index], tf.string)
        return tf.io.read_file(tf.ensure_shape(file, []))

    return labeled.make_source(
        name=name,
        read=lambda index: decode(read_file(index), form),
        read_file=read_file,
        turns=form.orientation,
        describe=lambda index: printable(_join(root, paths[index])),
        list_contents=lambda: list(paths),
        list_files=lambda: (_join(root, path) for path in paths),
        labels=lines.labels,
        label_of_image=lines.label_of_image,
        split=labeled.by_holding_out(checksums % 5 == 0),
        no_labels="no line of the list has a label",
        labels_file=os.path.basename(path),
        channels=form.channels,
        notes=notes,
        dtype=form.dtype,
    )


class _Lines(NamedTuple):
    """The lines of a list.

    Attributes:
        paths: The paths as they are written.
        labels: The distinct labels.
        label_of_image: int32 `[N]`, an index into `labels` for each path, or -1.
        numbers: int32 `[N]`, the number of each path's line.
    """

    paths: PathList
    labels: list[str]
    label_of_image: np.ndarray
    numbers: np.ndarray


def _read_list(name: str, path: str) -> _Lines:
    paths, labels_of_lines, numbers = PathList(), array.array("i"), array.array("i")
    number_of_label: dict[bytes, int] = {}
    for number, line in enumerate(_read(name, path).split(b"\n"), start=1):
        line = line.removesuffix(b"\r")
        if not line.strip():
            continue
        file, _, label = line.partition(b"\t")
        label = label.strip()
        if not file.strip() or b"\t" in label:
            raise UserError(
                f"data source '{name}': line {number} of {path} is neither a path nor a path, a "
                f"tab and a label: {printable(line)[:100]}"
            )
        paths.append(file)
        labels_of_lines.append(
            number_of_label.setdefault(label, len(number_of_label)) if label else -1
        )
        numbers.append(number)
    if not len(paths):
        raise UserError(
            f"data source '{name}': {path} lists no images: write the path of an image on each line"
        )
    labels = [os.fsdecode(label) for label in number_of_label]
    return _Lines(paths, labels, np.array(labels_of_lines, np.int32), np.array(numbers, np.int32))


def _without_repetitions(
    name: str, root: bytes, lines: _Lines
) -> tuple[_Lines, np.ndarray, list[str]]:
    """Return the first line of each file, the checksums of the paths, and notes about the others.

    A file may be spelled in several ways, such as `a.png` and `./a.png`. If both stayed, one of
    them could be a training image and the other a test image.
    """
    paths, labels = lines.paths, [*map(repr, lines.labels), "none"]
    root = _normalized(os.fsencode(absolute(os.fsdecode(root)))).rstrip(b"/") + b"/"
    checksums = np.fromiter((zlib.crc32(_file(root, path)) for path in paths), int, len(paths))
    # Only paths with the same checksum are compared, because there may be millions.
    _, inverse, counts = np.unique(checksums, return_inverse=True, return_counts=True)
    first_of_file: dict[bytes, int] = {}
    repeated = []
    for index in np.flatnonzero(counts[inverse] > 1).tolist():
        first = first_of_file.setdefault(_file(root, paths[index]), index)
        if first == index:
            continue
        repeated.append(index)
        numbers = [lines.label_of_image[line] for line in (first, index)]
        if numbers[0] != numbers[1]:
            raise UserError(
                f"data source '{name}': lines {lines.numbers[first]} and {lines.numbers[index]} "
                f"are the same file, {printable(paths[index])}, with different labels, "
                f"{printable(labels[numbers[0]])} and {printable(labels[numbers[1]])}: correct one"
            )
    if not repeated:
        return lines, checksums, []
    is_kept = np.ones(len(paths), bool)
    is_kept[repeated] = False
    kept = PathList()
    for index in np.flatnonzero(is_kept).tolist():
        kept.append(paths[index])
    first_names = listed([printable(paths[index]) for index in repeated[:MAX_NAMES]], len(repeated))
    files = "line repeats a file" if len(repeated) == 1 else "lines repeat files"
    note = f"ignored: {len(repeated):,} {files} that the list names before ({first_names})"
    lines = _Lines(kept, lines.labels, lines.label_of_image[is_kept], lines.numbers[is_kept])
    return lines, checksums[is_kept], [note]


def _missing(root: bytes, paths: PathList) -> list[str]:
    """Return a warning if some of the files do not exist; of many, only some are looked for."""
    indices = evenly_spaced(np.arange(len(paths)), MAX_LOOKED_FOR)
    chosen = [path for path in (paths[i] for i in indices) if b"://" not in _join(root, path)]
    missing = [path for path in chosen if not os.path.isfile(_join(root, path))]
    if not missing:
        return []
    first = missing[:MAX_NAMES]
    names = listed([printable(_join(root, path)) for path in first], len(missing))
    of_all = f"the {len(paths):,} files" if len(chosen) == len(paths) else f"{len(chosen):,} files"
    which = "" if len(chosen) == len(paths) else " that were looked for"
    verb = "does" if len(missing) == 1 else "do"
    return [
        f"warning: {len(missing):,} of {of_all}{which} {verb} not exist ({names})"
        f"{_not_expanded(first)}"
    ]


def _not_expanded(paths: list[bytes]) -> str:
    """Return a phrase for a message about missing files if their paths would be others in a shell.

    A list is used as it is written: what is read, and which files an evaluation holds out, must not
    depend on the environment, and file names have such characters.
    """
    if not any(path.startswith(b"~") or b"$" in path for path in paths):
        return ""
    return "; ~ and environment variables are not expanded in a list"


def _read(name: str, path: str) -> bytes:
    if tf.io.gfile.isdir(path):
        raise UserError(f"data source '{name}': '{path}' is a folder: use folder:{path}")
    if not tf.io.gfile.exists(path):
        raise UserError(f"data source '{name}': there is no file '{path}'")
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            contents = file.read()
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"data source '{name}': {path} cannot be read ({error_reason(error)}): make it readable"
        ) from error
    if b"\0" in contents:
        raise UserError(
            f"data source '{name}': {path} is not a text file, because it has zero bytes: write "
            "the path of an image on each line, in UTF-8"
        )
    return contents.removeprefix(BYTE_ORDER_MARK)


def _require_files(name: str, root: bytes, paths: PathList) -> None:
    first = [paths[i] for i in range(min(len(paths), MAX_ATTEMPTS))]
    attempts = [os.fsdecode(_join(root, path)) for path in first]
    if not any(_is_file(path) for path in attempts):
        others = "" if len(attempts) == 1 else f", nor any of the first {len(attempts)} in the list"
        raise UserError(
            f"data source '{name}': there is no file '{printable(attempts[0])}'{others}: correct "
            f"the paths; relative ones start at the folder of the list{_not_expanded(first[:1])}"
        )


def _is_file(path: str) -> bool:
    if "://" not in path:
        return os.path.isfile(path)
    return tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path)


def _normalized(path: bytes) -> bytes:
    """Return a path without parts such as `./` and `//`."""
    # Most paths have none, and os.path.normpath takes microseconds.
    if not (b"/." in path or b"//" in path or path.startswith(b".")):
        return path
    scheme, separator, location = path.rpartition(b"://")
    return scheme + separator + os.path.normpath(location)


def _file(root: bytes, path: bytes) -> bytes:
    """Return the path of a file in the same spelling wherever it is listed.

    Args:
        root: Absolute path of the folder of the list, which ends in a slash.
        path: Path as it is written.
    """
    path = _normalized(path)
    if path.startswith(b"../"):
        path = _normalized(root + path)
    return path.removeprefix(root)


def _join(root: bytes, path: bytes) -> bytes:
    return path if b"://" in path else os.path.join(root, path)
