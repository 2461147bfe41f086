"""Decoding of image files, with limits on the size that a file can declare."""

import io
import warnings

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

# Registers WebP, which Pillow otherwise looks for by importing every format that it knows.
from PIL import WebPImagePlugin  # noqa: F401  # isort: skip

# The largest image that Pillow decodes by default; half a gigabyte in RGB. A decoder allocates as
# much memory as the header asks for, which a damaged or malicious file can set to any number.
MAX_PIXELS = 178_956_970

# Upper bounds on the pixels that one byte of a file can encode, reached by images of one color.
MAX_PIXELS_PER_BYTE = {
    "JPEG": 512,  # Huffman codes: at least one bit for 8 x 8 pixels
    "PNG": 8256,  # deflate expands one byte to 1,032, each of which holds 8 one-bit pixels
    "GIF": 2731,  # LZW: at least 12 bits for 4,096 pixels
    "BMP": 128,  # run lengths: two bytes for 255 pixels
    "WEBP": 30_000,  # has no strict bound; libwebp reaches 26,000
}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

PILLOW_FORMATS = ("GIF", "BMP", "WEBP")

# Pillow warns of images of half of `MAX_PIXELS` and more, on the terminal and without the name of
# the file. Appended, so that the filters of the program that uses this module come first.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)


def decode(contents: tf.Tensor) -> tf.Tensor:
    """Decode an image file to RGB. The contents determine the format, not the file name.

    Supports JPEG, PNG, GIF, BMP and WebP. The result for an animation is its first frame. Gray
    becomes RGB, CMYK and YCCK are converted as in Pillow, and 16 bits per channel are reduced to
    the upper 8. Transparency is dropped: a transparent pixel keeps the color that the file holds
    for it. The
    EXIF orientation is not applied, as in torchvision's `ImageFolder`.

    TensorFlow decodes JPEG and PNG, Pillow the other formats.

    Args:
        contents: Contents of the file, a scalar string tensor.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        tf.errors.OpError: When the operation runs, if the file is not an image, is damaged or
            truncated, has more than `MAX_PIXELS` pixels, or has a header that declares more pixels
            than its bytes can encode.
    """
    image = tf.cond(
        tf.io.is_jpeg(contents),
        lambda: _decode_by_tensorflow(possible_jpeg(contents)),
        lambda: tf.cond(
            _is_png(contents),
            lambda: _decode_by_tensorflow(possible_png(contents)),
            lambda: _decode_by_pillow(contents),
        ),
    )
    return tf.ensure_shape(image, [None, None, 3])


def _decode_by_tensorflow(contents: tf.Tensor) -> tf.Tensor:
    # JPEG is decoded with the fast integer DCT, which differs from the accurate one by about one
    # gray level and takes a third less time.
    return tf.io.decode_image(contents, channels=3, expand_animations=False)


def possible_jpeg(contents: tf.Tensor) -> tf.Tensor:
    """Return the contents of a JPEG file, or an empty string if it declares an impossible size.

    A size is impossible if it has more pixels than the file can encode or than `MAX_PIXELS`.
    Decoding an empty string is an error. An assertion would have a better message, but it takes
    longer than this function, which is called for every image.

    Args:
        contents: Contents of a JPEG file, a scalar string tensor.

    Returns:
        A scalar string tensor.
    """
    height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(contents, output_type=tf.int64))
    return tf.where(height * width <= _max_pixels("JPEG", contents), contents, "")


def possible_png(contents: tf.Tensor) -> tf.Tensor:
    """Return the contents of a PNG file, or an empty string if it declares an impossible size.

    Args:
        contents: Contents of a file, a scalar string tensor.

    Returns:
        A scalar string tensor, also empty if the file is not PNG. See `possible_jpeg`.
    """
    start = tf.strings.substr(tf.strings.join([contents, b"\0" * 24]), 0, 24)
    sides = tf.io.decode_raw(tf.strings.substr(start, 16, 8), tf.int32, little_endian=False)
    width, height = tf.unstack(tf.cast(sides, tf.int64), 2)
    possible = _is_png(contents) & (height * width <= _max_pixels("PNG", contents))
    return tf.where(possible, contents, "")


def _is_png(contents: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(contents, 0, len(PNG_SIGNATURE)) == PNG_SIGNATURE


def _max_pixels(file_format: str, contents: tf.Tensor) -> tf.Tensor:
    """Return the number of pixels that a file can hold at most, an int64 scalar."""
    num_bytes = tf.cast(tf.strings.length(contents), tf.int64)
    return tf.minimum(MAX_PIXELS_PER_BYTE[file_format] * num_bytes, MAX_PIXELS)


# A function, so that errors are TensorFlow's in eager execution too.
@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def _decode_by_pillow(contents: tf.Tensor) -> tf.Tensor:
    image = tf.numpy_function(decode_by_pillow, [contents], tf.uint8, stateful=False)
    return tf.ensure_shape(image, [None, None, 3])


def decode_by_pillow(contents: bytes) -> np.ndarray:
    """Decode the first frame of a GIF, BMP or WebP file with Pillow.

    Args:
        contents: Contents of the file.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        ValueError: If the file has another format, is damaged or truncated, or cannot be as large
            as its header declares.
    """
    try:
        # Lazy: this reads the header only.
        with Image.open(io.BytesIO(contents), formats=PILLOW_FORMATS) as image:
            check_size(image, len(contents))
            image.load()
            # Pillow would convert the transparent color too, and fails where no pixel has it.
            image.info.pop("transparency", None)
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise ValueError("not a JPEG, PNG, GIF, BMP or WebP file, or a damaged one") from error
    except Exception as error:
        # Pillow has no common exception for damaged files: it raises OSError, SyntaxError,
        # EOFError, struct.error and others.
        raise ValueError(f"image file cannot be decoded: {error}") from error


def check_size(image: Image.Image, num_bytes: int) -> None:
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
