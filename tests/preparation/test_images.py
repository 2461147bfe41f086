"""Image files at a bounded size, against Pillow."""

import io

import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from PIL import Image

from moco_tf.data.decoding import decode
from moco_tf.preparation.images import prepare_file, prepare_pixels

PHOTOGRAPH = skimage.data.astronaut()[:240, :320]


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(contents):
    return np.asarray(Image.open(io.BytesIO(contents)).convert("RGB")).astype(int)


@pytest.mark.parametrize(("format", "suffix"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_small_files_are_copied(format, suffix):
    contents = encoded(PHOTOGRAPH, format)
    assert prepare_file(contents, 320, 90) == (contents, suffix, 240, 320, True)


@pytest.mark.parametrize("format", ["GIF", "BMP"])
def test_other_small_files_become_png_without_loss(format):
    contents = encoded(PHOTOGRAPH, format)
    image = prepare_file(contents, 400, 90)
    assert image[1:] == ("png", 240, 320, False)
    np.testing.assert_array_equal(pixels(image.contents), pixels(contents))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "MPO"])
@pytest.mark.parametrize("max_side", [160, 37])
def test_large_files_are_shrunk(format, max_side):
    options = {"lossless": True} if format == "WEBP" else {}
    options |= {"quality": 95} if format in ("JPEG", "MPO") else {}
    contents = encoded(PHOTOGRAPH, format, **options)
    image = prepare_file(contents, max_side, 95)
    size = (max_side, round(max_side * 3 / 4))
    assert image[1:] == ("jpg", size[1], size[0], False)
    original = Image.open(io.BytesIO(contents)).convert("RGB")
    resized = original.resize(size, Image.Resampling.LANCZOS)
    expected = pixels(encoded(resized, "JPEG", quality=95))
    # The original is first shrunk by a power of two, which takes less time.
    assert np.abs(pixels(image.contents) - expected).mean() < 2
    np.testing.assert_array_equal(
        decode(tf.constant(image.contents)).numpy().shape, pixels(image.contents).shape
    )


def test_portrait_and_extreme_shapes():
    tall = np.ascontiguousarray(PHOTOGRAPH.transpose(1, 0, 2))
    assert prepare_file(encoded(tall, "JPEG"), 160, 90)[2:4] == (160, 120)
    line = np.zeros((2, 3000, 3), np.uint8)
    assert prepare_file(encoded(line, "PNG"), 100, 90)[2:4] == (1, 100)


def test_orientation_is_not_applied_and_metadata_are_dropped():
    exif = Image.Exif()
    exif[0x0112] = 6  # Rotated by a quarter.
    image = Image.fromarray(PHOTOGRAPH)
    contents = encoded(image, "JPEG", exif=exif, comment=b"secret", icc_profile=b"p" * 200)
    prepared = prepare_file(contents, 160, 90)
    assert (prepared.height, prepared.width) == (120, 160)
    opened = Image.open(io.BytesIO(prepared.contents))
    assert not opened.getexif()
    assert not {"comment", "icc_profile", "exif"} & set(opened.info)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_modes_of_jpeg(mode):
    contents = encoded(Image.fromarray(PHOTOGRAPH).convert(mode), "JPEG", quality=95)
    image = prepare_file(contents, 160, 95)
    original = Image.open(io.BytesIO(contents)).convert("RGB")
    expected = np.asarray(original.resize((160, 120), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(pixels(image.contents) - expected).mean() < 3.5


def test_png_is_read_as_in_training():
    """16 bits keep the upper 8, and transparency is dropped."""
    gray = (np.arange(240 * 320).reshape(240, 320) // 2).astype(np.uint16)
    image = prepare_file(encoded(Image.fromarray(gray), "PNG"), 160, 95)
    assert np.abs(pixels(image.contents)[..., 0] - (gray >> 8)[1::2, 1::2]).max() < 6
    rgba = np.dstack([PHOTOGRAPH, np.zeros((240, 320), np.uint8)])
    image = prepare_file(encoded(rgba, "PNG"), 160, 95)
    expected = pixels(prepare_file(encoded(PHOTOGRAPH, "PNG"), 160, 95).contents)
    np.testing.assert_array_equal(pixels(image.contents), expected)


def test_quality_decides_the_size():
    contents = encoded(PHOTOGRAPH, "JPEG", quality=95)
    sizes = [len(prepare_file(contents, 200, quality).contents) for quality in (30, 60, 95)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("max_side", [100, 1000])
def test_damaged_files_are_errors(format, max_side):
    contents = encoded(PHOTOGRAPH, format)
    for damaged in (contents[: len(contents) // 2], contents[:30], b"", b"text"):
        with pytest.raises(tf.errors.OpError):
            prepare_file(damaged, max_side, 90)


def test_impossible_size_is_refused_before_memory_is_allocated():
    contents = bytearray(encoded(PHOTOGRAPH, "JPEG"))
    position = contents.index(b"\xff\xc0") + 5
    contents[position : position + 4] = b"\xea\x60\xea\x60"  # 60,000 x 60,000 pixels.
    with pytest.raises(tf.errors.OpError):
        prepare_file(bytes(contents), 100, 90)


def test_arrays():
    small = prepare_pixels(PHOTOGRAPH, 320, 90)
    assert small[1:] == ("png", 240, 320, False)
    np.testing.assert_array_equal(pixels(small.contents), PHOTOGRAPH)
    assert prepare_pixels(PHOTOGRAPH, 160, 90)[1:] == ("jpg", 120, 160, False)
