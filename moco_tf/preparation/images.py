"""Image files at a bounded size."""

import io
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from moco_tf.data.decoding import decode
from moco_tf.data.readers.raster import PNG_SIGNATURE, require_possible_size

# How much larger than the result an image may be when it is filtered. Before that, a JPEG decoder
# shrinks it by a power of two at hardly any cost.
REDUCING_GAP = 3.0
# A graph, because an eager call takes longer than decoding a small image.
_decode = tf.function(decode, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


class PreparedImage(NamedTuple):
    """An image file.

    Attributes:
        contents: The contents of the file.
        suffix: Its format: `"jpg"`, `"png"` or `"webp"`.
        height: Height in pixels.
        width: Width in pixels.
        is_copy: Whether the contents are those of the original.
    """

    contents: bytes
    suffix: str
    height: int
    width: int
    is_copy: bool


def prepare_file(contents: bytes, max_side: int, quality: int) -> PreparedImage:
    """Return an image file whose longer side is at most `max_side` pixels.

    A JPEG, PNG or WebP file within the bound is returned as it is, and other files within it as
    PNG, without loss. A larger image is shrunk with a Lanczos filter and becomes a JPEG file. The
    EXIF orientation is not applied, as where images are read.

    Args:
        contents: Contents of a file in one of the formats of `data.decoding.decode`.
        max_side: The bound, 1 or greater.
        quality: Quality of JPEG, 1 to 95.

    Returns:
        The file. It can be decoded.

    Raises:
        tf.errors.OpError: If the file cannot be decoded.
    """
    suffix = _suffix(contents)
    if suffix == "jpg" and (image := _shrunk_jpeg(contents, max_side)):
        return _as_jpeg(image, quality)
    pixels = _decode(contents).numpy()
    height, width, _ = pixels.shape
    if suffix and max(height, width) <= max_side:
        return PreparedImage(contents, suffix, height, width, is_copy=True)
    return prepare_pixels(pixels, max_side, quality)


def prepare_pixels(pixels: np.ndarray, max_side: int, quality: int) -> PreparedImage:
    """Return an image as a file whose longer side is at most `max_side` pixels.

    Args:
        pixels: uint8 `[H, W, 3]`.
        max_side: The bound, 1 or greater.
        quality: Quality of JPEG, which is the format of an image that is shrunk. Others are PNG.
    """
    image = Image.fromarray(pixels)
    if max(image.size) > max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, REDUCING_GAP)
        return _as_jpeg(image, quality)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return PreparedImage(buffer.getvalue(), "png", image.height, image.width, is_copy=False)


def _shrunk_jpeg(contents: bytes, max_side: int) -> Image.Image | None:
    """Return a JPEG image that is larger than the bound, shrunk; None if it is not.

    Also None if Pillow cannot read it, so that the usual decoder decides.
    """
    try:
        with Image.open(io.BytesIO(contents), formats=["JPEG", "MPO"]) as image:
            if max(image.size) <= max_side:
                return None
            require_possible_size(image, len(contents))
            image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, REDUCING_GAP)
            return image if image.mode in ("L", "RGB") else image.convert("RGB")
    except Exception:  # Pillow has no common exception for damaged files.
        return None


def _as_jpeg(image: Image.Image, quality: int) -> PreparedImage:
    buffer = io.BytesIO()
    # Without the metadata of the original, such as the place where it was taken.
    image.info.clear()
    image.save(buffer, "JPEG", quality=quality)
    return PreparedImage(buffer.getvalue(), "jpg", image.height, image.width, is_copy=False)


def _suffix(contents: bytes) -> str:
    """Return the suffix of a file in one of the formats that are copied; "" for others."""
    if contents.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if contents.startswith(PNG_SIGNATURE):
        return "png"
    return "webp" if contents.startswith(b"RIFF") and contents[8:12] == b"WEBP" else ""
