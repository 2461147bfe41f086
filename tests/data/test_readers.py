"""Readers of images with any pixel type and channels, against tifffile, Pillow, OpenCV, NumPy."""

import io
import subprocess
import sys

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tensorflow as tf
import tifffile

from moco_tf.data import readers
from moco_tf.data.decoding import decode
from moco_tf.data.pixels import Form
from moco_tf.data.readers.image import UnfitError
from tests.command import ROOT
from tests.images import patch

GENERATOR = np.random.default_rng(0)
DTYPES = ("uint8", "uint16", "float32")


def values(dtype, *shape):
    if dtype == "float32":
        return GENERATOR.normal(0, 1000, shape).astype(np.float32)
    return GENERATOR.integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def tiff(image, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, image, **{"photometric": "minisblack", **options})
    return file.getvalue()


def png(image):
    """Encode gray or RGB(A) values with OpenCV, whose order is BGR."""
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}
    ordered = image if image.ndim == 2 else image[..., order[image.shape[-1]]]
    return cv2.imencode(".png", ordered)[1].tobytes()


def pillow(image, file_format, **options):
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, file_format, **options)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def read(contents, dtype="uint8", channels=3, orientation=False):
    """Decode in a graph and in eager execution, which must agree."""
    form = Form(dtype, channels, orientation)
    eager = decode(tf.constant(contents), form).numpy()
    dataset = tf.data.Dataset.from_tensors(contents).map(lambda c: decode(c, form))
    assert dataset.element_spec == tf.TensorSpec([None, None, channels], dtype)
    np.testing.assert_array_equal(dataset.get_single_element().numpy(), eager)
    return eager


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_has_the_pixels_that_were_written(dtype, channels, planar):
    image = values(dtype, 7, 9, channels)
    written = image if planar == "contig" else np.moveaxis(image, -1, 0)
    contents = tiff(written, planarconfig=planar if channels > 1 else None)
    np.testing.assert_array_equal(read(contents, dtype, channels), image)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"ome": True}, {"imagej": True}, {"bigtiff": True}])
def test_pages_are_channels_if_there_are_as_many(dtype, options):
    pages = values(dtype, 4, 7, 9)
    if "ome" in options or "imagej" in options:
        options = {**options, "metadata": {"axes": "CYX"}}
    contents = tiff(pages, **options)
    np.testing.assert_array_equal(read(contents, dtype, 4), np.moveaxis(pages, 0, -1))
    np.testing.assert_array_equal(read(contents, dtype, 1), pages[0, ..., np.newaxis])
    np.testing.assert_array_equal(read(contents, dtype), np.stack([pages[0]] * 3, -1))


def test_first_of_several_pages_of_rgb_is_the_image():
    pages = values("uint16", 3, 7, 9, 3)
    contents = tiff(pages, photometric="rgb")
    np.testing.assert_array_equal(read(contents, "uint16"), pages[0])
    image = readers.read_image(contents, Form("uint16"))
    assert (image.pages, image.unused) == (3, 2)


def test_pages_of_other_sizes_are_not_channels():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(first := values("uint16", 8, 9))
        writer.write(values("uint16", 4, 5))
    np.testing.assert_array_equal(read(file.getvalue(), "uint16", 1)[..., 0], first)
    with pytest.raises(UnfitError, match="it has 1 channel, not 2"):
        readers.read(file.getvalue(), Form("uint16", 2))


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "packbits"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_compressed_tiff_of_either_byte_order(compression, byteorder):
    image = values("uint16", 33, 40)
    contents = tiff(image, compression=compression, byteorder=byteorder, rowsperstrip=8)
    np.testing.assert_array_equal(read(contents, "uint16", 1)[..., 0], image)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_tiff_of_8_bits_becomes_rgb_as_in_pillow(mode):
    photograph = PIL.Image.fromarray(patch())
    image = photograph.convert("P", palette=1) if mode == "P" else photograph.convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF")
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read(file.getvalue()), expected)


def test_white_is_zero_is_inverted():
    image = values("uint16", 7, 9)
    contents = tiff(image, photometric="miniswhite")
    np.testing.assert_array_equal(read(contents, "uint16", 1)[..., 0], 65535 - image)


@pytest.mark.parametrize("channels", [None, 3, 4])
def test_png_of_16_bits_is_not_cut(channels):
    image = values("uint16", 7, 9, *([channels] if channels else []))
    contents = png(image)
    if channels is None:  # Pillow reads gray, and OpenCV everything.
        np.testing.assert_array_equal(PIL.Image.open(io.BytesIO(contents)), image)
        expected = np.stack([image] * 3, -1)
        np.testing.assert_array_equal(read(contents, "uint16", 1)[..., 0], image)
    else:
        expected = image[..., :3]
    np.testing.assert_array_equal(read(contents, "uint16"), expected)
    as_float = read(contents, "float32")
    np.testing.assert_array_equal(as_float, expected.astype(np.float64))
    # As before, 8 bits are the upper ones.
    np.testing.assert_array_equal(read(contents), expected >> 8)
    if channels is None:
        np.testing.assert_array_equal(read(contents, "uint8", 1)[..., 0], image >> 8)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_8_bits_become_floats_of_the_same_value(file_format):
    contents = pillow(patch(), file_format)
    expected = np.asarray(PIL.Image.open(io.BytesIO(contents)).convert("RGB"), np.float64)
    np.testing.assert_array_equal(read(contents, "float32"), expected)
    with pytest.raises(UnfitError, match=r"uint8, not uint16: set config.data.pixels=uint8"):
        readers.read(contents, Form("uint16"))


def test_transparency_is_a_channel_if_there_is_one_for_it():
    image = values("uint8", 7, 9, 4)
    for contents in (
        pillow(image, "PNG"),
        tiff(image, photometric="rgb", extrasamples=["unassalpha"]),
    ):
        np.testing.assert_array_equal(read(contents, "uint8", 4), image)
        np.testing.assert_array_equal(read(contents), image[..., :3])
    gray = pillow(image[..., :2], "PNG")
    np.testing.assert_array_equal(read(gray, "uint8", 2), image[..., :2])
    np.testing.assert_array_equal(read(gray, "uint8", 1), image[..., :1])
    np.testing.assert_array_equal(read(gray), np.repeat(image[..., :1], 3, -1))


def test_one_channel_of_8_bits():
    gray = patch()[..., 0]
    np.testing.assert_array_equal(read(pillow(gray, "PNG"), "uint8", 1)[..., 0], gray)
    np.testing.assert_array_equal(read(tiff(gray), "uint8", 1)[..., 0], gray)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float16", "float64", ">f4", "bool"])
def test_npy_is_the_array(dtype):
    array = values("float32", 7, 9, 2).astype(dtype)
    expected = array.astype(np.float64) * (255 if dtype == "bool" else 1)
    np.testing.assert_array_equal(read(npy(array), "float32", 2), expected.astype(np.float32))


@pytest.mark.parametrize(
    ("contents", "form", "message"),
    [
        (tiff(values("uint16", 5, 5)), Form(), "uint16, not uint8: set config.data.pixels=uint16"),
        (tiff(values("float32", 5, 5)), Form(), "not uint8: set config.data.pixels=float32"),
        (npy(values("uint8", 5, 5).astype(np.int16)), Form("uint16"), "int16, not uint16: set"),
        (npy(values("uint8", 5, 5, 4)), Form(), "4 channels, not 3: set config.data.channels=4"),
        (pillow(patch(), "PNG"), Form("uint8", 1), "3 channels, not 1: set config.data.channels=3"),
        (npy(np.array([[1, np.nan]])), Form("float32", 1), "NaN, infinity"),
        (npy(np.array([[1e300]])), Form("float32", 1), "values that are too large"),
        (npy(np.zeros(5)), Form("float32", 1), r"shape \[5\], which is not an image"),
        (npy(np.zeros([2, 2], complex)), Form("float32", 1), "array of complex128"),
    ],
)
def test_other_types_and_channels_are_refused_with_the_setting(contents, form, message):
    with pytest.raises(UnfitError, match=message):
        readers.read(contents, form)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decode(tf.constant(contents), form)


@pytest.mark.parametrize(
    "contents",
    [tiff(values("uint16", 30, 30)), png(values("uint16", 30, 30)), npy(values("uint16", 30, 30))],
    ids=["tiff", "png", "npy"],
)
def test_damaged_files_are_refused(contents):
    for damaged in (contents[: len(contents) // 2], contents[:9], contents[:20] + b"\0" * 50):
        with pytest.raises(ValueError, match=r"."):
            readers.read(damaged, Form("uint16", 1))
        with pytest.raises(tf.errors.OpError):
            decode(tf.constant(damaged), Form("uint16", 1))


def test_header_that_promises_too_much_is_refused():
    contents = npy(np.zeros([4, 4], np.uint16)).replace(b"(4, 4)", b"(49999, 49999)")
    with pytest.raises(ValueError, match="more than"):
        readers.read(contents, Form("uint16", 1))
    one_color = tiff(np.zeros([20_000, 20_000], np.uint8), compression="zlib")
    with pytest.raises(ValueError, match="limit of 178956970 pixels"):
        readers.read(one_color, Form("uint8", 1))


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_that_of_pillow(file_format, number):
    exif = PIL.Image.Exif()
    exif[0x0112] = number
    options = {"lossless": True} if file_format == "WEBP" else {}
    contents = pillow(patch(), file_format, exif=exif, **options)
    stored = read(contents)
    turned = read(contents, orientation=True)
    with PIL.Image.open(io.BytesIO(contents)) as image:
        assert image.getexif()[0x0112] == number
        lossless = PIL.Image.fromarray(stored)
        lossless.getexif()[0x0112] = number
    np.testing.assert_array_equal(turned, PIL.ImageOps.exif_transpose(lossless))


def test_orientation_of_files_without_one():
    for contents in (pillow(patch(), "BMP"), npy(patch()), tiff(patch(), photometric="rgb")):
        np.testing.assert_array_equal(read(contents, orientation=True), patch())


def test_missing_imagecodecs_is_named():
    script = """
import io, sys
sys.modules["imagecodecs"] = None
import numpy as np
from moco_tf.data import readers
from moco_tf.data.pixels import Form
try:
    readers.read(sys.stdin.buffer.read(), Form("uint16", 1))
except ValueError as error:
    print(error)
"""
    contents = tiff(values("uint16", 8, 8), compression="lzw")
    command = [sys.executable, "-c", script]
    process = subprocess.run(command, input=contents, capture_output=True, cwd=ROOT, check=True)
    assert b"install the extra 'tiff'" in process.stdout, process
