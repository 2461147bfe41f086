"""A look at a few files of a source: whether the settings of the pixels fit them."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from moco_tf.data import readers
from moco_tf.data.pixels import Form
from moco_tf.data.readers import arrays, dicom, tiff
from moco_tf.data.readers.image import Image, UnfitError
from moco_tf.data.readers.raster import is_16_bit_png
from moco_tf.data.sources.image_files import START_BYTES
from moco_tf.data.sources.source import evenly_spaced
from moco_tf.errors import UserError
from moco_tf.names import printable

MAX_FILES = 8


def require_fit(name: str, count: int, path_at: Callable[[int], bytes], form: Form) -> list[str]:
    """Check that the images of a few files, evenly spaced, have the type and the channels.

    Files in the formats that have no other type and channels, such as JPEG, are not read if the
    form is that of most images. Damaged files pass, because they are reported elsewhere.

    Args:
        name: The string that names the source.
        count: Number of its files.
        path_at: Function from an index to the encoded path of a file.
        form: What the images should be.

    Returns:
        Notes for the summary of the source: about files that will be skipped, pages that are not
        used, PNG files that are cut to 8 bits, and DICOM files whose small values are white.

    Raises:
        UserError: If none of the files that were read fits.
    """
    indices = evenly_spaced(np.arange(count), MAX_FILES).tolist()
    unfit: list[tuple[str, UnfitError]] = []
    cut: list[str] = []
    pages: list[tuple[str, Image]] = []
    inverse: list[str] = []
    num_fit = 0
    for index in indices:
        name_of_file = printable(path_at(index))
        try:
            image, is_cut = _look(path_at(index), form)
        except UnfitError as error:
            unfit.append((name_of_file, error))
            continue
        except (tf.errors.OpError, OSError, ValueError):
            continue
        num_fit += 1
        if is_cut:
            cut.append(name_of_file)
        if image is not None and image.unused:
            pages.append((name_of_file, image))
        if image is not None and image.white_is_small:
            inverse.append(name_of_file)
    notes = []
    if unfit:
        first, misfit = unfit[0]
        if not num_fit:
            raise UserError(f"data source '{name}': {first} cannot be used, because {misfit}")
        notes.append(
            f"warning: {len(unfit)} of the {len(indices)} files that were looked at cannot be used "
            f"and will be skipped, such as {first}, because {misfit}"
        )
    if cut:
        notes.append(
            f"note: the 16 bits per channel of PNG files such as {cut[0]} are cut to 8: set "
            "config.data.pixels=uint16 to keep them"
        )
    if pages:
        first, image = pages[0]
        notes.append(
            f"note: only the first page or frame of a file is used: {first} has {image.pages}, and "
            f"config.data.channels={form.channels}"
        )
    if inverse:
        notes.append(
            f"note: small values are white in {len(inverse)} of the {len(indices)} files that were "
            f"looked at (MONOCHROME1), such as {inverse[0]}, and floats are not inverted: set "
            "config.data.pixels=uint8 or uint16 to invert them"
        )
    return notes


def _look(path: bytes, form: Form) -> tuple[Image | None, bool]:
    """Return the image in a file if it has to be read, and whether it would be cut to 8 bits."""
    with tf.io.gfile.GFile(path, "rb") as file:
        start = file.read(START_BYTES)
        is_usual = (form.dtype, form.channels) == ("uint8", 3)
        if is_usual and not any(m.begins(start) for m in (tiff, dicom, arrays)):
            return None, is_16_bit_png(start)
        contents = start + file.read()
    image = readers.read_image(contents, form)
    readers.fitted(image, form)
    return image, form.dtype == "uint8" and is_16_bit_png(start)
