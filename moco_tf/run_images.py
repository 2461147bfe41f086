"""Images that a run is given in Python, which are kept in its directory.

A data source is a string, so that a run can be resumed and evaluated in another process. An array
or a list of files is written into the run directory, from where a source reads it.
"""

import os
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf import run_directory, run_lock
from moco_tf.data import given
from moco_tf.data.sources import npy
from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_atomically, write_remedy

Files = dict[str, np.ndarray | bytes]


def source_name(data: Any, workdir: str) -> str:
    """Return the string that names the source of some images, and keep images without a name.

    Args:
        data: A string that names a data source, the `pathlib.Path` of a folder, or what
            `moco_tf.data.given.as_files` takes.
        workdir: Path of the run directory, which is created if the images are written into it.

    Returns:
        The string.

    Raises:
        UserError: If `data` has another form, the directory cannot be written, or it holds a run
            on other images.
    """
    if isinstance(data, str):
        return data
    if isinstance(data, os.PathLike):
        return f"folder:{os.fsdecode(data)}"
    files = given.as_files(data)
    if "://" in workdir and given.ARRAY in files:
        raise UserError(
            f"data is an array, which is kept in the run directory, but {workdir} is not on a "
            "local disk: use a local directory, or npy:FILE"
        )
    # The run is found again from another working directory.
    directory = workdir if "://" in workdir else os.path.abspath(workdir)
    scheme, name = ("npy", given.ARRAY) if given.ARRAY in files else ("files", given.LIST)
    source = f"{scheme}:{os.path.join(directory, name)}"
    if tf.io.gfile.exists(os.path.join(workdir, "config.json")):
        _require_same(workdir, source, files)
    else:
        _write(workdir, files)
    return source


def _require_same(workdir: str, source: str, files: Files) -> None:
    """Raise a `UserError` unless the run in `workdir` was given these images."""
    saved = run_directory.read_config(workdir).data.source
    if saved != source:
        raise UserError(
            f"the run directory {workdir} holds a run on the images '{saved}', not on '{source}': "
            "use another directory, or the data of that run to resume it"
        )
    for name in dict.fromkeys([*files, *_kept(workdir)]):
        if name not in files or not _is_same(os.path.join(workdir, name), files[name]):
            what = "labels" if name == given.LABELS else "images"
            raise UserError(
                f"the run directory {workdir} holds a run on other {what} than those in data, see "
                f"{name}: use another directory, or the data of that run to resume it"
            )


def _kept(workdir: str) -> list[str]:
    names = (given.ARRAY, given.LABELS, given.LIST)
    return [name for name in names if tf.io.gfile.exists(os.path.join(workdir, name))]


def _is_same(path: str, contents: np.ndarray | bytes) -> bool:
    try:
        if isinstance(contents, bytes):
            with tf.io.gfile.GFile(path, "rb") as file:
                return file.read() == contents
        saved = np.load(path, mmap_mode="r", allow_pickle=False)
    except (tf.errors.OpError, OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read ({error_reason(error)}): restore it from a backup"
        ) from error
    if saved.shape != contents.shape or saved.dtype != contents.dtype:
        return False
    if contents.ndim == 1:
        return bool((saved == contents).all())
    return npy.contents(saved) == npy.contents(contents)


def _write(workdir: str, files: Files) -> None:
    """Write the files of a run that is about to start."""
    run_directory.require_no_remains(workdir)
    with run_lock.hold(workdir):
        try:
            # Another call may have been interrupted before its run began.
            for name in _kept(workdir):
                tf.io.gfile.remove(os.path.join(workdir, name))
            for name, contents in files.items():
                _write_file(os.path.join(workdir, name), contents)
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
