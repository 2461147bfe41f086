"""The report on images that cannot be read: a line for the terminal, and a file with all names."""

import os
from collections.abc import Iterable

import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_atomically
from moco_tf.names import printable

MAX_NAMES = 10  # Number of images that are named in a line.


def line(names: Iterable[str], total: int, path: str = "") -> str:
    """Return one line that counts and names images that cannot be read.

    Args:
        names: Their names, at least one, such as `Source.describe` returns them.
        total: Number of all images, of which these are a part.
        path: Path of the file with all names, which `write` wrote; "" without one.

    Returns:
        The line. It has at most `MAX_NAMES` names.

    Example:
        >>> line(["b.jpg", "a.jpg"], 30, "names.txt")
        'skipped 2 of 30 images that cannot be read: a.jpg, b.jpg; listed in names.txt'
    """
    printable = _printable(names)
    shown = ", ".join(printable[:MAX_NAMES])
    rest = len(printable) - MAX_NAMES
    more = f" and {rest} more" if rest > 0 else ""
    listed = f"; listed in {path}" if path else ""
    return f"skipped {len(printable)} of {total} images that cannot be read: {shown}{more}{listed}"


def read(path: str) -> list[str]:
    """Return the names in a file of `write`; none if it does not exist or cannot be read."""
    try:
        with tf.io.gfile.GFile(path) as file:
            return file.read().splitlines()
    except (tf.errors.OpError, OSError, UnicodeDecodeError):
        return []


def write(names: Iterable[str], path: str) -> None:
    """Write all names to a file, one in each line; without names, remove an older file.

    Args:
        names: Names of the images that cannot be read.
        path: Path of the file. Its folder is created if it does not exist.

    Raises:
        UserError: If the file cannot be written or removed.
    """
    printable = _printable(names)
    try:
        if printable:
            tf.io.gfile.makedirs(os.path.dirname(path) or ".")
            write_atomically(path, "\n".join(printable) + "\n")
        elif tf.io.gfile.exists(path):
            tf.io.gfile.remove(path)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"{path} cannot be written: {error_reason(error)}") from error


def _printable(names: Iterable[str]) -> list[str]:
    """Return the distinct names in order, each in one line: a name may contain a line break."""
    return sorted({printable(name) for name in names})
