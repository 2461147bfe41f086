"""What a run directory records about the images of its run, to notice when they have changed."""

import concurrent.futures
import gzip
import hashlib
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf import paths
from moco_tf.data import given
from moco_tf.data.sources.source import Source, evenly_spaced
from moco_tf.errors import UserError
from moco_tf.files import read_json, write_atomically
from moco_tf.names import printable

# The folder in a run directory that holds the best checkpoint. It is a run directory itself.
BEST = "best"
NUMBERS, CONTENTS = "data.json", "data_files.gz"
MAX_CONTENTS_BYTES = 1 << 30  # Of the list of the files, as a damaged or malicious one expands.
# How the names of the folders beside it begin: a best checkpoint that was chosen by other values.
EARLIER_BEST = f"{BEST}-"
# The images that `moco_tf.train` keeps in a run directory: scheme and name of the file.
KEPT = (("npy", given.ARRAY), ("files", given.LIST))
# How lines about the labels begin, and how lines about arrays end.
LABELS, CHECKSUM = re.compile(rb"labels in "), b" with the checksum "
# Number of files that `files_checksum` samples, and of bytes that it reads from each.
SAMPLED_FILES, SAMPLED_BYTES = 32, 1 << 16
MAX_NAMES = 3  # Maximum number of files that a message names as new, as missing and as moved.


class RunData(NamedTuple):
    """The images of a run.

    Attributes:
        num_images: Number of images that the run trains on. With another number, a step would have
            other images.
        channels: Number of channels of these images.
        contents: What their indices depend on, see `Source.list_contents`. It is empty if that is
            unknown.
    """

    num_images: int
    channels: int = 3
    contents: tuple[bytes, ...] = ()

    @property
    def checksum(self) -> str:
        """Checksum of the contents; "" if they are unknown."""
        return _checksum(b"\0".join(self.contents)) if self.contents else ""


def of_source(source: Source) -> RunData:
    """Return what a run on a data source records."""
    return RunData(len(source.pretrain), source.channels, tuple(source.list_contents()))


def labels_checksum(source: Source) -> str:
    """Return a checksum of the labels and of the names of the classes; "" without labels.

    `RunData.checksum` covers labels only where the indices of the images depend on them.
    """
    if source.labels is None or source.class_names is None:
        return ""
    names = "\0".join(source.class_names).encode()
    return f"{zlib.crc32(np.ascontiguousarray(source.labels).data, zlib.crc32(names)):08x}"


def files_checksum(source: Source) -> str:
    """Return a checksum of the sizes and the beginnings of a few files; "" if there are none.

    `RunData.checksum` covers only the names of image files. This finds most collections in which
    the files of the same names are others, and reads no more of a million files than of a few.
    """
    count = sum(1 for _ in source.list_files())
    chosen = set(evenly_spaced(np.arange(count), SAMPLED_FILES).tolist())
    if not chosen:
        return ""
    files = [path for number, path in enumerate(source.list_files()) if number in chosen]
    with concurrent.futures.ThreadPoolExecutor(SAMPLED_FILES) as pool:
        return _checksum(b"".join(pool.map(_digest, files)))


def _digest(file: bytes) -> bytes:
    """Return a digest of the size and the beginning of a file, which may not be readable."""
    path = os.fsdecode(file)
    try:
        if "://" in path:
            with tf.io.gfile.GFile(path, "rb") as remote:
                size, start = remote.size(), remote.read(SAMPLED_BYTES)
        else:
            with open(path, "rb") as local:
                size, start = os.fstat(local.fileno()).st_size, local.read(SAMPLED_BYTES)
    except (tf.errors.OpError, OSError):
        return hashlib.sha256().digest()
    return hashlib.sha256(b"%d:" % size + start).digest()


def write(workdir: str, data: RunData) -> None:
    """Write data.json, and data_files.gz with the contents, separated by zero bytes.

    Args:
        workdir: Path of the run directory.
        data: The images of the run.

    Raises:
        tf.errors.OpError: If the files cannot be written.
    """
    numbers: dict[str, Any] = {"num_images": data.num_images, "channels": data.channels}
    if data.contents:
        path = os.path.join(workdir, CONTENTS)
        if not tf.io.gfile.exists(path):
            write_atomically(path, gzip.compress(b"\0".join(data.contents), 1, mtime=0))
        numbers["contents"] = data.checksum
    write_atomically(os.path.join(workdir, NUMBERS), json.dumps(numbers) + "\n")


def require_same(workdir: str, data: RunData, source_name: str) -> None:
    """Raise a `UserError` if a run was started on other images.

    Args:
        workdir: Path of a run directory with a data.json.
        data: The images now.
        source_name: The string that names their source.

    Raises:
        UserError: If they have changed, with the files that were added, removed or moved; or if
            data.json cannot be read.
    """
    saved = _read(workdir)
    remedy = "use another directory, or restore the images"
    if data.contents and saved.get("contents", data.checksum) != data.checksum:
        what, changes = _changes(workdir, saved["contents"], data.contents)
        raise UserError(
            f"the {what} of '{source_name}' have changed since the run {workdir} was started"
            f"{changes}: use another directory, or restore the {what}"
        )
    if saved["num_images"] != data.num_images:
        raise UserError(
            f"the run directory {workdir} holds a run on {saved['num_images']} images, but "
            f"'{source_name}' has {data.num_images} now: {remedy}"
        )
    channels = saved.get("channels", 3)
    if channels != data.channels:
        raise UserError(
            f"the run directory {workdir} holds a run on images with {channels} channels, but "
            f"those of '{source_name}' have {data.channels} now: {remedy}"
        )


def require_no_other_file(workdir: str) -> None:
    """Raise a `UserError` if a directory without a run has a data.json that no run has written."""
    path = os.path.join(workdir, NUMBERS)
    if not tf.io.gfile.exists(path):
        return
    try:
        _read(workdir)
    except UserError as error:
        raise UserError(
            f"{path} exists and is not a file of moco-tf, but a run would write a file of this "
            "name: use another run directory, or move the file elsewhere"
        ) from error


def source_in(workdir: str, source_name: str) -> str:
    """Return the string that names the images of a run whose directory may have been moved.

    Args:
        workdir: Path of the run directory.
        source_name: The string that its config has.

    Returns:
        The string; or, if the file in it is one that `moco_tf.train` keeps in a run directory, and
        `workdir` has a file of this name, the string with that file. The place where the run was
        before may have another run now.
    """
    scheme, _, path = source_name.partition(":")
    name = os.path.basename(path)
    if (scheme, name) not in KEPT:
        return source_name
    directory = paths.absolute(workdir)
    directories = [directory]
    if is_best(os.path.basename(directory.rstrip("/"))):
        directories.append(os.path.dirname(directory.rstrip("/")))
    for directory in directories:
        moved = os.path.join(directory, name)
        if tf.io.gfile.exists(moved):
            return f"{scheme}:{moved}"
    return source_name


def is_best(name: str) -> bool:
    """Return whether a folder in a run directory has the name of a best checkpoint.

    Example:
        >>> is_best("best"), is_best("best-step-800"), is_best("eval")
        (True, True, False)
    """
    return name == BEST or name.startswith(EARLIER_BEST)


def read_num_images(workdir: str) -> int:
    """Return the number of images that a run trains on."""
    return _read(workdir)["num_images"]


def read_channels(workdir: str) -> int:
    """Return the number of channels of a run's images.

    Runs from before the number was recorded have 3.
    """
    return _read(workdir).get("channels", 3)


def _read(workdir: str) -> dict[str, Any]:
    path = os.path.join(workdir, NUMBERS)
    data = read_json(path)
    numbers = data.get("num_images"), data.get("channels", 3)
    is_valid = all(type(number) is int and number > 0 for number in numbers)
    if not (is_valid and isinstance(data.get("contents", ""), str)):
        raise UserError(
            f"{path} does not hold what a run records about its images: restore it from a backup"
        )
    return data


def _checksum(joined_contents: bytes) -> str:
    return hashlib.sha256(joined_contents).hexdigest()


def _changes(workdir: str, checksum: str, contents: Iterable[bytes]) -> tuple[str, str]:
    """Return what has changed since a run was started, images or labels, and which files have."""
    try:
        with tf.io.gfile.GFile(os.path.join(workdir, CONTENTS), "rb") as file:
            saved = gzip.GzipFile(fileobj=file).read(MAX_CONTENTS_BYTES)
    except (tf.errors.OpError, OSError, EOFError, ValueError, zlib.error):
        saved = b""
    if _checksum(saved) != checksum:
        return "images", f", and their list {CONTENTS}, which says how, is lost"
    added = Counter(contents)
    removed = Counter(saved.split(b"\0"))
    added, removed = added - removed, removed - added
    lines = [*added, *removed]
    only_labels = lines and all(LABELS.match(line) and CHECKSUM in line for line in lines)
    # The rest of a line with a checksum says what has changed.
    old_lines = {line.partition(CHECKSUM)[0]: line for line in removed if CHECKSUM in line}
    changed = []
    for line in sorted(added):
        name = line.partition(CHECKSUM)[0]
        if CHECKSUM in line and name in old_lines:
            changed.append(printable(name))
            del added[line], removed[old_lines.pop(name)]
    # A file was moved if one of the same name is missing elsewhere.
    old_paths = {os.path.basename(path): path for path in sorted(removed)}
    moved = []
    for path in sorted(added):
        old = old_paths.pop(os.path.basename(path), None)
        if old is not None:
            moved.append(f"{printable(old)} to {printable(path)}")
            del added[path], removed[old]
    changes = [
        f"{len(names)} {verb} ({', '.join(names[:MAX_NAMES])}{', ...' * (len(names) > MAX_NAMES)})"
        for verb, names in (
            ("changed", changed),
            ("moved", moved),
            ("added", [printable(path) for path in sorted(added)]),
            ("removed", [printable(path) for path in sorted(removed)]),
        )
        if names
    ]
    what = "labels" if only_labels else "images"
    return what, f": {', '.join(changes)}" if changes else ", and so has their order"
