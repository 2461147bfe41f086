"""JPEG, PNG, GIF, BMP and WebP files, with their own number of channels."""

import contextlib
import io

import numpy as np
import PIL.Image
from PIL import UnidentifiedImageError

from moco_tf.data.readers.image import MAX_PIXELS, Image

# Registers WebP, which Pillow otherwise looks for by importing every format that it knows.
from PIL import WebPImagePlugin  # noqa: F401  # isort: skip

# Upper bounds on the pixels that one byte of a file can encode, reached by images of one color.
MAX_PIXELS_PER_BYTE = {
    "JPEG": 512,  # Huffman codes: at least one bit for 8 x 8 pixels
    "PNG": 8256,  # deflate expands one byte to 1,032, each of which holds 8 one-bit pixels
    "GIF": 2731,  # LZW: at least 12 bits for 4,096 pixels
    "BMP": 128,  # run lengths: two bytes for 255 pixels
    "WEBP": 30_000,  # has no strict bound; libwebp reaches 26,000
}
FORMATS = tuple(MAX_PIXELS_PER_BYTE)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112
# Pillow's modes of 8 bits per channel that are used as they are.
MODES = ("L", "LA", "RGB", "RGBA")


def is_16_bit_png(start: bytes) -> bool:
    """Return whether a file that begins with these bytes is PNG with 16 bits per channel."""
    return start.startswith(PNG_SIGNATURE) and start[24:25] == b"\x10"


def read(contents: bytes) -> Image:
    """Return the image in a file, or the first frame of an animation.

    Raises:
        ValueError: If the file has another format, is damaged or too large.
    """
    try:
        # Lazy: this reads the header only.
        with PIL.Image.open(io.BytesIO(contents), formats=FORMATS) as image:
            require_possible_size(image, len(contents))
            if is_16_bit_png(contents):
                import tensorflow as tf

                # Pillow would reduce most of them to 8 bits.
                with tf.device("CPU"):
                    values = tf.io.decode_png(contents, dtype=tf.uint16).numpy()
                return Image(values, values.shape[-1] in (2, 4), may_be_cut=True)
            image.load()
            if image.mode not in MODES:
                # Pillow would convert the transparent color too, and fails where no pixel has it.
                image.info.pop("transparency", None)
                return Image(np.asarray(image.convert("L" if image.mode == "1" else "RGB")))
            return Image(np.asarray(image), image.mode in ("LA", "RGBA"))
    except UnidentifiedImageError as error:
        raise ValueError(
            "not a JPEG, PNG, GIF, BMP, WebP, TIFF, DICOM or NumPy file, or a damaged one"
        ) from error
    except Exception as error:  # Pillow has no common exception for damaged files.
        raise ValueError(f"image file cannot be decoded: {error}") from error


def require_possible_size(image: PIL.Image.Image, num_bytes: int) -> None:
    """Raise a ValueError if an image cannot, or must not, be as large as its header declares.

    Pillow has its own limit, but the program that uses this module may have changed it.

    Args:
        image: The image, of which only the header may have been read.
        num_bytes: Size of the file.
    """
    width, height = image.size
    # A file of several pictures, as phones write it, begins with a JPEG.
    file_format = "JPEG" if image.format == "MPO" else str(image.format)
    if width * height > min(MAX_PIXELS, MAX_PIXELS_PER_BYTE[file_format] * num_bytes):
        raise ValueError(
            f"the header declares {width} x {height} pixels, more than {num_bytes} bytes of "
            f"{file_format} can encode or than the limit of {MAX_PIXELS}"
        )


def orientation(contents: bytes) -> int:
    """Return the EXIF orientation, from 1 to 8; 1 if there is none."""
    with (
        contextlib.suppress(Exception),
        PIL.Image.open(io.BytesIO(contents), formats=FORMATS) as image,
    ):
        return int(image.getexif().get(ORIENTATION, 1))
    return 1
