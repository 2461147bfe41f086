"""Images that a run is given in Python, which are kept in its directory.

A data source is a string, so that a run can be resumed and evaluated in another process. An array
or a list of files is written into the run directory, from where a source reads it.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf import paths, run_directory, run_lock
from moco_tf.data import given
from moco_tf.data.sources import npy
from moco_tf.data.sources.image_files import IMAGE_SUFFIXES, suffix
from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_atomically, write_remedy
from moco_tf.names import printable

Files = dict[str, np.ndarray | bytes]
READ_ERRORS = (tf.errors.OpError, OSError, ValueError, EOFError)


@contextlib.contextmanager
def kept(data: Any, workdir: str, pixels: str = "uint8") -> Iterator[str]:
    """Keep images in a run directory, and yield the string that names their source.

    Files that exist are never replaced, because a directory may hold arrays of the user. If the
    block raises an exception before the run has begun, what was written is removed.

    Args:
        data: A string that names a data source, the `pathlib.Path` of a folder, or what
            `moco_tf.data.given.as_files` takes.
        workdir: Path of the run directory, which is created if the images are written into it.
        pixels: Type of the pixel values of an array, as the setting `data.pixels`.

    Yields:
        The string.

    Raises:
        UserError: If `data` has another form, the directory cannot be written, or it holds a run
            on other images, or other files of the same names.
    """
    if isinstance(data, str | os.PathLike):
        yield _named(data)
        return
    files = given.as_files(data, pixels)
    if "://" in workdir and given.ARRAY in files:
        raise UserError(
            f"images is an array, which is kept in the run directory, but {workdir} is not on a "
            "local disk: use a local directory, or npy:FILE"
        )
    # The run is found again from another working directory.
    directory = paths.absolute(workdir)
    scheme, name = ("npy", given.ARRAY) if given.ARRAY in files else ("files", given.LIST)
    source = f"{scheme}:{os.path.join(directory, name)}"
    if run_directory.exists(directory):
        _require_same(workdir, source, files)
        yield source
        return
    run_directory.require_no_remains(workdir)
    _require_free(workdir, files)
    is_new = not tf.io.gfile.exists(directory)
    written: list[str] = []
    try:
        _write(directory, workdir, files, written)
        yield source
    except BaseException:
        _remove(directory, written, is_new)
        raise


def _named(data: str | os.PathLike[str]) -> str:
    """Return the name of a source that is given as a text or as the path of a folder."""
    name = os.fsdecode(data)
    if (isinstance(data, str) and ":" in name) or os.path.isdir(name):
        remedy = ""
    elif suffix(name) == ".npy":
        remedy = f"'npy:{name}'"
    elif suffix(name) in IMAGE_SUFFIXES:
        remedy = f"a list of image files, such as ['{name}']"
    elif suffix(name) == ".txt":
        remedy = f"'files:{name}' for a list of image files"
    else:
        remedy = ""
    if remedy:
        raise UserError(f"images is the path of a file, '{printable(name)}': use {remedy}")
    return name if isinstance(data, str) else f"folder:{name}"


def _require_same(workdir: str, source: str, files: Files) -> None:
    """Raise a `UserError` unless the run in `workdir` was given these images."""
    saved = run_directory.read_config(workdir).data.source
    if saved != source:
        raise UserError(
            f"the run directory {workdir} holds a run on the images '{saved}', not on '{source}': "
            "use another directory, or the images of that run to resume it"
        )
    for name in dict.fromkeys([*files, *_existing(workdir)]):
        what = "labels" if name == given.LABELS else "images"
        is_same = False
        if name in files:
            try:
                is_same, what = _compare(os.path.join(workdir, name), files[name], what)
            except READ_ERRORS as error:
                raise UserError(
                    f"{os.path.join(workdir, name)} cannot be read ({error_reason(error)}): "
                    "restore it from a backup"
                ) from error
        if not is_same:
            raise UserError(
                f"the run directory {workdir} holds a run on other {what} than the given ones, see "
                f"{name}: use another directory, or the images of that run to resume it"
            )


def _require_free(workdir: str, files: Files) -> None:
    """Raise a `UserError` if a directory without a run has other files of the same names."""
    for name in _existing(workdir):
        path = os.path.join(workdir, name)
        # An earlier call may have been killed before its run began.
        with contextlib.suppress(*READ_ERRORS):
            if name in files and _compare(path, files[name], "")[0]:
                continue
        raise UserError(
            f"{path} exists and does not hold the given images or labels, which would be kept in a "
            "file of this name: use another run directory, or move the file elsewhere"
        )


def _existing(workdir: str) -> list[str]:
    names = (given.ARRAY, given.LABELS, given.LIST)
    return [name for name in names if tf.io.gfile.exists(os.path.join(workdir, name))]


def _compare(path: str, contents: np.ndarray | bytes, what: str) -> tuple[bool, str]:
    """Return whether a file holds the same values, and what differs if not: `what`, or labels."""
    if isinstance(contents, bytes):
        with tf.io.gfile.GFile(path, "rb") as file:
            text = file.read()
        same_files = given.paths_in(text) == given.paths_in(contents)
        return text == contents, "labels" if same_files else what
    saved = np.load(path, mmap_mode="r", allow_pickle=False)
    # Integers and texts of another width are the same labels.
    kinds = ["i" if array.dtype.kind == "u" else array.dtype.kind for array in (saved, contents)]
    if saved.shape != contents.shape or kinds[0] != kinds[1]:
        return False, what
    if contents.ndim == 1:
        return bool((saved == contents).all()), what
    is_same = saved.dtype == contents.dtype and npy.contents(saved) == npy.contents(contents)
    return is_same, what


def _write(directory: str, workdir: str, files: Files, written: list[str]) -> None:
    """Write the files of a run that is about to start, and add their paths to `written`."""
    with run_lock.hold(directory):
        try:
            # Another process may have written files since they were compared.
            _require_free(workdir, files)
            missing = [name for name in files if name not in _existing(directory)]
            for name in missing:
                path = os.path.join(directory, name)
                written.append(path)
                _write_file(path, files[name])
        except (tf.errors.OpError, OSError) as error:
            raise UserError(
                f"the images in data cannot be written to {workdir} ({error_reason(error)}): "
                f"{write_remedy(error, workdir)}, or use another directory"
            ) from error


def _write_file(path: str, contents: np.ndarray | bytes) -> None:
    if isinstance(contents, bytes):
        write_atomically(path, contents)
    else:
        write_atomically(path, lambda file: np.save(file, contents))


def _remove(directory: str, written: list[str], is_new: bool) -> None:
    """Remove what a call has written whose run has not begun."""
    if run_directory.exists(directory):
        return
    # What cannot be removed now is accepted by the next call with the same data.
    with contextlib.suppress(tf.errors.OpError, OSError):
        for path in written:
            if tf.io.gfile.exists(path):
                tf.io.gfile.remove(path)
        if is_new and not tf.io.gfile.listdir(directory):
            tf.io.gfile.rmtree(directory)
