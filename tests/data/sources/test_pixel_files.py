"""Folders and lists of TIFF, 16-bit PNG, NumPy and DICOM files."""

import cv2
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tifffile

from moco_tf.data import sources
from moco_tf.data.pipeline import first_readable
from moco_tf.errors import UserError
from moco_tf.files import error_reason
from tests.data.test_dicom import STORED, contents, windowed
from tests.images import crops, patch

GENERATOR = np.random.default_rng(0)


def image16(channels=None):
    shape = [9, 8, channels] if channels else [9, 8]
    return GENERATOR.integers(0, 65536, shape, np.uint16)


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix == ".png":
        cv2.imwrite(str(path), image)
    else:
        tifffile.imwrite(path, image, **{"photometric": "minisblack", **options})
    return image


def read(source, index=0):
    return source.read(tf.constant(index, tf.int64)).numpy()


@pytest.mark.parametrize("scheme", ["folder", "files"])
def test_16_bits_of_all_formats(tmp_path, scheme):
    names = ("a/1.tif", "a/2.TIFF", "b/3.png", "b/4.npy", "b/5")
    images = [write(tmp_path / name, image16()) for name in names[:4]]
    (tmp_path / names[4]).write_bytes((tmp_path / names[0]).read_bytes())
    location = tmp_path
    if scheme == "files":
        location = tmp_path / "list.txt"
        location.write_text("".join(f"{name}\n" for name in names))
    source = sources.load(f"{scheme}:{location}", pixels="uint16", channels=1)
    assert (source.size, source.dtype, source.channels) == (5, "uint16", 1)
    assert source.value_range == (0.0, 65535.0)
    for index, image in enumerate([*images, images[0]]):
        np.testing.assert_array_equal(read(source, index)[..., 0], image)


def test_tiff_of_8_bits_is_an_image_by_default(tmp_path):
    image = patch()
    write(tmp_path / "a.tif", image, photometric="rgb")
    PIL.Image.fromarray(image).save(tmp_path / "b.png")
    source = sources.load(f"folder:{tmp_path}")
    assert source.size == 2
    for index in range(2):
        np.testing.assert_array_equal(read(source, index), image)
    assert source.notes == ()


def test_dicom_is_an_image_by_default_with_or_without_a_suffix(tmp_path):
    (tmp_path / "a.dcm").write_bytes(contents(windowed()))
    (tmp_path / "b").write_bytes(contents(windowed()))
    source = sources.load(f"folder:{tmp_path}")
    assert source.size == 2
    assert read(source).shape == (*STORED.shape, 3)
    units = sources.load(f"folder:{tmp_path}", pixels="float32", channels=1, value_range="-160,240")
    np.testing.assert_array_equal(read(units, 1)[..., 0], STORED.astype(np.float64) - 1024)


def test_note_says_where_small_floats_are_white(tmp_path):
    for name, photometric in (("a", "MONOCHROME2"), ("b", "MONOCHROME1")):
        (tmp_path / f"{name}.dcm").write_bytes(contents(windowed(photometric=photometric)))
    name = f"folder:{tmp_path}"
    units = sources.load(name, pixels="float32", channels=1, value_range="-160,240")
    for index in range(2):  # As pydicom returns them, without a window.
        np.testing.assert_array_equal(read(units, index)[..., 0], STORED.astype(np.float64) - 1024)
    [note] = units.notes
    assert note.startswith("note: small values are white in 1 of the 2 files")
    assert f"(MONOCHROME1), such as {tmp_path}/b.dcm, and floats are not inverted" in note
    for dtype in ("uint8", "uint16"):
        levels = sources.load(name, pixels=dtype, channels=1)
        np.testing.assert_array_equal(read(levels, 1), np.iinfo(dtype).max - read(levels, 0))
        assert levels.notes == ()


def test_arrays_are_not_images_by_default(tmp_path):
    PIL.Image.fromarray(patch()).save(tmp_path / "a.png")
    np.save(tmp_path / "labels.npy", np.arange(5))
    source = sources.load(f"folder:{tmp_path}")
    assert source.size == 1
    assert "ignored 1 file: 1 .npy" in source.summary


@pytest.mark.parametrize("channels", [1, 4])
def test_arrays_of_8_bits_are_images_of_a_folder_unless_they_are_rgb(tmp_path, channels):
    image = np.repeat(patch()[..., :1], channels, axis=-1)
    np.save(tmp_path / "a.npy", image)
    source = sources.load(f"folder:{tmp_path}", channels=channels)
    assert (source.size, source.dtype) == (1, "uint8")
    np.testing.assert_array_equal(read(source), image)


def test_arrays_of_rgb_images_of_8_bits_are_named_in_a_list(tmp_path):
    np.save(tmp_path / "a.npy", patch())
    with pytest.raises(UserError, match=r"ignored 1 file: 1 .npy .*; .npy .* a list, files:LIST"):
        sources.load(f"folder:{tmp_path}")
    (tmp_path / "list.txt").write_text("a.npy\n")
    np.testing.assert_array_equal(read(sources.load(f"files:{tmp_path}/list.txt")), patch())


@pytest.mark.parametrize("scheme", ["folder", "files"])
def test_folder_of_16_bits_is_refused_with_the_setting(tmp_path, scheme):
    for number in range(3):
        write(tmp_path / f"{number}.tif", image16())
    location = tmp_path
    if scheme == "files":
        location = tmp_path / "list.txt"
        location.write_text("0.tif\n1.tif\n")
    message = r"0.tif cannot be used, because .* uint16, not uint8: set config.data.pixels=uint16"
    with pytest.raises(UserError, match=message):
        sources.load(f"{scheme}:{location}")


def test_number_of_channels_is_named(tmp_path):
    write(tmp_path / "a.tif", image16(5), planarconfig="contig")
    with pytest.raises(UserError, match=r"5 channels, not 3: set config.data.channels=5"):
        sources.load(f"folder:{tmp_path}", pixels="uint16")
    source = sources.load(f"folder:{tmp_path}", pixels="uint16", channels=5)
    assert read(source).shape == (9, 8, 5)


def test_few_files_of_another_type_are_skipped_with_a_warning(tmp_path):
    for number, image in enumerate(crops(7, 20)):
        PIL.Image.fromarray(image).save(tmp_path / f"{number}.jpg")
    write(tmp_path / "scan.tif", image16())
    source = sources.load(f"folder:{tmp_path}")
    assert source.size == 8
    assert "warning: 1 of the 8 files that were looked at cannot be used" in source.summary
    assert "scan.tif" in source.summary
    assert first_readable(source) == 0
    with pytest.raises(tf.errors.OpError) as error:
        read(source, 7)
    assert error_reason(error.value).startswith("its pixel values are uint16, not uint8: set")


def test_png_of_16_bits_is_cut_with_a_note(tmp_path):
    image = write(tmp_path / "a.png", image16())
    source = sources.load(f"folder:{tmp_path}")
    assert "16 bits per channel of PNG files such as" in source.summary
    assert "set config.data.pixels=uint16" in source.summary
    np.testing.assert_array_equal(read(source), np.stack([image >> 8] * 3, -1))


def test_pages_that_are_not_used_are_noted(tmp_path):
    write(tmp_path / "stack.tif", GENERATOR.integers(0, 65536, [12, 9, 8], np.uint16))
    source = sources.load(f"folder:{tmp_path}", pixels="uint16", channels=1)
    assert "only the first page or frame of a file is used" in source.summary
    assert "stack.tif has 12, and config.data.channels=1" in source.summary
    assert sources.load(f"folder:{tmp_path}", pixels="uint16", channels=12).notes == ()


def test_orientation_is_honored_on_request(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(patch()).save(tmp_path / "a.png", exif=exif)
    stored = read(sources.load(f"folder:{tmp_path}"))
    np.testing.assert_array_equal(stored, patch())
    turned = read(sources.load(f"folder:{tmp_path}", orientation=True))
    np.testing.assert_array_equal(turned, np.rot90(patch(), -1))
