"""The samples in tar files of WebDataset: where their images are, and their labels.

A sample consists of consecutive files with the same name up to the first dot, such as `0001.jpg`,
`0001.cls` and `0001.json`.
"""

import array
import json
import os
import re
import tarfile
from typing import Any, BinaryIO

import numpy as np
import tensorflow as tf

from moco_tf.data.sources.image_files import IMAGE_SUFFIXES
from moco_tf.data.sources.records import open_binary
from moco_tf.errors import UserError
from moco_tf.files import error_reason

# The name of a file up to the first dot, and its extension.
NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)")
# The offset of an image in units of 512 bytes, and its size in bytes, make one integer.
SIZE_BITS = 30
MAX_LABEL_BYTES = 1 << 24
LABEL_MEMBER, LABEL_KEY = "cls", "label"


def index(path: str, image_name: str, label_name: str) -> dict[str, np.ndarray]:
    """Find the samples with an image in a tar file. The images are not read.

    Args:
        path: Path of the file, local or one that `tf.io.gfile` supports.
        image_name: Extension of the images, such as `"left.png"`; `""` for the first file of a
            sample with the extension of an image.
        label_name: Extension of the files with the labels, or else a key of the objects in the
            files with the extension `json`; `""` for `cls`, or else `label`.

    Returns:
        `places`, int64 `[N]`, for `unpack`; `labels`, int32 `[N]`, indices into `label_texts`, or
        -1; `label_texts`, the distinct labels as JSON; `skipped`, the number of samples without an
        image; `further`, the number of images in samples that have several and none with a plain
        extension such as `jpg`; and `has_end`, whether the file ends as an archive does, with a
        block of zeros.

    Raises:
        UserError: If the file cannot be read, is compressed, is not a tar file, or is damaged or
            incomplete.
    """
    samples = _Samples(image_name, label_name)
    try:
        with open_binary(path) as file:
            _require_uncompressed(path, file.read(6))
            file.seek(0)
            archive: Any
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # Otherwise it keeps an object for each.
                    if member.isreg() and not member.issparse():
                        samples.add(file, member)
                samples.finish(file)
                # An invalid header ends the iteration as the end of the archive does.
                file.seek(archive.offset)
                end = file.read(tarfile.BLOCKSIZE)
                if end.strip(b"\0"):
                    raise tarfile.ReadError(f"no valid header at byte {archive.offset}")
    except tarfile.TarError as error:
        raise UserError(
            f"{path} is not a tar file, or it is damaged or incomplete ({error}): copy the file "
            "again, or use a pattern that matches tar files only"
        ) from error
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error_reason(error)}") from error
    return {
        "places": np.array(samples.places, np.int64),
        "labels": np.array(samples.labels, np.int32),
        # An array of strings would have the width of the longest for all of them.
        "label_texts": np.frombuffer(json.dumps(list(samples.label_numbers)).encode(), np.uint8),
        "skipped": np.array(samples.skipped),
        "further": np.array(samples.further),
        "has_end": np.array(len(end) == tarfile.BLOCKSIZE),
    }


def unpack(place: int) -> tuple[int, int]:
    """Return the offset and the size in bytes of an image, from a value of `places`."""
    return (place >> SIZE_BITS) * tarfile.BLOCKSIZE, place & ((1 << SIZE_BITS) - 1)


class _Samples:
    """The samples that were found so far; see `index` for the attributes and the arguments."""

    def __init__(self, image_name: str, label_name: str) -> None:
        self.places, self.labels = array.array("q"), array.array("i")
        self.label_numbers: dict[str, int] = {}
        self.skipped = self.further = 0
        self._image_name, self._label_name = image_name, label_name
        self._key = ""
        # Extension, and offset and size, of the files of the sample that is being read.
        self._members: dict[str, tuple[int, int]] = {}

    def add(self, file: BinaryIO, member: tarfile.TarInfo) -> None:
        """Add a file of the archive."""
        match = NAME.fullmatch(member.name)
        if not match:
            return
        if match[1] != self._key:
            self.finish(file)
            self._key = match[1]
        self._members.setdefault(match[2].lower(), (member.offset_data, member.size))

    def finish(self, file: BinaryIO) -> None:
        """Add the sample whose last file was the one before."""
        members, self._members = self._members, {}
        if not members:
            return
        extensions = self._image_extensions(members)
        offset, size = members.get(extensions[0], (0, 0)) if extensions else (0, 0)
        if not 0 < size < 1 << SIZE_BITS:
            self.skipped += 1
            return
        label = self._label(file, members)
        number = -1
        if label:
            number = self.label_numbers.setdefault(label, len(self.label_numbers))
        if "." in extensions[0]:
            # The names of the images probably have dots: `a.0.png` and `a.1.png` are one sample.
            self.further += len(extensions) - 1
        self.places.append(offset // tarfile.BLOCKSIZE << SIZE_BITS | size)
        self.labels.append(number)

    def _image_extensions(self, members: dict[str, tuple[int, int]]) -> list[str]:
        """Return the extensions of the images of a sample, that of its own image first."""
        if self._image_name:
            return [self._image_name.lower()]
        # `jpg` before `mask.jpg`.
        names = sorted(members, key=lambda extension: "." in extension)
        return [name for name in names if os.path.splitext(f"a.{name}")[1] in IMAGE_SUFFIXES]

    def _label(self, file: BinaryIO, members: dict[str, tuple[int, int]]) -> str:
        """Return the label of a sample; "" without one."""
        contents = _contents(file, members.get(self._label_name.lower() or LABEL_MEMBER))
        if contents:
            return contents.decode(errors="replace").strip()
        try:
            value: Any = json.loads(_contents(file, members.get("json")))
        except (ValueError, RecursionError):
            return ""
        if isinstance(value, dict):
            value = value.get(self._label_name or LABEL_KEY)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return str(value).strip() if isinstance(value, int | str) else ""


def _contents(file: BinaryIO, member: tuple[int, int] | None) -> bytes:
    """Return the contents of a small file of the archive; none if there is no such file."""
    if member is None or member[1] > MAX_LABEL_BYTES:
        return b""
    file.seek(member[0])
    return file.read(member[1])


def _require_uncompressed(path: str, start: bytes) -> None:
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")):
        raise UserError(
            f"{path} is compressed, which prevents random access: decompress it to a .tar file"
        )
