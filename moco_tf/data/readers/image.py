"""An image as a file holds it, and the error of one that does not fit the settings."""

from typing import NamedTuple

import numpy as np

# The largest image that Pillow decodes by default; half a gigabyte in RGB. A decoder allocates as
# much memory as the header asks for, which a damaged or malicious file can set to any number.
MAX_PIXELS = 178_956_970
# The bytes that a byte of a compressed file can stand for, which has no strict bound.
MAX_BYTES_PER_BYTE = 30_000


class Image(NamedTuple):
    """An image as a file holds it.

    Attributes:
        values: `[H, W]` or `[H, W, C]`, of any type.
        has_alpha: Whether the last channel is transparency.
        may_be_cut: Whether the upper 8 of 16 bits may stand for it.
        pages: Number of pages or frames in the file, of which this image is the first, or all if
            they are its channels.
        unused: Number of pages or frames that are not in the image.
        white_is_small: Whether small values are white, and have not been inverted.
    """

    values: np.ndarray
    has_alpha: bool = False
    may_be_cut: bool = False
    pages: int = 1
    unused: int = 0
    white_is_small: bool = False


MAX_CHANNELS_LAST = 4  # An axis of at most this length is one of channels, not of height or width.


class UnfitError(ValueError):
    """A file that can be read, but not with these settings.

    Attributes:
        reason: Why, as a clause about the file.
        remedy: What to set; "" if no setting helps.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}: set {remedy}" if remedy else reason)
        self.reason = reason
        self.remedy = remedy


def require_possible(height: int, width: int, num_bytes: int, file_bytes: int) -> None:
    """Raise a `ValueError` if an image cannot, or must not, be as large as its header declares.

    Args:
        height: Its height in pixels.
        width: Its width in pixels.
        num_bytes: Number of bytes of its pixels.
        file_bytes: Number of bytes of its file.
    """
    if height * width > MAX_PIXELS or num_bytes > min(
        8 * MAX_PIXELS, MAX_BYTES_PER_BYTE * file_bytes
    ):
        raise ValueError(
            f"the header declares {width} x {height} pixels in {num_bytes} bytes, more than "
            f"{file_bytes} bytes can encode or than the limit of {MAX_PIXELS} pixels"
        )
