"""Decoding of image files, with limits on the size that a file can declare."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from moco_tf.data import readers
from moco_tf.data.pixels import RGB, Form
from moco_tf.data.readers.image import MAX_PIXELS
from moco_tf.data.readers.raster import MAX_PIXELS_PER_BYTE, PNG_SIGNATURE

# Pillow warns of images of half of `MAX_PIXELS` and more, on the terminal and without the name of
# the file. Appended, so that the filters of the program that uses this module come first.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)


def decode(contents: tf.Tensor, form: Form = RGB) -> tf.Tensor:
    """Decode an image file. The contents determine the format, not the file name.

    Supports JPEG, PNG, GIF, BMP, WebP, TIFF, DICOM and files of `numpy.save`. The result for an
    animation is its first frame. Gray becomes RGB, and CMYK and YCCK are converted as in Pillow.
    Transparency is dropped: a transparent pixel keeps the color that the file holds for it. As
    uint8, 16 bits per channel in a PNG file are reduced to the upper 8.

    By default, TensorFlow decodes JPEG and PNG, and `moco_tf.data.readers` the other formats. The
    readers decode all formats for other forms.

    Args:
        contents: Contents of the file, a scalar string tensor.
        form: The type of the pixel values, the number of channels, and whether the EXIF
            orientation is applied. By default uint8, RGB, and no orientation, as in torchvision's
            `ImageFolder`.

    Returns:
        `[H, W, channels]` of the type.

    Raises:
        tf.errors.OpError: When the operation runs, if the file is not an image, is damaged or
            truncated, has more than `MAX_PIXELS` pixels, has a header that declares more pixels
            than its bytes can encode, or does not fit the form.
    """
    if (form.dtype, form.channels) == (RGB.dtype, RGB.channels):
        image = _decode_rgb(contents)
    else:
        image = _in_python(readers.read, form)(contents)
    if form.orientation:
        image = _in_python(_oriented, form)(contents, image)
    return tf.ensure_shape(image, [None, None, form.channels])


@functools.cache
def _in_python(function: Callable[..., np.ndarray], form: Form) -> Any:
    """Return an operation that calls a function of Python: of the contents, of an image, if it has
    one, and of the form.
    """
    inputs = [tf.TensorSpec([], tf.string)]
    if function is _oriented:
        inputs.append(tf.TensorSpec([None, None, form.channels], form.dtype))

    # A function, so that errors are TensorFlow's in eager execution too.
    @tf.function(input_signature=inputs, autograph=False)
    def call(*inputs: tf.Tensor) -> tf.Tensor:
        image = tf.numpy_function(
            lambda *inputs: function(*inputs, form), inputs, form.dtype, stateful=False
        )
        return tf.ensure_shape(image, [None, None, form.channels])

    return call


def _oriented(contents: bytes, image: np.ndarray, form: Form) -> np.ndarray:
    return readers.oriented(image, contents)


def _decode_rgb(contents: tf.Tensor) -> tf.Tensor:
    image = tf.cond(
        tf.io.is_jpeg(contents),
        lambda: _decode_by_tensorflow(possible_jpeg(contents)),
        lambda: tf.cond(
            _is_png(contents),
            lambda: _decode_by_tensorflow(possible_png(contents)),
            lambda: _in_python(readers.read, RGB)(contents),
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
