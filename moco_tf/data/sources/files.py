"""The `files` source: a text file that lists image files, with or without labels."""

import array
import os
import zlib

import numpy as np
import tensorflow as tf

from moco_tf.data.decoding import decode
from moco_tf.data.sources import labeled
from moco_tf.data.sources.path_list import PathList
from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError
from moco_tf.files import error_reason
from moco_tf.names import printable

MAX_ATTEMPTS = 100  # Paths that are tried when looking for a file.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def load(name: str, path: str) -> Source:
    """Open the image files that a text file lists.

    Each line is the path of an image, and may go on with a tab and a label. A relative path starts
    at the folder of the list. Blank lines are skipped. Pre-training uses all images, and an
    evaluation those with a label. An evaluation holds out a fifth of the images, chosen by a
    checksum of the path as it is written, so a new line does not move other images.

    Args:
        name: The string that names the source.
        path: Path of the text file, local or one that `tf.io.gfile` supports.

    Returns:
        The source.

    Raises:
        UserError: If there is no such file, it is not a list of paths, or none of the first files
            in it exists.
    """
    paths, labels, label_of_image = _read_list(name, path)
    root = os.fsencode(os.path.dirname(path))
    _require_files(name, root, paths)
    checksums = np.array([zlib.crc32(entry) for entry in paths])

    def read(index: tf.Tensor) -> tf.Tensor:
        # The paths stay in Python, because tf.data makes several copies of captured tensors.
        file = tf.numpy_function(lambda number: _join(root, paths[number]), [index], tf.string)
        return decode(tf.io.read_file(tf.ensure_shape(file, [])))

    return labeled.make_source(
        name=name,
        read=read,
        describe=lambda index: printable(_join(root, paths[index])),
        list_contents=lambda: list(paths),
        labels=labels,
        label_of_image=label_of_image,
        held_out=checksums % 5 == 0,
        no_labels="no line of the list has a label",
    )


def _read_list(name: str, path: str) -> tuple[PathList, list[str], np.ndarray]:
    """Return the paths, the distinct labels, and the index of each image's label or -1."""
    paths, numbers = PathList(), array.array("i")
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
        numbers.append(number_of_label.setdefault(label, len(number_of_label)) if label else -1)
    if not len(paths):
        raise UserError(
            f"data source '{name}': {path} lists no images: write the path of an image on each line"
        )
    labels = [os.fsdecode(label) for label in number_of_label]
    return paths, labels, np.array(numbers, np.int32)


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
    attempts = [os.fsdecode(_join(root, paths[i])) for i in range(min(len(paths), MAX_ATTEMPTS))]
    if not any(_is_file(path) for path in attempts):
        others = "" if len(attempts) == 1 else f", nor any of the first {len(attempts)} in the list"
        raise UserError(
            f"data source '{name}': there is no file '{printable(attempts[0])}'{others}: correct "
            "the paths; relative ones start at the folder of the list"
        )


def _is_file(path: str) -> bool:
    if "://" not in path:
        return os.path.isfile(path)
    return tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path)


def _join(root: bytes, path: bytes) -> bytes:
    return path if b"://" in path else os.path.join(root, path)
