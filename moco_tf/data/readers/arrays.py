"""Files of `numpy.save` that each hold one image."""

import io
import math

import numpy as np

from moco_tf.data.readers.image import MAX_CHANNELS_LAST, Image, UnfitError, require_possible

START = b"\x93NUMPY"


def begins(contents: bytes) -> bool:
    """Return whether a file begins like one of `numpy.save`."""
    return contents.startswith(START)


def read(contents: bytes) -> Image:
    """Return the array in a file, `[H, W]` or `[H, W, C]`.

    Raises:
        UnfitError: If the array has another shape, or holds no numbers.
        ValueError: If the file is damaged.
    """
    file = io.BytesIO(contents)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f"it has the version {version} of NumPy's format")
    shape, _, dtype = read_header(file)
    if dtype.kind not in "biuf" or len(shape) not in (2, 3) or 0 in shape:
        raise UnfitError(
            f"it holds an array of {dtype} with the shape {list(shape)}, which is not an image "
            "[H, W] or [H, W, C]",
            "",
        )
    if len(shape) == 3 and shape[0] <= MAX_CHANNELS_LAST < shape[2]:
        raise UnfitError(
            f"it holds an array with the shape {list(shape)}, with the channels first: save "
            "np.moveaxis(image, 0, -1)",
            "",
        )
    num_bytes = math.prod(shape) * dtype.itemsize
    require_possible(shape[0], shape[1], num_bytes, len(contents))
    if num_bytes > len(contents):
        raise ValueError("it is truncated")
    return Image(np.load(io.BytesIO(contents), allow_pickle=False))
