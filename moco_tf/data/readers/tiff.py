"""TIFF files: one image, or pages that are its channels."""

import contextlib
import importlib.util
import io
import math
import zlib
from typing import Any

import numpy as np

from moco_tf.data.readers.image import Image, UnfitError, require_possible

# The byte orders, and the versions: TIFF and BigTIFF.
STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NO_CODECS = (
    "its compression needs imagecodecs: install the extra 'tiff': pip install '.[tiff]' in a "
    "checkout of moco-tf"
)
# Kinds of compression that tifffile decodes itself, with no limit on the size of the result:
# deflate; and LZMA and Zstandard, which are left to imagecodecs.
DEFLATE, UNLIMITED = (8, 32946, 50013), (34925, 34926, 50000)
ORIENTATION = 274
ALPHA = (1, 2)  # Kinds of extra samples: associated and unassociated alpha.
# Photometric interpretations.
MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
JPEG = (6, 7, 33007, 34892)  # Kinds of compression whose decoder turns YCbCr into RGB.
# The tags of the conversion of YCbCr to RGB, with the values that Pillow converts by.
CONVERSION = {529: (0.299, 0.587, 0.114), 532: (0, 255, 128, 255, 128, 255)}
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

    # Reading the image says what is wrong with a damaged file.
    with contextlib.suppress(Exception), tifffile.TiffFile(io.BytesIO(contents)) as file:
        return int(file.pages.first.tags.valueof(ORIENTATION, default=1))
    return 1


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
    if not _has_codecs():
        for read_page in series.pages if are_channels else [page]:
            _require_possible_segments(file, read_page)
    if are_channels:
        values = np.moveaxis(series.asarray(maxworkers=1).reshape(pages, height, width), 0, -1)
    else:
        values = page.asarray(maxworkers=1)
        if samples > 1 and page.planarconfig == SEPARATE:
            values = np.moveaxis(values.reshape(samples, height, width), 0, -1)
        else:
            values = values.reshape(height, width, samples)
    values = _as_gray_or_rgb(values, page)
    has_alpha = bool(page.extrasamples) and int(page.extrasamples[-1]) in ALPHA
    return Image(values, has_alpha, pages=pages, unused=pages - read_pages)


def _has_codecs() -> bool:
    """Return whether imagecodecs is installed, whose decoders stop at the size of a segment."""
    try:
        return importlib.util.find_spec("imagecodecs") is not None
    except ValueError:  # It was disabled in `sys.modules`.
        return False


def _require_possible_segments(file: Any, page: Any) -> None:
    """Raise a `ValueError` if a strip or tile of a page inflates to more than its size."""
    if page.compression in UNLIMITED:
        raise UnfitError(NO_CODECS, "")
    if page.compression not in DEFLATE:
        return
    size = math.prod(page.chunks) * page.dtype.itemsize
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.filehandle.seek(offset)
        decompressor = zlib.decompressobj()
        decompressor.decompress(file.filehandle.read(count), size)
        if decompressor.unconsumed_tail:
            raise ValueError("a strip or tile is larger than the header says")


def _as_gray_or_rgb(values: np.ndarray, page: Any) -> np.ndarray:
    """Return the samples of a page with black as 0, in RGB if they are colors.

    Integers of fewer than 8 bits are scaled to 0 to 255, as in other formats.
    """
    photometric, bits = int(page.photometric), page.bitspersample
    if photometric == PALETTE and page.colormap is not None:
        return np.moveaxis((page.colormap[:, values[..., 0]] >> 8).astype(np.uint8), 0, -1)
    if photometric == YCBCR:
        is_rgb = page.compression in JPEG and page.planarconfig != SEPARATE
        return values if is_rgb and not page.extrasamples else _ycbcr_as_rgb(values, page)
    if photometric not in (MIN_IS_WHITE, MIN_IS_BLACK, RGB):
        name = getattr(page.photometric, "name", photometric)
        raise UnfitError(f"its colors are {name}: convert it to RGB or gray", "")
    is_inverted = photometric == MIN_IS_WHITE
    if values.dtype == bool:
        return ~values if is_inverted else values
    if values.dtype.kind == "u" and isinstance(bits, int):  # A tuple has been scaled already.
        white = values.dtype.type(2**bits - 1)
        values = white - values if is_inverted else values
        if bits < 8:
            values = np.round(values * (255 / white)).astype(np.uint8)
    return values


def _ycbcr_as_rgb(values: np.ndarray, page: Any) -> np.ndarray:
    import PIL.Image

    is_usual = values.dtype == np.uint8 and values.shape[-1] == 3
    for tag, usual in CONVERSION.items():
        if parts := page.tags.valueof(tag):  # Numerators and denominators.
            numbers = np.divide(parts[::2], parts[1::2])
            is_usual = is_usual and np.allclose(numbers, usual, atol=1e-3)
    if not is_usual:
        raise UnfitError("its colors are YCBCR of an unusual kind: convert it to RGB or gray", "")
    image = PIL.Image.frombytes("YCbCr", values.shape[1::-1], np.ascontiguousarray(values))
    return np.asarray(image.convert("RGB"))
