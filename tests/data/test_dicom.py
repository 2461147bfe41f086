"""DICOM files, against pydicom and the formulas of the standard."""

import io

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_windowing, pixel_array
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from moco_tf.data import readers
from moco_tf.data.pixels import Form
from moco_tf.data.readers.dicom import through_window
from moco_tf.data.readers.image import UnfitError

STORED = np.random.default_rng(0).integers(0, 4096, [9, 7]).astype(np.uint16)


def dataset(pixels=STORED, photometric="MONOCHROME2", bits=12, **attributes):
    """A CT image, with 12 bits stored of 16, whose values are rescaled to Hounsfield units."""
    result = pydicom.Dataset()
    result.file_meta = pydicom.dataset.FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.SOPClassUID, result.SOPInstanceUID = CTImageStorage, generate_uid()
    frames = pixels.shape[0] if pixels.ndim == 3 and photometric != "RGB" else 1
    if frames > 1:
        result.NumberOfFrames = frames
    color = photometric == "RGB"
    result.Rows, result.Columns = pixels.shape[:2] if color else pixels.shape[-2:]
    result.SamplesPerPixel, result.PhotometricInterpretation = (3 if color else 1), photometric
    if color:
        result.PlanarConfiguration = 0
    result.BitsAllocated = 8 * pixels.dtype.itemsize
    result.BitsStored, result.HighBit, result.PixelRepresentation = bits, bits - 1, 0
    result.RescaleSlope, result.RescaleIntercept = 1, -1024
    result.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(result, name, value)
    return result


def contents(data):
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def windowed(**attributes):
    return dataset(WindowCenter=40, WindowWidth=400, **attributes)


def test_floats_are_hounsfield_units():
    image = readers.read(contents(dataset()), Form("float32", 1))
    np.testing.assert_array_equal(image[..., 0], STORED.astype(np.float64) - 1024)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("dtype", "largest"), [("uint8", 255), ("uint16", 65535)])
def test_integers_are_seen_through_the_window_of_the_file(function, dtype, largest):
    data = windowed(VOILUTFunction=function)
    image = readers.read(contents(data), Form(dtype, 1))[..., 0]
    # pydicom returns values in the range of the rescaled pixels, here -1024 to 3071.
    expected = apply_windowing(STORED.astype(np.float64) - 1024, data)
    expected = (expected + 1024) / 4095 * largest
    assert abs(image - expected).max() <= 0.5 + 1e-6
    assert image.min() < 10 < largest - 10 < image.max()


def test_white_is_small_in_monochrome1():
    usual = readers.read(contents(windowed()), Form("uint8", 1))
    inverted = readers.read(contents(windowed(photometric="MONOCHROME1")), Form("uint8", 1))
    np.testing.assert_array_equal(inverted, 255 - usual)


def test_first_of_several_windows_and_frames_is_used():
    frames = np.stack([STORED, STORED[::-1]])
    data = dataset(frames, WindowCenter=[40, 500], WindowWidth=[400, 2000])
    image = readers.read_image(contents(data), Form("uint8", 1))
    assert (image.pages, image.unused) == (2, 1)
    expected = readers.read(contents(windowed()), Form("uint8", 1))
    np.testing.assert_array_equal(image.values, expected[..., 0])


def test_gray_becomes_rgb_by_default():
    image = readers.read(contents(windowed()), Form())
    assert image.shape == (9, 7, 3)
    assert (image == image[..., :1]).all()


def test_colors_are_those_of_pydicom():
    pixels = np.random.default_rng(1).integers(0, 256, [6, 5, 3], np.uint8)
    data = dataset(pixels, "RGB", bits=8)
    np.testing.assert_array_equal(readers.read(contents(data), Form()), pixels)


def test_compressed_pixels_are_those_of_pydicom():
    data = windowed()
    data.compress(RLELossless)
    np.testing.assert_array_equal(pixel_array(data), STORED)
    image = readers.read(contents(data), Form("float32", 1))
    np.testing.assert_array_equal(image[..., 0], STORED.astype(np.float64) - 1024)


def test_window_of_the_standard():
    """The example of PS3.3, C.11.2.1.2.1: a center of 2048 and a width of 4096."""
    values = np.array([0.0, 2047.5, 4095.0])
    np.testing.assert_allclose(through_window(values, 2048, 4096), [0, 0.5, 1])
    np.testing.assert_array_equal(through_window(np.array([4.4, 4.6]), 5, 1), [0, 1])


def test_missing_window_is_named_with_the_remedy():
    with pytest.raises(UnfitError, match=r"no window: set config.data.pixels=float32 and"):
        readers.read(contents(dataset()), Form("uint8", 1))


@pytest.mark.parametrize(
    ("width", "function"), [(0, "LINEAR"), (0.5, "LINEAR"), (-3, "SIGMOID"), (0, "LINEAR_EXACT")]
)
def test_impossible_window_is_refused(width, function):
    data = dataset(WindowCenter=40, WindowWidth=width, VOILUTFunction=function)
    with pytest.raises(ValueError, match="width"):
        readers.read(contents(data), Form("uint8", 1))


def test_damaged_file_is_refused():
    file = contents(windowed())
    for damaged in (file[:-20], file[:300], file[:132]):
        with pytest.raises(ValueError, match="DICOM file cannot be decoded"):
            readers.read(damaged, Form("uint8", 1))


def test_missing_pydicom_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(UnfitError, match="install the extra 'dicom'"):
        readers.read(contents(windowed()), Form("uint8", 1))
