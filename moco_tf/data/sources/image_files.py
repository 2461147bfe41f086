"""Which files are images, by their suffixes or, where these do not tell, by their first bytes."""

import os
import stat
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from moco_tf.data.readers import dicom, tiff
from moco_tf.data.readers.raster import PNG_SIGNATURE

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".mpo", ".png", ".bmp", ".gif", ".webp"}
    | {".tif", ".tiff", ".dcm"}
)
ARRAY_SUFFIX = ".npy"
# Files with these suffixes are not opened, because there may be as many as there are images.
OTHER_SUFFIXES = frozenset(
    {".avi", ".avif", ".cr2", ".csv", ".db", ".dng", ".exr", ".gz", ".h5", ".heic"}
    | {".heif", ".html", ".ini", ".ipynb", ".jp2", ".json", ".jsonl", ".log", ".mat", ".md"}
    | {".mkv", ".mov", ".mp4", ".nef", ".nii", ".npy", ".npz", ".parquet", ".pbm", ".pdf"}
    | {".pgm", ".pkl", ".ppm", ".psd", ".pt", ".pth", ".py", ".raw", ".svg", ".tar", ".tfrecord"}
    | {".tga", ".tgz", ".tsv", ".txt", ".xml", ".yaml", ".yml", ".zip"}
)
START_BYTES = 132  # The number of first bytes that `begins_like_image` needs.
BMP_HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)


class FileKind(NamedTuple):
    """A kind of files that a folder is searched for.

    Attributes:
        name: What a file is called in messages.
        suffixes: The usual suffixes, in lower case.
        accepts: Function from the path and the base name of a file to whether it is of this kind.
    """

    name: str
    suffixes: frozenset[str]
    accepts: Callable[[str, str], bool]


def suffix(name: str) -> str:
    """Return the suffix of a file name in lower case, such as `".jpg"`; `""` without one."""
    return os.path.splitext(name)[1].lower()


def is_image(path: str, name: str) -> bool:
    """Return whether a file is an image by its suffix, or by its first bytes if that does not tell.

    Args:
        path: Path of the file, local or one that `tf.io.gfile` supports.
        name: Base name of the file.
    """
    ending = suffix(name)
    if ending in IMAGE_SUFFIXES:
        return True
    return ending not in OTHER_SUFFIXES and begins_like_image(_start(path))


IMAGES = FileKind("image", IMAGE_SUFFIXES, is_image)
# For other images than RGB with 8 bits, beside which arrays of labels often lie.
IMAGES_AND_ARRAYS = FileKind(
    "image",
    IMAGE_SUFFIXES | {ARRAY_SUFFIX},
    lambda path, name: suffix(name) == ARRAY_SUFFIX or is_image(path, name),
)


def begins_like_image(start: bytes) -> bool:
    """Return whether a file has one of the formats that are decoded.

    Args:
        start: The first `START_BYTES` of the file, or all of a shorter file.
    """
    if start.startswith((b"\xff\xd8\xff", PNG_SIGNATURE, b"GIF87a", b"GIF89a")):
        return True
    if tiff.begins(start) or dicom.begins(start):
        return True
    if start.startswith(b"RIFF"):
        return start[8:12] == b"WEBP"
    # Two letters alone would match texts.
    return start.startswith(b"BM") and int.from_bytes(start[14:18], "little") in BMP_HEADER_SIZES


def _start(path: str) -> bytes:
    """Return the first bytes of a file; none if it cannot be read."""
    try:
        if "://" in path:
            with tf.io.gfile.GFile(path, "rb") as file:
                return file.read(START_BYTES)
        if not stat.S_ISREG(os.stat(path).st_mode):  # A pipe would wait for a writer.
            return b""
        with open(path, "rb", buffering=0) as file:
            return file.read(START_BYTES)
    except (tf.errors.OpError, OSError):
        return b""
