"""Images that are given in Python, an array or a list of files, as the files of a data source."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from moco_tf.data.sources import npy
from moco_tf.data.sources.source import SOURCE_NAMES
from moco_tf.errors import UserError
from moco_tf.names import printable
from moco_tf.paths import expand

ARRAY, LIST = "images.npy", "images.txt"
LABELS = ARRAY.removesuffix(".npy") + npy.LABELS_SUFFIX
FORMS = (
    f"a data source ({SOURCE_NAMES}), an array of images, a list of image files, or a pair "
    "(images, labels)"
)
SEPARATORS = "\t\r\n\0"  # What a path or a label in a list must not have.


def as_files(data: Any, pixels: str = "uint8") -> dict[str, np.ndarray | bytes]:
    r"""Return images as the contents of files that the sources `npy` and `files` read.

    Args:
        data: An array of images, uint8 `[N, H, W]` or `[N, H, W, C]`; a list of the paths of image
            files; or a pair of one of these and a list or an array of labels, integers or texts.
            None, NaN, a negative integer or an empty text stands for a missing label.
        pixels: Type of the pixel values of an array, as in `moco_tf.data.sources.load`.

    Returns:
        `{"images.npy": array}`, with `"images.labels.npy"` if there are labels; or
        `{"images.txt": bytes}`.

    Raises:
        UserError: If `data` has another form.

    Example:
        >>> as_files((["/photos/a.jpg", "/photos/b.jpg"], ["cat", None]))
        {'images.txt': b'/photos/a.jpg\tcat\n/photos/b.jpg\n'}
    """
    labels = None
    if isinstance(data, tuple) and len(data) == 2 and not _is_path(data[0]):
        data, labels = data
    images = _array_or_list(data)
    values = None if labels is None else as_labels(labels, len(images))
    if not isinstance(images, np.ndarray):
        return {LIST: _list(images, values)}
    npy.require_images(images, "the array of images", pixels)
    # In Fortran's order, an image would be spread over the whole file.
    files: dict[str, np.ndarray | bytes] = {ARRAY: np.ascontiguousarray(images)}
    if values is not None:
        files[LABELS] = values
    return files


def paths_in(text: bytes) -> list[bytes]:
    r"""Return the paths in the text of a list, without the labels.

    Example:
        >>> paths_in(b"/photos/a.jpg\tcat\n/photos/b.jpg\n")
        [b'/photos/a.jpg', b'/photos/b.jpg']
    """
    return [line.partition(b"\t")[0] for line in text.splitlines()]


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, bytes, os.PathLike))


def _array_or_list(data: Any) -> np.ndarray | list[Any]:
    """Return images as an array, or as a list of paths."""
    if hasattr(data, "__array__"):  # Also a tensor, or a column of a data frame.
        array = np.asarray(data)
        if array.dtype.kind not in "OUS":
            return array
        if array.ndim != 1:
            raise UserError(
                f"images holds texts or objects of the shape {list(array.shape)}: use a list of "
                "the paths, or a pair (images, labels), such as (df.path, df.label) of a data frame"
            )
        data = array.tolist()
    if not isinstance(data, Sequence) or isinstance(data, bytes):
        raise UserError(f"images is of the type {type(data).__name__}: use {FORMS}")
    if not data:
        raise UserError(f"images is empty: use {FORMS}")
    for number, path in enumerate(data):
        if not number and _is_collection(path):
            raise UserError(_remedy_of_collections(data))
        if not _is_path(path):
            raise UserError(f"images[{number}] is {path!r:.100}: use the path of an image file")
    return list(data)


def _is_collection(value: Any) -> bool:
    return hasattr(value, "__array__") or (isinstance(value, Sequence) and not _is_path(value))


def _remedy_of_collections(data: Sequence[Any]) -> str:
    """Return the message about data whose first element is an array or a list."""
    kind = type(data).__name__
    dimensions = {value.ndim if hasattr(value, "ndim") else 0 for value in data}
    if len(dimensions) > 1 or dimensions <= {0, 1}:
        return f"images is a {kind} of {len(data)}: pass a pair (images, labels), a tuple of two"
    function = "np.concatenate" if dimensions == {4} else "np.stack"
    return (
        f"images is a {kind} of arrays: use one array, such as {function}(images) if all have the "
        "same shape, or a list of image files"
    )


def as_labels(labels: Any, count: int, name: str = "images") -> np.ndarray:
    """Return labels as an array of integers or texts, with -1 or "" for missing ones.

    Args:
        labels: One label for each image: an array, a list, or a column of a data frame, of integers
            or texts, of which None, NaN, a negative integer or an empty text is a missing one.
        count: Number of the images.
        name: Name of the argument that they are from, for messages.

    Raises:
        UserError: If they are no such labels.

    Example:
        >>> as_labels(["cat", None], 2).tolist(), as_labels([3.0, float("nan")], 2).tolist()
        (['cat', ''], [3, -1])
    """
    if hasattr(labels, "__array__"):
        labels = np.asarray(labels)
        if labels.shape == (count, 1):
            labels = labels[:, 0]
        if labels.dtype.kind in "iubU" or labels.ndim != 1:
            npy.require_labels(labels, count, f"the array of labels in {name}")
            if labels.dtype.kind == "u" and labels.size and labels.max() > np.iinfo(np.int64).max:
                raise UserError(
                    f"the array of labels in {name} has the number {labels.max()}: use numbers "
                    "below 2**63, or texts"
                )
            return np.ascontiguousarray(labels)
        labels = labels.tolist()
    if isinstance(labels, (Mapping, Set)):
        raise UserError(
            f"the labels in {name} are a {type(labels).__name__}, which has no order of the "
            "images: use a list with one label for each image"
        )
    if not isinstance(labels, Iterable) or isinstance(labels, (str, bytes)):
        raise UserError(f"the labels in {name} are {labels!r:.100}: use one label for each image")
    values = [_label(value) for value in labels]
    types = {type(value) for value in values if value is not None}
    if len(types) > 1 or not types <= {int, bool, str}:
        names = " and ".join(sorted(kind.__name__ for kind in types))
        raise UserError(f"the labels in {name} are of the type {names}: use integers, or texts")
    missing: Any = "" if types == {str} else -1
    array = np.array([missing if value is None else value for value in values])
    npy.require_labels(array, count, f"the list of labels in {name}")
    return array


def _label(value: Any) -> Any:
    """Return a label without the type of NumPy; None if it is missing."""
    if isinstance(value, np.generic):
        value = value.item()
    if type(value).__name__ == "NAType":  # That of pandas, which need not be installed.
        return None
    if isinstance(value, bytes):  # As in a tensor of texts.
        return value.decode(errors="backslashreplace")
    if isinstance(value, float):
        # A data frame stores integers as floats if some are missing.
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() else value
    return value


def _list(paths: list[Any], labels: np.ndarray | None) -> bytes:
    """Return the text of a list of files, in which all paths are absolute."""
    texts = [""] * len(paths) if labels is None else [str(label) for label in labels]
    if labels is not None and labels.dtype.kind == "i":
        texts = [text if label >= 0 else "" for text, label in zip(texts, labels, strict=True)]
    lines = []
    for number, (path, text) in enumerate(zip(paths, texts, strict=True)):
        name = os.fsdecode(path)
        if name.startswith("~") or "$" in name:
            name = expand(name, f"images[{number}]")
        if not name.strip() or any(character in name for character in SEPARATORS):
            raise UserError(
                f"images[{number}] is the path '{printable(name)}': rename the file, because a "
                "path must not be empty or have tabs or line breaks"
            )
        if any(character in text for character in SEPARATORS):
            raise UserError(
                f"images[{number}] has the label '{printable(text)}': a label must not have tabs "
                "or line breaks"
            )
        name = name if "://" in name else os.path.abspath(name)
        lines.append(f"{name}\t{text}" if text else name)
    return os.fsencode("\n".join(lines) + "\n")
