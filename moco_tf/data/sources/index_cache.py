"""Indices of files of records, kept on the disk so that a file is scanned once.

The index of `DIR/NAME` is `DIR/.moco_tf_index/NAME.KIND`. Where that cannot be written, it is in
the user's cache directory, `$XDG_CACHE_HOME/moco_tf` or `~/.cache/moco_tf`. It is valid as long as
the file has the same size and the same time of modification. An index that is stale, damaged or of
another version is made again.
"""

import contextlib
import hashlib
import io
import json
import os
import time
import zipfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from moco_tf.files import write_atomically
from moco_tf.paths import absolute

FOLDER = ".moco_tf_index"
VERSION = 1
DIGEST_BYTES = hashlib.sha256().digest_size
# A file that was modified later than this, in seconds before now, may change again without another
# time of modification, because some file systems count whole seconds. Its index is not kept.
SETTLED_AFTER = 3


def cached(
    path: str, kind: str, build: Callable[[str], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return the index of a file, from the disk if it is there, or else made and kept there.

    Args:
        path: Path of the file, local or one that `tf.io.gfile` supports.
        kind: Name of what is indexed, such as `"tfrecord"`; a part of the name of the index.
        build: Function from the path to the index: arrays of numbers or texts by name. It may raise
            a `UserError` about the file.

    Returns:
        The arrays by name.
    """
    try:
        size, modified = _size_and_time(path)
    except (tf.errors.OpError, OSError):
        return build(path)  # It says what is wrong with the file.
    identity = json.dumps([VERSION, kind, size, modified])
    places = _places(path, kind)
    for place in places:
        index = _read(place, identity)
        if index is not None:
            return index
    index = build(path)
    if time.time() - modified / 1e9 >= SETTLED_AFTER:
        _write(places, identity, index)
    return index


def _size_and_time(path: str) -> tuple[int, int]:
    """Return the size of a file in bytes, and the time of its modification in nanoseconds."""
    if "://" in path:
        remote = tf.io.gfile.stat(path)
        return remote.length, remote.mtime_nsec
    local = os.stat(path)  # That of TensorFlow counts whole seconds.
    return local.st_size, local.st_mtime_ns


def _places(path: str, kind: str) -> list[str]:
    """Return the paths at which the index of a file may be, the preferred one first."""
    folder, name = os.path.split(path)
    beside = os.path.join(folder, FOLDER, f"{name}.{kind}")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    key = hashlib.sha256(os.fsencode(absolute(path))).hexdigest()[:32]
    return [beside, os.path.join(cache, "moco_tf", "index", f"{key}.{kind}")]


def _read(place: str, identity: str) -> dict[str, np.ndarray] | None:
    """Return an index; None if there is none, it is damaged, or it is that of another file."""
    try:
        with tf.io.gfile.GFile(place, "rb") as file:
            contents = file.read()
    except (tf.errors.OpError, OSError):
        return None
    digest, arrays = contents[:DIGEST_BYTES], contents[DIGEST_BYTES:]
    if hashlib.sha256(arrays).digest() != digest:
        return None
    with zipfile.ZipFile(io.BytesIO(arrays)) as archive:
        # This package does not compress an index, and a compressed one could fill the memory.
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            return None
    with np.load(io.BytesIO(arrays), allow_pickle=False) as saved:
        if str(saved["identity"]) != identity:
            return None
        return {name: saved[name] for name in saved.files if name != "identity"}


def _write(places: list[str], identity: str, index: dict[str, np.ndarray]) -> None:
    """Write an index at the first of the paths that can be written, or nowhere."""
    buffer = io.BytesIO()
    np.savez(buffer, identity=np.array(identity), **index)  # type: ignore[arg-type]
    arrays = buffer.getvalue()
    for place in places:
        with contextlib.suppress(tf.errors.OpError, OSError):
            tf.io.gfile.makedirs(os.path.dirname(place))
            write_atomically(place, hashlib.sha256(arrays).digest() + arrays)
            return
