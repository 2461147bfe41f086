"""Files of every kind against Pillow's reading of them."""

import io
import struct
import zlib

import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from PIL import Image

from moco_tf.data import decoding

# No side is a multiple of 4 or 8, so that every kind of padding is there.
COLOUR = Image.fromarray(skimage.data.astronaut()[40:73, 150:201])
GREY = COLOUR.convert("L")
PALETTE = COLOUR.quantize(200)
ALPHA = Image.fromarray(np.arange(33 * 51, dtype=np.uint8).reshape(33, 51))
RGBA = COLOUR.copy()
RGBA.putalpha(ALPHA)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(contents):
    image = decoding.decode(tf.constant(contents))
    assert image.dtype == tf.uint8
    return image.numpy().astype(int)


def by_pillow(contents):
    image = Image.open(io.BytesIO(contents))
    # Through RGBA: Pillow would look for a transparent colour that no pixel has.
    return np.asarray((image.convert("RGBA") if image.mode == "P" else image).convert("RGB"), int)


def same(contents, tolerance=0):
    np.testing.assert_allclose(decoded(contents), by_pillow(contents), rtol=0, atol=tolerance)


def refused(contents):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoding.decode(tf.constant(contents))


# Of PNG.


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (COLOUR, {}),
        (COLOUR, {"transparency": COLOUR.getpixel((3, 3))}),
        (RGBA, {}),
        (GREY, {}),
        (GREY, {"transparency": 100}),
        (RGBA.convert("LA"), {}),
        (PALETTE, {}),
        (PALETTE, {"transparency": 3}),
        (PALETTE, {"transparency": bytes(range(200))}),
        (COLOUR.quantize(16), {}),
        (COLOUR.quantize(4), {}),
        (COLOUR.quantize(2), {}),
        (COLOUR.convert("1"), {}),
    ],
)
def test_png(image, options):
    contents = encoded(image, "PNG", **options)
    np.testing.assert_array_equal(decoded(contents), np.asarray(image.convert("RGB")))


def png(samples, depth, colour, interlaced=False):
    """A PNG file of `[H, W, channels]` integers; Pillow writes neither 16 bits nor interlaced."""
    passes = [(0, 0, 1, 1)]
    if interlaced:  # Adam7: first column and row of each pass, and the steps to the next
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4)]
        passes += [(1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b""
    for left, top, across, down in passes:
        for row in samples[top::down, left::across]:
            rows += b"\0" + row.astype(">u2" if depth == 16 else np.uint8).tobytes()
    height, width, _ = samples.shape
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_of_sixteen_bits_the_upper_eight_are_kept(colour, channels, interlaced):
    samples = np.random.default_rng(0).integers(0, 65536, [33, 51, channels])
    expected = samples[..., : 3 if channels > 2 else 1] >> 8
    found = decoded(png(samples, 16, colour, interlaced))
    np.testing.assert_array_equal(found, np.broadcast_to(expected, [33, 51, 3]))


@pytest.mark.parametrize("image", [COLOUR, RGBA, GREY])
def test_interlaced_png(image):
    samples = np.asarray(image).reshape(33, 51, -1)
    colour = {1: 0, 3: 2, 4: 6}[samples.shape[-1]]
    contents = png(samples, 8, colour, interlaced=True)
    same(contents)
    np.testing.assert_array_equal(decoded(contents), np.asarray(image.convert("RGB")))


# Of JPEG. The fast integer DCT is not Pillow's accurate one.


def jpeg_is_as_by_pillow(contents):
    error = np.abs(decoded(contents) - by_pillow(contents))
    assert error.mean() < 1.5 and error.max() <= 8
    fast = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_FAST")
    np.testing.assert_array_equal(decoded(contents), fast)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("image", [COLOUR, GREY])
def test_jpeg(image, subsampling, progressive):
    options = {"subsampling": subsampling, "progressive": progressive}
    jpeg_is_as_by_pillow(encoded(image, "JPEG", quality=90, **options))


def adobe(contents):
    """Where Adobe's segment has the code of the colours: 0 is CMYK, 2 is YCCK."""
    place = contents.index(b"\xff\xee\x00\x0eAdobe") + 15
    assert contents[place] == 0
    return place


def as_ycck(contents):
    """The same numbers, said to be YCCK."""
    place = adobe(contents)
    return contents[:place] + b"\2" + contents[place + 1 :]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("change", [bytes, as_ycck])
def test_jpegs_for_print(change, progressive):
    """Pillow writes CMYK inverted, with Adobe's segment, as Photoshop does."""
    contents = encoded(COLOUR.convert("CMYK"), "JPEG", quality=90, progressive=progressive)
    contents = change(contents)
    if change is as_ycck:  # three colours rounded twice, and multiplied by the fourth
        assert np.abs(decoded(contents) - by_pillow(contents)).max() <= 12
    else:
        jpeg_is_as_by_pillow(contents)


def test_cmyk_jpegs_that_are_not_inverted():
    """Without Adobe's segment the numbers are ink; the reference is that, by its formula."""
    inverted = encoded(COLOUR.convert("CMYK"), "JPEG", quality=95)
    place = adobe(inverted)
    contents = inverted[: place - 15] + inverted[place + 1 :]
    # The numbers are those of the inverted picture, 255 less than none.
    ink = 255 - np.asarray(Image.open(io.BytesIO(inverted)), int)
    expected = (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255
    assert np.abs(decoded(contents) - expected).max() <= 8


def test_the_orientation_noted_in_exif_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    contents = encoded(COLOUR, "JPEG", exif=exif)
    assert Image.open(io.BytesIO(contents)).getexif()[0x0112] == 6
    jpeg_is_as_by_pillow(contents)  # without ImageOps.exif_transpose


# Of GIF, BMP and WebP.


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize(
    ("image", "options"),
    [
        (PALETTE, {}),
        (PALETTE, {"transparency": 3}),
        (PALETTE, {"comment": b"of 300 bytes" * 25}),
        (COLOUR.quantize(4), {}),
        (GREY, {}),
    ],
)
def test_gif(image, options, interlace):
    contents = encoded(image, "GIF", interlace=interlace, **options)
    np.testing.assert_array_equal(decoded(contents), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("transparency", [{}, {"transparency": 3}])
def test_of_an_animated_gif_the_first_picture_is_read(transparency):
    others = [PALETTE.rotate(angle) for angle in (90, 180)]
    options = {"save_all": True, "append_images": others, "duration": 100, **transparency}
    contents = encoded(PALETTE, "GIF", **options)
    assert Image.open(io.BytesIO(contents)).n_frames == 3
    np.testing.assert_array_equal(decoded(contents), np.asarray(PALETTE.convert("RGB")))


def test_a_gif_picture_smaller_than_its_screen_is_read_without_the_rest():
    contents = bytearray(encoded(PALETTE, "GIF"))
    contents[6:10] = struct.pack("<HH", 60, 40)
    np.testing.assert_array_equal(decoded(bytes(contents)), np.asarray(PALETTE.convert("RGB")))


def top_down(bmp):
    """The same rows, of which the first is now the upper one."""
    height = struct.unpack_from("<i", bmp, 22)[0]
    return bmp[:22] + struct.pack("<i", -height) + bmp[26:]


@pytest.mark.parametrize("change", [bytes, top_down])
@pytest.mark.parametrize(
    "image",
    [COLOUR, RGBA, GREY, PALETTE, COLOUR.quantize(16), COLOUR.convert("1")],
    ids=lambda image: image.mode,
)
def test_bmp(image, change):
    same(change(encoded(image, "BMP")))


@pytest.mark.parametrize("depth", [1, 4])
def test_bmps_of_several_pixels_in_a_byte(depth):
    """Pillow writes two colours in black and white alone, and sixteen not at all."""
    colours = np.random.default_rng(0).integers(0, 256, [2**depth, 3], np.uint8)
    indices = np.random.default_rng(1).integers(0, 2**depth, [5, 11])
    expected = colours[indices]
    rows = b""
    for row in indices[::-1]:
        bits = "".join(f"{index:0{depth}b}" for index in row)
        rows += int(bits.ljust(64, "0"), 2).to_bytes(8, "big")
    if depth == 1:  # eleven bits fit into the four bytes that a row takes at the least
        rows = b"".join(rows[i : i + 4] for i in range(0, len(rows), 8))
    table = np.pad(colours[:, ::-1], [(0, 0), (0, 1)]).tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, 11, 5, 1, depth, 0, 0, 0, 0, 0, 0)
    start = 54 + len(table)
    contents = struct.pack("<2sIII", b"BM", start + len(rows), 0, start) + header + table + rows
    np.testing.assert_array_equal(decoded(contents), expected)
    same(contents)
    # The same in the older header, whose colours take three bytes.
    table = colours[:, ::-1].tobytes()
    header = struct.pack("<IHHHH", 12, 11, 5, 1, depth)
    start = 26 + len(table)
    contents = struct.pack("<2sIII", b"BM", start + len(rows), 0, start) + header + table + rows
    np.testing.assert_array_equal(decoded(contents), expected)
    same(contents)


def test_bmps_of_other_kinds_are_refused_and_not_misread():
    contents = encoded(COLOUR, "BMP")
    for depth, compression in ((16, 0), (8, 1), (4, 2), (24, 4)):
        refused(contents[:28] + struct.pack("<HI", depth, compression) + contents[34:])


@pytest.mark.parametrize("image", [COLOUR, RGBA, GREY], ids=lambda image: image.mode)
@pytest.mark.parametrize("options", [{"lossless": True, "exact": True}, {"quality": 80}])
def test_webp(image, options):
    contents = encoded(image, "WEBP", **options)
    # Pillow decodes lossy files with alpha as RGBA, by other code than those without.
    same(contents, tolerance=0 if "lossless" in options else 2)
    if "lossless" in options:
        np.testing.assert_array_equal(decoded(contents), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("image", [COLOUR, RGBA], ids=lambda image: image.mode)
def test_of_an_animated_webp_the_first_picture_is_read(image, lossless):
    options = {"save_all": True, "append_images": [image.rotate(180)], "duration": 100}
    contents = encoded(image, "WEBP", lossless=lossless, exact=True, **options)
    assert Image.open(io.BytesIO(contents)).n_frames == 2
    # Of a pixel that nobody sees the writer of animations keeps no colour.
    seen = np.asarray(image.convert("RGBA"))[..., 3] > 0
    error = np.abs(decoded(contents) - by_pillow(contents))[seen]
    assert error.max() <= (0 if lossless else 2)
    if lossless:
        np.testing.assert_array_equal(
            decoded(contents)[seen], np.asarray(image.convert("RGB"))[seen]
        )


# The guard.


@pytest.mark.parametrize(
    ("kind", "options"),
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
@pytest.mark.parametrize("mode", ["1", "L"])
def test_a_picture_of_one_colour_is_not_taken_for_an_impossible_one(kind, options, mode):
    image = Image.new(mode, (3000, 2000), 1)
    if kind == "WEBP":
        image = image.convert("RGB")
    contents = encoded(image, kind, **options)
    found = decoded(contents)
    assert found.shape == (2000, 3000, 3)
    assert np.ptp(found) <= 1


def with_size(kind, width, height):
    """A small file with another size in its header."""
    if kind == "PNG":
        contents = encoded(COLOUR, kind)
        header = b"IHDR" + struct.pack(">II", width, height) + contents[24:29]
        return contents[:12] + header + struct.pack(">I", zlib.crc32(header)) + contents[33:]
    if kind == "JPEG":
        contents = encoded(COLOUR, kind)
        place = contents.index(b"\xff\xc0") + 5
        return contents[:place] + struct.pack(">HH", height, width) + contents[place + 4 :]
    if kind == "GIF":
        contents = encoded(PALETTE, kind)
        return contents[:6] + struct.pack("<HH", width, height) + contents[10:]
    if kind == "GIF picture":
        contents = encoded(PALETTE, "GIF")
        place = contents.index(b"," + struct.pack("<HHHH", 0, 0, 51, 33)) + 5
        return contents[:place] + struct.pack("<HH", width, height) + contents[place + 4 :]
    if kind == "BMP":
        contents = encoded(COLOUR, kind)
        return contents[:18] + struct.pack("<ii", width, height) + contents[26:]
    contents = encoded(COLOUR, "WEBP", lossless=kind == "lossless WebP")
    if kind == "lossless WebP":
        bits = struct.pack("<I", width - 1 | height - 1 << 14)
        return contents[:21] + bits + contents[25:]
    return contents[:26] + struct.pack("<HH", width, height) + contents[30:]


KINDS = ["JPEG", "PNG", "GIF", "GIF picture", "BMP", "WebP", "lossless WebP"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_in_the_header_is_what_is_changed(kind):
    assert decoded(with_size(kind, 51, 33)).shape == (33, 51, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_more_pixels_than_the_bytes_can_hold_are_refused(kind):
    largest = 16383 if "WebP" in kind else 65535
    refused(with_size(kind, largest, largest))


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (1, 2**31 - 1)])
def test_sizes_whose_product_overflows_are_refused(kind, size):
    refused(with_size(kind, *size))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_no_more_pixels_than_pillow_takes(kind, monkeypatch):
    contents = encoded(COLOUR, kind)
    monkeypatch.setattr(decoding, "MOST_PIXELS", 51 * 33)
    assert decoded(contents).shape == (33, 51, 3)
    monkeypatch.setattr(decoding, "MOST_PIXELS", 51 * 33 - 1)
    refused(contents)


def test_the_limit_is_pillows():
    assert decoding.MOST_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO"])
def test_other_kinds_of_files_are_refused(kind):
    refused(encoded(COLOUR, kind))
