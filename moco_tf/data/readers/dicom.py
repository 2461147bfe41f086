"""DICOM files, as Hounsfield units or other values of the modality, or through their window."""

import io
from typing import Any

import numpy as np

from moco_tf.data.readers.image import Image, UnfitError, require_possible

NO_PYDICOM = (
    "DICOM needs pydicom: install the extra 'dicom', by pip install '.[dicom]' in a checkout of "
    "moco-tf"
)
# pydicom inflates the whole data set of this transfer syntax before its size can be checked.
DEFLATED = b"1.2.840.10008.1.2.1.99"
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def begins(contents: bytes) -> bool:
    """Return whether a file begins like DICOM: a preamble of 128 bytes, and a prefix."""
    return contents[128:132] == b"DICM"


def read(contents: bytes, dtype: str) -> Image:
    """Return the first frame of a file.

    Gray values are those of the modality, such as Hounsfield units, after its rescale slope and
    intercept. As integers they are mapped by the first window of the file, whose ends become 0 and
    the largest integer. MONOCHROME1, whose small values are white, is inverted
    with the window; as floats it keeps its values.

    Args:
        contents: Contents of the file.
        dtype: Type of the pixel values that is wanted.

    Raises:
        UnfitError: If pydicom or a decoder of it is missing, the whole data set is compressed, or
            an integer type is wanted and the file has no window.
        ValueError: If the file is damaged, or too large.
    """
    try:
        import pydicom
    except ImportError as error:
        raise UnfitError(NO_PYDICOM, "") from error
    if DEFLATED in contents:
        raise UnfitError("its data set is compressed by deflate: convert it to explicit VR", "")
    try:
        dataset = pydicom.dcmread(io.BytesIO(contents))
        return _read(dataset, dtype, len(contents))
    except UnfitError:
        raise
    except Exception as error:  # pydicom has no common exception for damaged files.
        raise ValueError(f"DICOM file cannot be decoded: {error}") from error


def _read(dataset: Any, dtype: str, file_bytes: int) -> Image:
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    height, width, samples = dataset.Rows, dataset.Columns, dataset.SamplesPerPixel
    require_possible(height, width, height * width * samples * 4, file_bytes)
    frames = int(dataset.get("NumberOfFrames", None) or 1)
    values = pixel_array(dataset, index=0)
    unused = frames - 1
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return Image(apply_color_lut(values, dataset), pages=frames, unused=unused)
    if samples > 1:
        return Image(values, pages=frames, unused=unused)
    values = apply_modality_lut(values, dataset).astype(np.float64)
    white_is_small = dataset.PhotometricInterpretation == "MONOCHROME1"
    if dtype == "float32":
        values = values.astype(np.float32)
        return Image(values, pages=frames, unused=unused, white_is_small=white_is_small)
    fractions = through_window(values, *_window(dataset))
    if white_is_small:
        fractions = 1 - fractions
    levels = np.round(fractions * np.iinfo(dtype).max).astype(dtype)
    return Image(levels, pages=frames, unused=unused)


def through_window(
    values: np.ndarray, center: float, width: float, function: str = "LINEAR"
) -> np.ndarray:
    """Return values as fractions of a window (DICOM PS3.3, C.11.2.1.2).

    Args:
        values: Values of the modality, of any shape.
        center: Center of the window.
        width: Width of the window.
        function: `"LINEAR"`, `"LINEAR_EXACT"` or `"SIGMOID"`.

    Returns:
        Floats in [0, 1] of the same shape.

    Example:
        >>> through_window(np.array([-200.0, 40.0, 300.0]), 40, 400, "LINEAR_EXACT").tolist()
        [0.0, 0.5, 1.0]
    """
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _window(dataset: Any) -> tuple[float, float, str]:
    """Return the center, the width and the function of the first window."""
    center, width = dataset.get("WindowCenter", None), dataset.get("WindowWidth", None)
    if center is None or width is None:
        raise UnfitError(
            "it has no window",
            "config.data.pixels=float32 and config.data.value_range to a window, such as -1000,400",
        )
    # A file may have several windows.
    center, width = (
        float(value[0] if hasattr(value, "__len__") else value) for value in (center, width)
    )
    function = str(dataset.get("VOILUTFunction", None) or FUNCTIONS[0])
    is_possible = width >= 1 if function == "LINEAR" else width > 0
    if function not in FUNCTIONS or not is_possible:
        raise ValueError(f"its window has the function {function} and the width {width:g}")
    return center, width, function
