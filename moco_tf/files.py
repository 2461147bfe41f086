"""File operations that survive an interruption: a file is written completely or not at all."""

import contextlib
import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from moco_tf.errors import UserError


def write_atomically(path: str, contents: str | bytes | Callable[[Any], None]) -> None:
    """Write a file so that a reader never sees a partial one, even after a kill.

    Several processes may write the same file: the last one to finish wins. A kill can leave a
    temporary file `NAME.XXXXXXXX.tmp`, with eight hexadecimal digits.

    Args:
        path: Path of the file; it is replaced if it exists. Local or a `tf.io.gfile` path.
        contents: The whole content of the file, or a function that writes it to a binary file.
    """
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with tf.io.gfile.GFile(temporary, "w" if isinstance(contents, str) else "wb") as file:
            if callable(contents):
                contents(file)
            else:
                file.write(contents)
        if "://" not in temporary:
            _sync(temporary)
        tf.io.gfile.rename(temporary, path, overwrite=True)
    except BaseException:
        with contextlib.suppress(tf.errors.OpError, OSError):
            tf.io.gfile.remove(temporary)
        raise


def _sync(path: str) -> None:
    """Wait until a file is on the disk, so that a power failure cannot empty what it replaces."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: str) -> None:
    """Remove a file, or a folder with everything in it.

    Of a symbolic link, only the link is removed, and so it is of the links in a folder. TensorFlow
    would remove what they lead to.

    Args:
        path: A path, local or of a file system that TensorFlow supports.

    Raises:
        OSError: If it cannot be removed.
        tf.errors.OpError: The same, on a file system of TensorFlow.
    """
    if "://" in path:
        (tf.io.gfile.rmtree if tf.io.gfile.isdir(path) else tf.io.gfile.remove)(path)
    elif os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.remove(path)


def require_no_pattern(path: str) -> None:
    """Raise a `UserError` if TensorFlow would take a path for a pattern of several paths.

    It writes a checkpoint to a path as it is, but takes the path for a pattern when it reads the
    checkpoint or deletes an old one. `runs/lr[0.1]` matches `runs/lr1`.

    Args:
        path: Path of a run directory or a SavedModel.
    """
    full = path if "://" in path else os.path.abspath(path)
    if found := sorted(set("[]*?") & set(full)):
        raise UserError(
            f"{full} has {' and '.join(found)} in its path, which TensorFlow takes for a pattern "
            "of several paths: rename the folder, or use another one"
        )


def error_reason(error: Exception) -> str:
    """Return the reason behind an `OSError` or `tf.errors.OpError`, without its traceback."""
    reason = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    # An operation of TensorFlow adds its name before and after the reason, and further lines.
    reason = re.sub(r"^\{\{.*?\}\}\s*|\s*\[Op:.*", "", reason.strip())
    # An assertion of TensorFlow has its message behind the condition.
    if assertion := re.search(r"Summarized data: b'(.*)'", reason):
        return assertion[1]
    if reason.startswith("Graph execution error:"):
        # The reason is the first line behind the places in the code, which are indented.
        _, *lines = [line for line in reason.splitlines() if line[:1].strip()]
        reason = next((line for line in lines if not line.startswith("Detected at node")), reason)
    reason = re.sub(r"^(Unfit|Value)Error: ", "", reason)  # Of a function in Python.
    return reason.splitlines()[0] if reason else type(error).__name__


def write_remedy(error: Exception, directory: str) -> str:
    """Return what to do about a file that cannot be written, which depends on the cause.

    Args:
        error: The `OSError` or `tf.errors.OpError` that was raised.
        directory: The directory that was written to.

    Returns:
        An imperative such as "free some space there".

    Example:
        >>> write_remedy(OSError(errno.ENOSPC, "No space left on device"), "runs/photos")
        'free some space there'
    """
    code = getattr(error, "errno", None)
    if isinstance(error, tf.errors.ResourceExhaustedError) or code in (errno.ENOSPC, errno.EDQUOT):
        return "free some space there"
    if isinstance(error, tf.errors.OutOfRangeError) or code == errno.EFBIG:
        return "raise the limit of the size of a file, ulimit -f"
    denied = (errno.EACCES, errno.EPERM, errno.EROFS)
    if isinstance(error, tf.errors.PermissionDeniedError) or code in denied:
        return "make it writable"
    # TensorFlow reports a directory in the place of a file without a code of its own.
    if code == errno.EISDIR or "is a directory" in str(error).lower():
        return "move the directory that has the name of this file elsewhere"
    if not tf.io.gfile.isdir(directory):
        return "restore the directory, which does not exist"
    return "check the disk or the network that it is on"


def read_json(path: str, remedy: str = "restore it from a backup") -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: Path of the file.
        remedy: What to do about a file that is missing or damaged.

    Raises:
        UserError: If the file does not exist or is damaged.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            values = json.loads(file.read())
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__} and not an object")
    except (tf.errors.NotFoundError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error_reason(error)}): {remedy}") from error
    except (tf.errors.OpError, OSError) as error:  # The file may be whole.
        raise UserError(
            f"{path} cannot be read ({error_reason(error)}): check its permissions, and the disk "
            "or the network that it is on"
        ) from error
    return values
