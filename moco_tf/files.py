"""File operations that survive an interruption: a file is written completely or not at all."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf


def write_atomically(path: str, contents: str | bytes) -> None:
    """Write a file so that a reader never sees a partial one, even after a kill.

    Args:
        path: Path of the file; it is replaced if it exists. Local or a `tf.io.gfile` path.
        contents: The whole content of the file.
    """
    temporary = f"{path}.tmp"
    with tf.io.gfile.GFile(temporary, "wb" if isinstance(contents, bytes) else "w") as file:
        file.write(contents)
    tf.io.gfile.rename(temporary, path, overwrite=True)


@contextlib.contextmanager
def atomic_directory(path: str) -> Iterator[str]:
    """Yield a temporary directory that becomes `path` when the block ends without an error.

    An exception or a kill leaves nothing at `path`.

    Args:
        path: Path of the directory to create. An existing directory is replaced.

    Yields:
        The path of the temporary directory, which does not exist yet.
    """
    unfinished = f"{path.rstrip('/')}.unfinished"
    if tf.io.gfile.exists(unfinished):
        tf.io.gfile.rmtree(unfinished)
    yield unfinished
    if tf.io.gfile.exists(path):
        tf.io.gfile.rmtree(path)
    tf.io.gfile.rename(unfinished, path)


def error_reason(error: Exception) -> str:
    """Return the reason behind an `OSError` or `tf.errors.OpError`, without its traceback."""
    return getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
