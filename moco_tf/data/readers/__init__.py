"""Readers of image files of any pixel type and number of channels.

They run in Python, and their results are checked against the type and the number of channels that
a run asks for: no value is cut or rescaled silently. `moco_tf.data.decoding` calls them.
"""

import numpy as np

from moco_tf.data.pixels import Form
from moco_tf.data.readers import arrays, dicom, raster, tiff
from moco_tf.data.readers.image import Image, UnfitError


def read(contents: bytes, form: Form) -> np.ndarray:
    """Return the image in a file, as it is stored, without its orientation.

    Args:
        contents: Contents of the file: JPEG, PNG, GIF, BMP, WebP, TIFF, DICOM or NumPy.
        form: The type and the number of channels that the image has to have.

    Returns:
        `[H, W, channels]` of the type.

    Raises:
        UnfitError: If the file is fine, but its image has another type or number of channels.
        ValueError: If the file has another format or is damaged.
    """
    return fitted(read_image(contents, form), form)


def fitted(image: Image, form: Form) -> np.ndarray:
    """Return an image in the type and with the channels of a form.

    Integers become floats of the same value. Gray becomes RGB, transparency is dropped unless the
    form has a channel for it, and of 16 bits in a PNG file the upper 8 are used if the form has 8.
    Everything else is refused.

    Args:
        image: The image.
        form: The form.

    Raises:
        UnfitError: If it does not fit, or has values that are not finite.
    """
    values, has_alpha = image.values, image.has_alpha
    if values.ndim == 2:
        values = values[..., np.newaxis]
    count = values.shape[-1]
    if has_alpha and (count - 1 == form.channels or (count, form.channels) == (2, 3)):
        values = values[..., :-1]
    if values.shape[-1] == 1 and form.channels == 3:
        values = np.repeat(values, 3, axis=-1)
    if values.shape[-1] != form.channels:
        channels = "channel" if count == 1 else "channels"
        raise UnfitError(
            f"it has {count} {channels}, not {form.channels}", f"config.data.channels={count}"
        )
    return np.ascontiguousarray(_as_type(values, image, form.dtype))


def _as_type(values: np.ndarray, image: Image, dtype: str) -> np.ndarray:
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    if dtype == "float32" and values.dtype.kind in "iuf":
        # Some values of larger integers and floats have no float32, but the nearest one is close.
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise UnfitError("it holds NaN, infinity or values that are too large", "")
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == np.dtype(dtype).itemsize:
        return values.astype(dtype, copy=False)  # The byte order may differ.
    if dtype == "uint8" and values.dtype == np.uint16 and image.may_be_cut:
        return (values >> 8).astype(np.uint8)
    name = values.dtype.name
    if name == "uint16" or (name == "uint8" and dtype == "uint16"):
        remedy = f"config.data.pixels={name}"
    else:
        remedy = "config.data.pixels=float32 and a config.data.value_range"
    raise UnfitError(f"its pixel values are {name}, not {dtype}", remedy)


def read_image(contents: bytes, form: Form) -> Image:
    """Return the image in a file as it is, by the reader of its format.

    Args:
        contents: Contents of the file.
        form: The type and the number of channels that are wanted, on which the channels of TIFF
            and the window of DICOM depend.

    Raises:
        ValueError: As `read`.
    """
    if tiff.begins(contents):
        return tiff.read(contents, form.channels)
    if dicom.begins(contents):
        return dicom.read(contents, form.dtype)
    if arrays.begins(contents):
        return arrays.read(contents)
    return raster.read(contents)


def orientation(contents: bytes) -> int:
    """Return the EXIF orientation of an image file, from 1 to 8; 1, upright, if it has none."""
    if dicom.begins(contents) or arrays.begins(contents):
        return 1
    return (tiff if tiff.begins(contents) else raster).orientation(contents)


def oriented(image: np.ndarray, contents: bytes) -> np.ndarray:
    """Return an image turned and flipped as the EXIF orientation of its file says.

    Args:
        image: `[H, W, C]`, the image as it is stored.
        contents: Contents of the file.
    """
    number = orientation(contents)
    if number in (5, 6, 7, 8):
        image = np.swapaxes(image, 0, 1)
    if number in (2, 3, 6, 7):
        image = image[:, ::-1]
    if number in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)
