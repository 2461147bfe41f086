"""Readers of images with any pixel type and channels, against tifffile, Pillow, OpenCV, NumPy."""

import io
import struct
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


def bare_tiff(bits, photometric, packed, width, height):
    """Return an uncompressed TIFF file of packed gray values, whose only strip is at byte 8."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric}
    tags |= {273: 8, 277: 1, 278: height, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = struct.pack("<2sHI", b"II", 42, 8 + len(packed))
    return start + packed + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("photometric", [0, 1])
def test_tiff_of_few_bits_has_the_gray_values_of_pillow(bits, photometric):
    packed = GENERATOR.integers(0, 256, [6, 8 * bits // 8], np.uint8).tobytes()
    contents = bare_tiff(bits, photometric, packed, 8, 6)
    expected = np.asarray(PIL.Image.open(io.BytesIO(contents)).convert("L"))
    assert expected.max() > 200
    np.testing.assert_array_equal(read(contents, "uint8", 1)[..., 0], expected)
    np.testing.assert_array_equal(read(contents, "float32", 1)[..., 0], expected)


@pytest.mark.parametrize("photometric", [0, 1])
def test_tiff_of_12_bits_is_inverted_by_its_own_maximum(photometric):
    image = GENERATOR.integers(0, 4096, [6, 8], np.uint16)
    digits = "".join(f"{value:03x}" for value in image.ravel())
    contents = bare_tiff(12, photometric, bytes.fromhex(digits), 8, 6)
    expected = image if photometric == 1 else 4095 - image
    np.testing.assert_array_equal(read(contents, "uint16", 1)[..., 0], expected)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg"])
def test_ycbcr_tiff_has_the_colors_of_pillow(compression):
    image = PIL.Image.fromarray(patch()).convert("YCbCr")
    file = io.BytesIO()
    image.save(file, "TIFF", compression=compression)
    file.seek(0)
    with tifffile.TiffFile(file) as written:
        assert written.pages.first.photometric == tifffile.PHOTOMETRIC.YCBCR
    if compression == "jpeg":
        image = PIL.Image.open(io.BytesIO(file.getvalue()))
    error = np.abs(read(file.getvalue()).astype(int) - np.asarray(image.convert("RGB")))
    assert error.max() <= (2 if compression == "jpeg" else 0)  # JPEG decoders round differently.


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (tiff(values("uint8", 5, 5, 3), photometric="cielab"), "its colors are CIELAB: convert"),
        (tiff(values("uint8", 5, 5, 4), photometric="separated"), "its colors are SEPARATED"),
        (tiff(values("uint16", 5, 5, 3), photometric="ycbcr"), "YCBCR of an unusual kind"),
        (
            tiff(
                values("uint8", 5, 5, 3),
                photometric="ycbcr",
                extratags=[(529, 5, 3, (2126, 10000, 7152, 10000, 722, 10000))],
            ),
            "YCBCR of an unusual kind",
        ),
    ],
)
def test_tiff_of_other_colors_is_refused(contents, reason):
    with pytest.raises(UnfitError, match=reason):
        readers.read(contents, Form("uint8", 4 if "SEPARATED" in reason else 3))


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
        (
            npy(values("uint8", 3, 9, 9)),
            Form("uint8", 9),
            r"shape \[3, 9, 9\], with the channels first",
        ),
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
