"""Pixels of image files against Pillow's, and refusal of damaged and hostile files."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from PIL import Image, ImageFile, WebPImagePlugin

from moco_tf.data import decoding
from moco_tf.data.readers import raster
from tests.command import ROOT

# No side is a multiple of 4 or 8, so that every kind of padding occurs.
COLOR = Image.fromarray(skimage.data.astronaut()[40:73, 150:201])
GRAY = COLOR.convert("L")
PALETTE = COLOR.quantize(200)
ALPHA = Image.fromarray(np.arange(33 * 51, dtype=np.uint8).reshape(33, 51))
RGBA = COLOR.copy()
RGBA.putalpha(ALPHA)


def encode(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def decode(contents):
    image = decoding.decode(tf.constant(contents))
    assert image.dtype == tf.uint8
    return image.numpy().astype(int)


def decode_by_pillow(contents):
    return np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"), int)


def assert_same_colors(contents, image):
    """Assert that a file holds exactly the colors of an image, transparent pixels included."""
    np.testing.assert_array_equal(decode(contents), np.asarray(image.convert("RGB")))


def assert_refused(contents):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        decoding.decode(tf.constant(contents))
    assert "Pillow decodes pixels" not in str(error.value)


# PNG.


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (COLOR, {}),
        (COLOR, {"transparency": COLOR.getpixel((3, 3))}),
        (RGBA, {}),
        (GRAY, {}),
        (GRAY, {"transparency": 100}),
        (RGBA.convert("LA"), {}),
        (PALETTE, {}),
        (PALETTE, {"transparency": 3}),
        (PALETTE, {"transparency": bytes(range(200))}),
        (COLOR.quantize(16), {}),
        (COLOR.quantize(4), {}),
        (COLOR.quantize(2), {}),
        (COLOR.convert("1"), {}),
    ],
)
def test_png_has_the_pixels_of_the_image(image, options):
    assert_same_colors(encode(image, "PNG", **options), image)


def encode_png(samples, depth, color_type, interlaced=False):
    """Encode `[H, W, channels]` integers; Pillow writes neither 16 bits nor interlaced files."""
    passes = [(0, 0, 1, 1)]
    if interlaced:  # Adam7: first column and row of each pass, and the steps to the next
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4)]
        passes += [(1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b""
    for left, top, column_step, row_step in passes:
        for row in samples[top::row_step, left::column_step]:
            rows += b"\0" + row.astype(">u2" if depth == 16 else np.uint8).tobytes()
    height, width, _ = samples.shape
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_upper_eight_of_sixteen_bits_are_kept(color_type, channels, interlaced):
    samples = np.random.default_rng(0).integers(0, 65536, [33, 51, channels])
    expected = samples[..., : 3 if channels > 2 else 1] >> 8
    pixels = decode(encode_png(samples, 16, color_type, interlaced))
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, [33, 51, 3]))


@pytest.mark.parametrize("image", [COLOR, RGBA, GRAY])
def test_interlaced_png_has_the_pixels_of_the_image(image):
    samples = np.asarray(image).reshape(33, 51, -1)
    color_type = {1: 0, 3: 2, 4: 6}[samples.shape[-1]]
    contents = encode_png(samples, 8, color_type, interlaced=True)
    assert_same_colors(contents, image)
    np.testing.assert_array_equal(decode(contents), decode_by_pillow(contents))


# JPEG. The fast integer DCT is not Pillow's accurate one.


def assert_close_to_pillow(contents):
    pixels = decode(contents)
    error = np.abs(pixels - decode_by_pillow(contents))
    assert error.mean() < 1.5
    assert error.max() <= 8
    fast = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_FAST")
    np.testing.assert_array_equal(pixels, fast)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("image", [COLOR, GRAY])
def test_jpeg_is_close_to_pillow(image, subsampling, progressive):
    options = {"subsampling": subsampling, "progressive": progressive}
    assert_close_to_pillow(encode(image, "JPEG", quality=90, **options))


def color_code_position(jpeg):
    """Return the position of the color code in Adobe's segment: 0 is CMYK, 2 is YCCK."""
    position = jpeg.index(b"\xff\xee\x00\x0eAdobe") + 15
    assert jpeg[position] == 0
    return position


def as_ycck(jpeg):
    """Return the same numbers, declared to be YCCK."""
    position = color_code_position(jpeg)
    return jpeg[:position] + b"\2" + jpeg[position + 1 :]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("change", [bytes, as_ycck])
def test_cmyk_and_ycck_jpeg_are_close_to_pillow(change, progressive):
    """Pillow writes CMYK inverted, with Adobe's segment, as Photoshop does."""
    contents = encode(COLOR.convert("CMYK"), "JPEG", quality=90, progressive=progressive)
    contents = change(contents)
    if change is as_ycck:  # three colors, rounded twice and multiplied by the fourth
        assert np.abs(decode(contents) - decode_by_pillow(contents)).max() <= 12
    else:
        assert_close_to_pillow(contents)


def test_cmyk_jpeg_without_adobes_segment_is_not_inverted():
    """Without Adobe's segment the numbers are ink, and the reference is computed from them."""
    inverted = encode(COLOR.convert("CMYK"), "JPEG", quality=95)
    position = color_code_position(inverted)
    contents = inverted[: position - 15] + inverted[position + 1 :]
    # Pillow inverts the numbers of the file with the segment.
    ink = 255 - np.asarray(Image.open(io.BytesIO(inverted)), int)
    expected = (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255
    assert np.abs(decode(contents) - expected).max() <= 8


def test_exif_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    contents = encode(COLOR, "JPEG", exif=exif)
    assert Image.open(io.BytesIO(contents)).getexif()[0x0112] == 6
    assert_close_to_pillow(contents)  # without ImageOps.exif_transpose


# GIF, BMP and WebP.


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize(
    ("image", "options"),
    [
        (PALETTE, {}),
        (PALETTE, {"transparency": 3}),
        (PALETTE, {"transparency": 255}),  # a color that no pixel has
        (COLOR.quantize(4), {}),
        (GRAY, {}),
        (GRAY, {"transparency": 100}),
    ],
)
def test_gif_has_the_pixels_of_the_image(image, options, interlace):
    contents = encode(image, "GIF", interlace=interlace, **options)
    assert_same_colors(contents, image)


@pytest.mark.parametrize("options", [{}, {"transparency": 3}, {"disposal": 2}])
def test_animated_gif_is_decoded_to_its_first_frame(options):
    others = [PALETTE.rotate(angle) for angle in (90, 180)]
    contents = encode(PALETTE, "GIF", save_all=True, append_images=others, duration=100, **options)
    assert Image.open(io.BytesIO(contents)).n_frames == 3
    assert_same_colors(contents, PALETTE)


def test_gif_frame_is_placed_on_its_larger_canvas():
    contents = bytearray(encode(PALETTE, "GIF"))
    contents[6:10] = struct.pack("<HH", 60, 40)
    pixels = decode(bytes(contents))
    assert pixels.shape == (40, 60, 3)
    np.testing.assert_array_equal(pixels[:33, :51], np.asarray(PALETTE.convert("RGB")))


def top_down(bmp):
    """Return a BMP file with the same rows, of which the first is now the top one."""
    height = struct.unpack_from("<i", bmp, 22)[0]
    return bmp[:22] + struct.pack("<i", -height) + bmp[26:]


@pytest.mark.parametrize(
    "image",
    [COLOR, RGBA, GRAY, PALETTE, COLOR.quantize(16), COLOR.convert("1")],
    ids=lambda image: image.mode,
)
def test_bmp_has_the_pixels_of_the_image(image):
    contents = encode(image, "BMP")
    assert_same_colors(contents, image)
    assert_same_colors(top_down(contents), image.transpose(Image.Transpose.FLIP_TOP_BOTTOM))


@pytest.mark.parametrize("image", [COLOR, RGBA, GRAY], ids=lambda image: image.mode)
def test_webp_has_the_pixels_of_the_image(image):
    assert_same_colors(encode(image, "WEBP", lossless=True, exact=True), image)
    lossy = encode(image, "WEBP", quality=80)
    np.testing.assert_array_equal(decode(lossy), decode_by_pillow(lossy))


@pytest.mark.parametrize("image", [COLOR, RGBA], ids=lambda image: image.mode)
def test_animated_webp_is_decoded_to_its_first_frame(image):
    contents = encode(
        image,
        "WEBP",
        lossless=True,
        exact=True,
        save_all=True,
        append_images=[image.rotate(180)],
        duration=100,
    )
    assert Image.open(io.BytesIO(contents)).n_frames == 2
    # The encoder of animations keeps no color of fully transparent pixels.
    visible = np.asarray(image.convert("RGBA"))[..., 3] > 0
    np.testing.assert_array_equal(
        decode(contents)[visible], np.asarray(image.convert("RGB"))[visible]
    )


# Damaged and hostile files.

FILES = {
    "JPEG": encode(COLOR, "JPEG"),
    "progressive JPEG": encode(COLOR, "JPEG", progressive=True),
    "PNG": encode(COLOR, "PNG"),
    "GIF": encode(PALETTE, "GIF"),
    "BMP": encode(COLOR, "BMP"),
    "WebP": encode(COLOR, "WEBP"),
    "lossless WebP": encode(COLOR, "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", FILES)
def test_truncated_file_is_refused(name):
    contents = FILES[name]
    for end in [0, 2, 10, 20, 30, 60, *np.linspace(100, len(contents) - 20, 8, dtype=int)]:
        assert_refused(contents[:end])


def test_truncated_file_is_an_error_in_a_dataset():
    """`ignore_errors` drops every error, and a damaged file does not affect other files."""
    whole = list(FILES.values())
    truncated = [contents[: len(contents) // 2] for contents in whole]
    mixed = [contents for pair in zip(whole, truncated, strict=True) for contents in pair] * 10
    images = (
        tf.data.Dataset.from_tensor_slices([*mixed, b"", b"text"])
        .map(decoding.decode, num_parallel_calls=8, deterministic=True)
        .ignore_errors(log_warning=False)
    )
    assert images.element_spec.shape.as_list() == [None, None, 3]
    expected = [decode(contents) for contents in whole] * 10
    for image, pixels in zip(images.as_numpy_iterator(), expected, strict=True):
        np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "optimize": True, "quality": 10}),
        ("PNG", {"compress_level": 9}),
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 10}),
        ("BMP", {}),
    ],
)
def test_large_image_of_one_color_is_decoded(file_format, options):
    image = Image.new("1", (3000, 2000), 1)
    if file_format == "WEBP":
        image = image.convert("RGB")
    pixels = decode(encode(image, file_format, **options))
    assert pixels.shape == (2000, 3000, 3)
    assert np.ptp(pixels) <= 1


def test_large_run_length_encoded_bmp_of_one_color_is_decoded():
    row = b"\xff\x07" * 10 + b"\0\0"  # ten runs of 255 pixels, and the end of the line
    data = row * 100 + b"\0\1"
    palette = bytes(7 * 4) + b"\x30\x20\x10\0" + bytes(248 * 4)
    header = struct.pack("<IiiHHIIiiII", 40, 2550, 100, 1, 8, 1, len(data), 0, 0, 256, 0)
    start = 14 + len(header) + len(palette)
    file_header = struct.pack("<2sIII", b"BM", start + len(data), 0, start)
    pixels = decode(file_header + header + palette + data)
    np.testing.assert_array_equal(pixels, np.broadcast_to([16, 32, 48], (100, 2550, 3)))


KINDS = ["JPEG", "PNG", "GIF", "GIF picture", "BMP", "WebP", "lossless WebP"]


def with_size(image_kind, width, height):
    """Return a small file of one of `KINDS` with another size in its header."""
    if image_kind == "PNG":
        contents = encode(COLOR, image_kind)
        header = b"IHDR" + struct.pack(">II", width, height) + contents[24:29]
        return contents[:12] + header + struct.pack(">I", zlib.crc32(header)) + contents[33:]
    if image_kind == "JPEG":
        contents = encode(COLOR, image_kind)
        position = contents.index(b"\xff\xc0") + 5
        return contents[:position] + struct.pack(">HH", height, width) + contents[position + 4 :]
    if image_kind == "GIF":
        contents = encode(PALETTE, image_kind)
        return contents[:6] + struct.pack("<HH", width, height) + contents[10:]
    if image_kind == "GIF picture":
        contents = encode(PALETTE, "GIF")
        position = contents.index(b"," + struct.pack("<HHHH", 0, 0, 51, 33)) + 5
        return contents[:position] + struct.pack("<HH", width, height) + contents[position + 4 :]
    if image_kind == "BMP":
        contents = encode(COLOR, image_kind)
        return contents[:18] + struct.pack("<ii", width, height) + contents[26:]
    contents = encode(COLOR, "WEBP", lossless=image_kind == "lossless WebP")
    if image_kind == "lossless WebP":
        bits = struct.pack("<I", width - 1 | height - 1 << 14)
        return contents[:21] + bits + contents[25:]
    return contents[:26] + struct.pack("<HH", width, height) + contents[30:]


@pytest.mark.parametrize("image_kind", KINDS)
def test_with_size_changes_the_size_in_the_header_only(image_kind):
    assert decode(with_size(image_kind, 51, 33)).shape == (33, 51, 3)


@pytest.fixture(params=["default", "disabled"])
def pillow_limit(request, monkeypatch):
    """Pillow's own limit, unchanged and disabled, as some programs do."""
    if request.param == "disabled":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)


@pytest.fixture
def no_pixels_decoded(monkeypatch):
    """Fail if Pillow starts to decode pixels."""

    def load(image):
        raise AssertionError("Pillow decodes pixels")

    for class_ in (ImageFile.ImageFile, WebPImagePlugin.WebPImageFile):
        monkeypatch.setattr(class_, "load", load)


@pytest.mark.parametrize("image_kind", KINDS)
@pytest.mark.usefixtures("pillow_limit", "no_pixels_decoded")
def test_more_pixels_than_the_bytes_can_encode_are_refused(image_kind):
    largest = 16383 if "WebP" in image_kind else 65535
    assert_refused(with_size(image_kind, largest, largest))


@pytest.mark.parametrize("image_kind", KINDS)
@pytest.mark.usefixtures("pillow_limit", "no_pixels_decoded")
def test_more_pixels_than_the_limit_are_refused(image_kind, monkeypatch):
    for file_format in raster.MAX_PIXELS_PER_BYTE:
        monkeypatch.setitem(raster.MAX_PIXELS_PER_BYTE, file_format, 2**32)
    assert_refused(with_size(image_kind, 13378, 13378))  # 13377 squared is below the limit


@pytest.mark.parametrize("image_kind", ["PNG", "BMP"])
@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (1, 2**31 - 1)])
@pytest.mark.usefixtures("pillow_limit", "no_pixels_decoded")
def test_sizes_whose_product_overflows_are_refused(image_kind, size):
    assert_refused(with_size(image_kind, *size))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_limit_is_inclusive(file_format, monkeypatch):
    contents = encode(COLOR, file_format)
    for module in (decoding, raster):
        monkeypatch.setattr(module, "MAX_PIXELS", 51 * 33)
    assert decode(contents).shape == (33, 51, 3)
    for module in (decoding, raster):
        monkeypatch.setattr(module, "MAX_PIXELS", 51 * 33 - 1)
    assert_refused(contents)


def test_limit_is_the_default_of_pillow():
    assert decoding.MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("file_format", ["PPM", "ICO", "TGA"])
def test_other_formats_are_refused(file_format):
    assert_refused(encode(COLOR, file_format))


@pytest.mark.slow
def test_pillow_does_not_warn_of_large_images():
    """In a process of its own, because pytest has its own filters of warnings."""
    script = """
import io, sys
from PIL import Image
from moco_tf.data import decoding
from tests.command import ROOT
file = io.BytesIO()
Image.new("RGB", (51, 33)).save(file, "BMP")
Image.MAX_IMAGE_PIXELS = 51 * 33 - 1
assert decoding.decode(file.getvalue()).shape == (33, 51, 3)
"""
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "Warning" not in process.stderr
