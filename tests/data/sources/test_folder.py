"""The `folder` source: which files are read, their labels, the split, and errors."""

import os
import zlib

import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from PIL import Image

from moco_tf.data import sources
from moco_tf.errors import UserError

PHOTOS = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]


def photo(number, size=40):
    """A crop of a photograph, different for every number."""
    image = PHOTOS[number % 3]
    top = 7 * number % (image.shape[0] - size)
    return Image.fromarray(image[top : top + size, 100 : 100 + size + 8])


def write_photos(folder, *paths, **options):
    """Save the crop of each position at each path."""
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        photo(number).save(folder / path, **options)


def load(folder):
    return sources.load(f"folder:{folder}")


def relative_paths(source, folder):
    return [os.path.relpath(source.describe(index), folder) for index in range(source.size)]


def read_image(source, index):
    return source.read(tf.constant(index, tf.int64)).numpy().astype(int)


def test_subfolders_name_the_classes(tmp_path):
    write_photos(tmp_path, "dog/b.jpg", "dog/a.jpg", "cat/c.png", "emu/d.jpeg")
    source = load(tmp_path)
    assert source.name == f"folder:{tmp_path}"
    assert source.size == 4
    assert source.class_names == ["cat", "dog", "emu"]
    assert relative_paths(source, tmp_path) == ["cat/c.png", "dog/a.jpg", "dog/b.jpg", "emu/d.jpeg"]
    assert source.labels.tolist() == [0, 1, 1, 2]
    assert source.labels.dtype == np.int32


def test_first_level_names_the_class_of_deeper_folders(tmp_path):
    write_photos(tmp_path, "dog/old/2019/a.jpg", "dog/b.jpg", "cat/cat/c.jpg", "cat/dog/d.jpg")
    source = load(tmp_path)
    labels = {
        path: source.class_names[label]
        for path, label in zip(relative_paths(source, tmp_path), source.labels, strict=True)
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
        ["a.jpg", "b.jpg", "c.png"],  # No subfolders.
        ["only/a.jpg", "only/b.jpg"],  # One class.
        ["dog/a.jpg", "cat/b.jpg", "loose.jpg"],  # An image without a class.
    ],
)
def test_images_have_no_labels_unless_two_folders_hold_them_all(tmp_path, paths):
    write_photos(tmp_path, *paths)
    source = load(tmp_path)
    assert source.size == len(paths)
    assert not source.has_labels
    assert source.labels is None
    assert source.class_names is None


def test_upper_case_and_missing_suffixes_are_images(tmp_path):
    write_photos(tmp_path, "a.JPG", "b.Jpeg", "c.PNG", "d.Bmp", "e.gif", "f.WebP")
    write_photos(tmp_path, "n01440764_10026", format="JPEG")
    source = load(tmp_path)
    assert relative_paths(source, tmp_path) == [
        *["a.JPG", "b.Jpeg", "c.PNG", "d.Bmp", "e.gif", "f.WebP"],
        "n01440764_10026",
    ]
    for index in range(7):
        assert read_image(source, index).shape == (40, 48, 3)


def test_other_files_are_ignored_and_hidden_files_are_not_listed(tmp_path):
    write_photos(tmp_path, "dog/a.jpg", "cat/b.jpg", "cat/c.tga", "cat/.hidden.jpg")
    (tmp_path / "labels.csv").write_text("a,b\n")
    (tmp_path / ".DS_Store").write_text("")
    source = load(tmp_path)
    assert relative_paths(source, tmp_path) == ["cat/b.jpg", "dog/a.jpg"]
    assert source.ignored == [str(tmp_path / "cat/c.tga"), str(tmp_path / "labels.csv")]
    assert source.class_names == ["cat", "dog"]


def test_every_index_reads_its_file(tmp_path):
    names = [f"{letter}.png" for letter in "hbgdcafe"]
    write_photos(tmp_path, *names)
    source = load(tmp_path)
    for index, name in enumerate(sorted(names)):
        expected = np.asarray(photo(names.index(name)))
        np.testing.assert_array_equal(read_image(source, index), expected)


def write_many(folder, count):
    """Write files of two classes and open the folder. Their contents are never read."""
    for name in ("cat", "dog"):
        (folder / name).mkdir()
    for number in range(count):
        (folder / ("cat", "dog")[number % 2] / f"{number:04}.jpg").touch()
    return load(folder)


def test_a_fifth_is_held_out_and_no_image_is_in_both_parts(tmp_path):
    source = write_many(tmp_path, 3000)
    assert sorted([*source.train, *source.test]) == list(range(3000))
    # Four standard deviations of a random choice of one in five.
    assert abs(len(source.test) / 3000 - 0.2) < 4 * (0.2 * 0.8 / 3000) ** 0.5
    for part in (source.train, source.test):
        assert set(source.labels[part]) == {0, 1}


def test_pretraining_sees_every_image(tmp_path):
    source = write_many(tmp_path, 50)
    assert source.pretrain.tolist() == list(range(50))
    assert source.pretrain.dtype == np.int64


def test_new_file_does_not_move_others_in_or_out_of_the_test_part(tmp_path):
    before = write_many(tmp_path, 200)
    held_out = {before.describe(index) for index in before.test}
    new = str(tmp_path / "cat" / "0000_first.jpg")
    with open(new, "wb") as file:
        file.write(b"any")
    after = load(tmp_path)
    assert after.size == 201
    assert {after.describe(index) for index in after.test} - {new} == held_out


def test_split_does_not_depend_on_the_location_of_the_folder(tmp_path):
    parts = []
    for place in ("here", "there/deeper"):
        (tmp_path / place).mkdir(parents=True)
        parts.append(write_many(tmp_path / place, 100).test.tolist())
    assert parts[0] == parts[1]


def test_error_names_a_missing_folder(tmp_path):
    missing = tmp_path / "nowhere"
    with pytest.raises(UserError, match=f"folder:{missing}.*no folder '{missing}'"):
        load(missing)


def test_error_names_a_file_given_as_folder(tmp_path):
    write_photos(tmp_path, "a.jpg")
    with pytest.raises(UserError, match="no folder '.*a.jpg'"):
        load(tmp_path / "a.jpg")


def test_error_names_a_folder_without_images(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "notes.txt").write_text("nothing here")
    with pytest.raises(UserError, match=f"no image file .*webp.* in '{tmp_path}'"):
        load(tmp_path)


def test_hidden_folders_are_skipped(tmp_path):
    write_photos(tmp_path, "cat/a.png", "dog/a.png", ".thumbnails/a.png", "dog/.cache/a.png")
    source = load(tmp_path)
    assert relative_paths(source, tmp_path) == ["cat/a.png", "dog/a.png"]
    assert source.class_names == ["cat", "dog"]
    assert source.ignored == []


@pytest.mark.parametrize("image_format", ["WEBP", "BMP", "GIF", "PNG"])
def test_format_is_detected_from_the_contents(tmp_path, image_format):
    photo(0).save(tmp_path / "a.jpg", format=image_format)
    image = read_image(load(tmp_path), 0)
    expected = np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB"), int)
    assert np.abs(image - expected).max() <= (2 if image_format == "WEBP" else 0)


def test_unsupported_format_is_an_error_when_it_is_read(tmp_path):
    photo(0).save(tmp_path / "a.jpg", format="TGA")
    source = load(tmp_path)
    with pytest.raises(tf.errors.InvalidArgumentError):
        read_image(source, 0)


def test_files_are_sorted_by_whole_path(tmp_path):
    """The name of folder `a` sorts before `a.b` and `a-b`, but the paths in it sort after."""
    paths = ["a/z.png", "a.b/y.png", "a-b/x.png", "a0/w.png", "a/b/v.png", "a.png", "b.png"]
    paths += ["a/b.png", "ü/u.png", "B/t.png", "a/b-c/s.png"]
    write_photos(tmp_path, *paths)
    assert relative_paths(load(tmp_path), tmp_path) == sorted(paths)


def test_labels_are_right_if_folders_and_paths_sort_differently(tmp_path):
    write_photos(tmp_path, "a/1.png", "a-b/2.png", "a.b/3.png", "a/4.png")
    source = load(tmp_path)
    assert source.class_names == ["a", "a-b", "a.b"]
    for index, path in enumerate(relative_paths(source, tmp_path)):
        assert source.class_names[source.labels[index]] == path.split("/")[0]


def test_split_is_a_checksum_of_the_path(tmp_path):
    source = write_many(tmp_path, 300)
    paths = relative_paths(source, tmp_path)
    expected = [i for i, path in enumerate(paths) if zlib.crc32(path.encode()) % 5 == 0]
    assert source.test.tolist() == expected


def test_file_name_may_be_invalid_utf8(tmp_path):
    photo(0).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    source = load(tmp_path)
    assert source.describe(0) == f"{tmp_path}/caf\\xe9.png"
    np.testing.assert_array_equal(read_image(source, 0), np.asarray(photo(0)))


def test_links_to_folders_are_followed(tmp_path):
    write_photos(tmp_path / "elsewhere", "a.png", "b.png")
    write_photos(tmp_path / "images", "cat/c.png")
    (tmp_path / "images" / "dog").symlink_to(tmp_path / "elsewhere")
    source = load(tmp_path / "images")
    assert relative_paths(source, tmp_path / "images") == ["cat/c.png", "dog/a.png", "dog/b.png"]
    assert source.class_names == ["cat", "dog"]


def test_error_names_a_folder_that_cannot_be_listed(tmp_path):
    # The path is too long. Permissions would not keep root from listing a folder.
    write_photos(tmp_path, "cat/a.png")
    parent = os.open(tmp_path / "cat", os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=parent)
        child = os.open("d" * 250, os.O_RDONLY, dir_fd=parent)
        os.close(parent)
        parent = child
    os.close(parent)
    with pytest.raises(UserError, match=f"'{tmp_path}/cat/ddd.* cannot be listed .*too long"):
        load(tmp_path)


def test_remote_file_system_gives_the_same_source(tmp_path):
    paths = ["a/z.png", "d.png/y.png", "c.png", "a/e/u.png", "a/.hidden.png", ".b/w.png", "a/v.txt"]
    write_photos(tmp_path, *[path.replace(".txt", ".png") for path in paths])
    (tmp_path / "a" / "v.png").rename(tmp_path / "a" / "v.txt")
    for path in paths:
        copy = f"ram://test_folder/{path}"
        tf.io.gfile.makedirs(os.path.dirname(copy))
        tf.io.gfile.copy(str(tmp_path / path), copy)
    local, remote = load(tmp_path), load("ram://test_folder")
    assert relative_paths(remote, "ram://test_folder") == relative_paths(local, tmp_path)
    assert remote.ignored == ["ram://test_folder/a/v.txt"]
    assert local.ignored == [f"{tmp_path}/a/v.txt"]
    for index in range(local.size):
        np.testing.assert_array_equal(read_image(remote, index), read_image(local, index))
