"""Folders of images: what is found, labelled, held out, read and refused."""

import os

import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from PIL import Image

from moco_tf.data import sources
from moco_tf.errors import UserError

PHOTOS = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]


def photo(number, size=40):
    image = PHOTOS[number % 3]
    top = 7 * number % (image.shape[0] - size)
    return Image.fromarray(image[top : top + size, 100 : 100 + size + 8])


def write(folder, *paths, **options):
    for number, path in enumerate(paths):
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        photo(number).save(place, **options)


def load(folder):
    return sources.load(f"folder:{folder}")


def found(source, folder):
    return [os.path.relpath(source.describe(index), folder) for index in range(source.size)]


def read(source, index):
    return source.read(tf.constant(index, tf.int64)).numpy().astype(int)


def test_subfolders_name_the_classes(tmp_path):
    write(tmp_path, "dog/b.jpg", "dog/a.jpg", "cat/c.png", "emu/d.jpeg")
    source = load(tmp_path)
    assert source.name == f"folder:{tmp_path}"
    assert source.size == 4
    assert source.class_names == ["cat", "dog", "emu"]
    assert found(source, tmp_path) == ["cat/c.png", "dog/a.jpg", "dog/b.jpg", "emu/d.jpeg"]
    assert source.labels.tolist() == [0, 1, 1, 2]
    assert source.labels.dtype == np.int32


def test_the_first_level_names_the_class_of_deeper_folders(tmp_path):
    write(tmp_path, "dog/old/2019/a.jpg", "dog/b.jpg", "cat/cat/c.jpg", "cat/dog/d.jpg")
    source = load(tmp_path)
    labels = {
        path: source.class_names[label]
        for path, label in zip(found(source, tmp_path), source.labels, strict=True)
    }
    assert labels == {
        "dog/old/2019/a.jpg": "dog",
        "dog/b.jpg": "dog",
        "cat/cat/c.jpg": "cat",
        "cat/dog/d.jpg": "cat",
    }


@pytest.mark.parametrize(
    "paths",
    [
        ["a.jpg", "b.jpg", "c.png"],  # flat
        ["only/a.jpg", "only/b.jpg"],  # one class
        ["dog/a.jpg", "cat/b.jpg", "loose.jpg"],  # an image without a class
    ],
)
def test_there_are_no_labels_without_two_folders_that_hold_every_image(tmp_path, paths):
    write(tmp_path, *paths)
    source = load(tmp_path)
    assert source.size == len(paths)
    assert source.labels is None
    assert source.class_names is None


def test_upper_case_and_missing_suffixes_are_images_too(tmp_path):
    write(tmp_path, "a.JPG", "b.Jpeg", "c.PNG")
    write(tmp_path, "n01440764_10026", format="JPEG")
    source = load(tmp_path)
    assert found(source, tmp_path) == ["a.JPG", "b.Jpeg", "c.PNG", "n01440764_10026"]
    for index in range(4):
        assert read(source, index).shape == (40, 48, 3)


def test_other_files_are_listed_and_hidden_ones_are_not(tmp_path):
    write(tmp_path, "dog/a.jpg", "cat/b.jpg", "cat/c.gif", "cat/.hidden.jpg")
    (tmp_path / "labels.csv").write_text("a,b\n")
    (tmp_path / ".DS_Store").write_text("")
    source = load(tmp_path)
    assert found(source, tmp_path) == ["cat/b.jpg", "dog/a.jpg"]
    assert source.ignored == [str(tmp_path / "cat/c.gif"), str(tmp_path / "labels.csv")]
    assert source.class_names == ["cat", "dog"]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_pngs_of_any_kind_are_read_as_pillow_reads_them(tmp_path, mode):
    image = photo(0).convert(mode)
    if mode in ("RGBA", "LA"):  # transparency is left out, not blended with
        image.putalpha(Image.fromarray(np.arange(40 * 48, dtype=np.uint8).reshape(40, 48)))
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(load(tmp_path), 0), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_of_any_kind_are_read_as_pillow_reads_them(tmp_path, mode, progressive):
    path = tmp_path / "a.jpg"
    photo(0).convert(mode).save(path, quality=90, progressive=progressive)
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    error = np.abs(read(load(tmp_path), 0) - expected)
    # The fast integer DCT is not Pillow's accurate one.
    assert error.mean() < 2 and error.max() < 12


def test_every_index_reads_its_own_file(tmp_path):
    names = [f"{letter}.png" for letter in "hbgdcafe"]
    write(tmp_path, *names)
    source = load(tmp_path)
    for index, name in enumerate(sorted(names)):
        expected = np.asarray(photo(names.index(name)))
        np.testing.assert_array_equal(read(source, index), expected)


def many(folder, count):
    for name in ("cat", "dog"):
        (folder / name).mkdir()
    contents = b"any"  # it is the path that decides what is held out
    for number in range(count):
        (folder / ("cat", "dog")[number % 2] / f"{number:04}.jpg").write_bytes(contents)
    return load(folder)


def test_a_fifth_is_held_out_and_nothing_is_in_both_parts(tmp_path):
    source = many(tmp_path, 3000)
    assert sorted([*source.train, *source.test]) == list(range(3000))
    # Four standard deviations of a fair choice of one in five.
    assert abs(len(source.test) / 3000 - 0.2) < 4 * (0.2 * 0.8 / 3000) ** 0.5
    for part in (source.train, source.test):
        assert set(source.labels[part]) == {0, 1}


def test_pretraining_sees_every_image(tmp_path):
    source = many(tmp_path, 50)
    assert source.pretrain.tolist() == list(range(50))
    assert source.pretrain.dtype == np.int64


def test_adding_a_file_moves_no_other_in_or_out_of_the_held_out_part(tmp_path):
    before = many(tmp_path, 200)
    held_out = {before.describe(index) for index in before.test}
    new = str(tmp_path / "cat" / "0000_first.jpg")
    with open(new, "wb") as file:
        file.write(b"any")
    after = load(tmp_path)
    assert after.size == 201
    assert {after.describe(index) for index in after.test} - {new} == held_out


def test_what_is_held_out_does_not_depend_on_where_the_folder_lies(tmp_path):
    parts = []
    for place in ("here", "there/deeper"):
        (tmp_path / place).mkdir(parents=True)
        parts.append(many(tmp_path / place, 100).test.tolist())
    assert parts[0] == parts[1]


def test_a_missing_folder_is_named(tmp_path):
    missing = tmp_path / "nowhere"
    with pytest.raises(UserError, match=f"folder:{missing}.*no folder '{missing}'"):
        load(missing)


def test_a_file_is_not_a_folder(tmp_path):
    write(tmp_path, "a.jpg")
    with pytest.raises(UserError, match="no folder '.*a.jpg'"):
        load(tmp_path / "a.jpg")


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "notes.txt").write_text("nothing here")
    with pytest.raises(UserError, match=f"no JPEG or PNG file in '{tmp_path}'"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["", "folder:", "folder", "imagenet", "tfds:cifar10", "/data"])
def test_an_unknown_source_is_named_with_the_choices(name):
    with pytest.raises(
        UserError, match=f"'{name}' is unknown: give photos, folder:PATH or idx:PATH"
    ):
        sources.load(name)


def test_hidden_folders_are_passed_over(tmp_path):
    write(tmp_path, "cat/a.png", "dog/a.png", ".thumbnails/a.png", "dog/.cache/a.png")
    source = load(tmp_path)
    assert found(source, tmp_path) == ["cat/a.png", "dog/a.png"]
    assert source.class_names == ["cat", "dog"] and source.ignored == []


@pytest.mark.parametrize("kind", ["WEBP", "BMP", "GIF", "PNG", "TIFF"])
def test_a_file_is_read_by_its_contents_and_not_by_its_name(tmp_path, kind):
    photo(0).save(tmp_path / "a.jpg", format=kind)
    if kind == "TIFF":  # not read: an error here, which the pipeline skips
        with pytest.raises(tf.errors.InvalidArgumentError):
            read(load(tmp_path), 0)
        return
    found = read(load(tmp_path), 0)
    expected = np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB"), int)
    assert np.abs(found - expected).max() <= (2 if kind == "WEBP" else 0)


def test_of_an_animation_the_first_picture_is_read(tmp_path):
    first, second = photo(0).quantize(), photo(1).quantize()
    first.save(tmp_path / "a.png", format="GIF", save_all=True, append_images=[second])
    expected = np.asarray(first.convert("RGB"), int)
    np.testing.assert_allclose(read(load(tmp_path), 0), expected, atol=1)
