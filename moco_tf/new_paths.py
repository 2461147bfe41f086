"""Creation of files and directories at paths where nothing exists yet.

They appear completely or not at all, and never replace what is there. They are written to a scratch
directory beside the path, `.NAME.RANDOM.unfinished`, and moved from there. Each process has a
scratch directory of its own, which it locks. A kill leaves it behind without the lock, so that the
next process that writes to the same path can tell that it is abandoned, and removes it.

The file systems of TensorFlow, such as `gs://`, have no locks and no move that never replaces.
There the path is checked right before the move, and a kill leaves its scratch directory behind.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator

import tensorflow as tf

SUFFIX = ".unfinished"
ABANDONED_AFTER = 24 * 60 * 60  # Seconds, where the file system has no locks.
# What `os.link` raises on a file system without hard links.
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK)


def exists(path: str) -> bool:
    """Return whether there is anything at a path, even a symbolic link that leads nowhere."""
    return tf.io.gfile.exists(path) if _is_remote(path) else os.path.lexists(path)


@contextlib.contextmanager
def new_directory(path: str) -> Iterator[str]:
    """Yield a path at which to create a directory, which then moves to `path`.

    If the block fails or is killed, nothing appears at `path`.

    Args:
        path: Path of the directory; nothing or an empty local directory is there. Its parents are
            created. Local or a `tf.io.gfile` path.

    Yields:
        A path with the same last component, at which nothing exists.

    Raises:
        FileExistsError: If something else is at the path when the block ends. It stays as it is.
        OSError: If the directory cannot be created.
        tf.errors.OpError: The same, on a file system of TensorFlow.
    """
    if _is_remote(path):
        with _new_remote_directory(path.rstrip("/")) as unfinished:
            yield unfinished
        return
    path = os.path.realpath(path)  # Where a symbolic link leads, the directory replaces no link.
    parent = os.path.dirname(path)
    try:
        os.makedirs(parent, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), parent) from error
    with _scratch_directory(path) as scratch:
        unfinished = os.path.join(scratch, os.path.basename(path))
        yield unfinished
        try:
            os.rename(unfinished, path)  # It fails unless an empty directory is there, or nothing.
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise _file_exists(path) from error
            raise


@contextlib.contextmanager
def new_files(*paths: str) -> Iterator[list[str]]:
    """Yield paths at which to write files, which then move to `paths`: all of them, or none.

    Args:
        *paths: Paths in the same directory, at which nothing exists. Local or `tf.io.gfile` paths.

    Yields:
        Local paths with the same last components, at which nothing exists.

    Raises:
        FileExistsError: If something is at one of the paths when the block ends. It stays as it
            is, and no file appears.
        OSError: If a file cannot be created.
        tf.errors.OpError: The same, on a file system of TensorFlow.
    """
    is_remote = _is_remote(paths[0])
    with tempfile.TemporaryDirectory() if is_remote else _scratch_directory(paths[0]) as scratch:
        unfinished = [os.path.join(scratch, os.path.basename(path)) for path in paths]
        yield unfinished
        created: list[str] = []
        try:
            for source, path in zip(unfinished, paths, strict=True):
                (_upload if is_remote else _link)(source, path)
                created.append(path)
        except BaseException:
            for path in created:
                tf.io.gfile.remove(path)
            raise


def try_files(*paths: str) -> None:
    """Create files with the names of `paths` beside them, and remove them again.

    Args:
        *paths: Paths in the same directory. Those of a file system of TensorFlow are not tried.

    Raises:
        OSError: If a file cannot be created.
    """
    if _is_remote(paths[0]):
        return
    with _scratch_directory(paths[0]) as scratch:
        for path in paths:
            with open(os.path.join(scratch, os.path.basename(path)), "xb"):
                pass


@contextlib.contextmanager
def _scratch_directory(path: str) -> Iterator[str]:
    """Yield a new, locked directory beside a local path, and remove it at the end."""
    parent, name = os.path.split(os.path.abspath(path))
    prefix = f".{name[:50]}."  # A name has at most 255 bytes.
    for other in os.listdir(parent):
        if re.fullmatch(rf"{re.escape(prefix)}\w{{8}}{re.escape(SUFFIX)}", other):
            _remove_if_abandoned(os.path.join(parent, other))
    while True:
        scratch = tempfile.mkdtemp(SUFFIX, prefix, parent)
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            try:
                stack.enter_context(_lock(scratch))
            except (BlockingIOError, FileNotFoundError):
                continue  # Another process took it for an abandoned one, and removes it.
            except OSError:
                pass  # A file system without locks.
            yield scratch
            return


@contextlib.contextmanager
def _lock(directory: str) -> Iterator[None]:
    """Hold the lock of a directory, which the system releases if the process is killed.

    Raises:
        BlockingIOError: If another process holds it.
        FileNotFoundError: If the directory does not exist any more.
        OSError: If the file system has no locks.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(directory)  # It may have been removed before it was locked.
        yield
    finally:
        os.close(descriptor)


def _remove_if_abandoned(scratch: str) -> None:
    """Remove the scratch directory of a process that was killed, and files that it left alone."""
    try:
        with _lock(scratch):
            _withdraw_incomplete(scratch)
            shutil.rmtree(scratch, ignore_errors=True)
    except (BlockingIOError, FileNotFoundError):
        return  # It is in use, or another process has removed it.
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - os.stat(scratch).st_mtime > ABANDONED_AFTER:
                shutil.rmtree(scratch, ignore_errors=True)


def _withdraw_incomplete(scratch: str) -> None:
    """Remove the files that a killed `new_files` has created, unless it has created them all."""
    missing, created = [], []
    for name in os.listdir(scratch):
        path = os.path.join(os.path.dirname(scratch), name)
        if not os.path.lexists(path):
            missing.append(path)
        # `samefile` would follow a link, which is not one of ours, to a file of somebody else.
        elif os.path.samestat(os.lstat(path), os.lstat(os.path.join(scratch, name))):
            created.append(path)
    if missing:
        for path in created:
            os.remove(path)


def _link(source: str, path: str) -> None:
    """Give a file a second path. Unlike a rename, this never replaces a file."""
    with open(source, "rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(source, path)
    except FileExistsError as error:
        raise _file_exists(path) from error  # Without the name of the source.
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(path):
            raise _file_exists(path) from error
        os.rename(source, path)


def _upload(source: str, path: str) -> None:
    """Copy a local file to a path of TensorFlow."""
    if tf.io.gfile.exists(path):
        raise _file_exists(path)
    tf.io.gfile.copy(source, path)


@contextlib.contextmanager
def _new_remote_directory(path: str) -> Iterator[str]:
    parent, _, name = path.rpartition("/")
    unfinished = f"{parent}/.{name[:50]}.{uuid.uuid4().hex[:8]}{SUFFIX}"
    try:
        yield unfinished
        if tf.io.gfile.exists(path):
            raise _file_exists(path)
        tf.io.gfile.rename(unfinished, path)
    except tf.errors.AlreadyExistsError as error:
        raise _file_exists(path) from error
    finally:
        with contextlib.suppress(tf.errors.NotFoundError):
            tf.io.gfile.rmtree(unfinished)


def _file_exists(path: str) -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


def _is_remote(path: str) -> bool:
    return "://" in path
