"""TIFF files: one image, or pages that are its channels."""

import io
from typing import Any

import numpy as np

from moco_tf.data.readers.image import Image, UnfitError, require_possible

# The byte orders, and the versions: TIFF and BigTIFF.
STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NO_CODECS = (
    "its compression needs imagecodecs: install the extra 'tiff': pip install '.[tiff]' in a "
    "checkout of moco-tf"
)
ORIENTATION = 274
ALPHA = (1, 2)  # Kinds of extra samples: associated and unassociated alpha.
MIN_IS_WHITE, PALETTE = 0, 3  # Photometric interpretations.
SEPARATE = 2  # The planar configuration in which each sample has a plane of its own.


def begins(contents: bytes) -> bool:
    """Return whether a file begins like TIFF."""
    return contents.startswith(STARTS)


def read(contents: bytes, channels: int) -> Image:
    """Return the image in a file.

    If the file has as many pages of one sample as there are channels, of the same size and type,
    they are the channels. Otherwise the image is the first page.

    Args:
        contents: Contents of the file.
        channels: Number of channels that are wanted.

    Raises:
        UnfitError: If a package is missing that decompresses the file.
        ValueError: If the file is damaged, or too large.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(contents)) as file:
            return _read(file, channels, len(contents))
    except UnfitError:
        raise
    except Exception as error:  # tifffile has no common exception for damaged files.
        if "imagecodecs" in str(error):
            raise UnfitError(NO_CODECS, "") from error
        raise ValueError(f"TIFF file cannot be decoded: {error}") from error


def orientation(contents: bytes) -> int:
    """Return the orientation of the first page, from 1 to 8; 1 if it has none."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(contents)) as file:
        return int(file.pages.first.tags.valueof(ORIENTATION, default=1))


def _read(file: Any, channels: int, file_bytes: int) -> Image:
    series, page = file.series[0], file.pages.first
    if page.imagedepth > 1:
        raise ValueError(f"it holds a volume of the depth {page.imagedepth}")
    height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
    size = height * width * samples
    pages = max(series.size // max(size, 1), 1)
    are_channels = samples == 1 and pages == channels and pages > 1
    read_pages = pages if are_channels else 1
    require_possible(height, width, read_pages * size * page.dtype.itemsize, file_bytes)
    if are_channels:
        values = np.moveaxis(series.asarray(maxworkers=1).reshape(pages, height, width), 0, -1)
    else:
        values = page.asarray(maxworkers=1)
        if samples > 1 and page.planarconfig == SEPARATE:
            values = np.moveaxis(values.reshape(samples, height, width), 0, -1)
        else:
            values = values.reshape(height, width, samples)
    photometric = int(page.photometric)
    if photometric == PALETTE and page.colormap is not None:
        values = (page.colormap[:, values[..., 0]] >> 8).astype(np.uint8)
        values = np.moveaxis(values, 0, -1)
    elif photometric == MIN_IS_WHITE and values.dtype.kind in "bu":
        values = ~values if values.dtype == bool else np.iinfo(values.dtype).max - values
    has_alpha = bool(page.extrasamples) and int(page.extrasamples[-1]) in ALPHA
    return Image(values, has_alpha, pages=pages, unused=pages - read_pages)
