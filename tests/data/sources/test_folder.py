"""Folders of images: what is found, labelled, held out, read and refused."""

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
    write(tmp_path, "a.JPG", "b.Jpeg", "c.PNG", "d.Bmp", "e.gif", "f.WebP")
    write(tmp_path, "n01440764_10026", format="JPEG")
    source = load(tmp_path)
    assert found(source, tmp_path) == [
        *["a.JPG", "b.Jpeg", "c.PNG", "d.Bmp", "e.gif", "f.WebP"],
        "n01440764_10026",
    ]
    for index in range(7):
        assert read(source, index).shape == (40, 48, 3)


def test_other_files_are_listed_and_hidden_ones_are_not(tmp_path):
    write(tmp_path, "dog/a.jpg", "cat/b.jpg", "cat/c.tiff", "cat/.hidden.jpg")
    (tmp_path / "labels.csv").write_text("a,b\n")
    (tmp_path / ".DS_Store").write_text("")
    source = load(tmp_path)
    assert found(source, tmp_path) == ["cat/b.jpg", "dog/a.jpg"]
    assert source.ignored == [str(tmp_path / "cat/c.tiff"), str(tmp_path / "labels.csv")]
    assert source.class_names == ["cat", "dog"]


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
    with pytest.raises(UserError, match=f"no image file .*webp.* in '{tmp_path}'"):
        load(tmp_path)


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


def test_paths_are_in_the_order_of_whole_paths(tmp_path):
    """A folder's own name sorts before `a.b` and `a-b`, its paths after."""
    paths = ["a/z.png", "a.b/y.png", "a-b/x.png", "a0/w.png", "a/b/v.png", "a.png", "b.png"]
    paths += ["a/b.png", "ü/u.png", "B/t.png", "a/b-c/s.png"]
    write(tmp_path, *paths)
    assert found(load(tmp_path), tmp_path) == sorted(paths)


def test_labels_are_right_where_folders_and_names_sort_differently(tmp_path):
    write(tmp_path, "a/1.png", "a-b/2.png", "a.b/3.png", "a/4.png")
    source = load(tmp_path)
    assert source.class_names == ["a", "a-b", "a.b"]
    for index, path in enumerate(found(source, tmp_path)):
        assert source.class_names[source.labels[index]] == path.split("/")[0]


def test_what_is_held_out_is_a_checksum_of_the_path(tmp_path):
    source = many(tmp_path, 300)
    paths = found(source, tmp_path)
    expected = [i for i, path in enumerate(paths) if zlib.crc32(path.encode()) % 5 == 0]
    assert source.test.tolist() == expected


def test_a_name_that_is_no_text_is_read_and_named(tmp_path):
    photo(0).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    source = load(tmp_path)
    assert source.describe(0) == f"{tmp_path}/caf\\xe9.png"
    np.testing.assert_array_equal(read(source, 0), np.asarray(photo(0)))


def test_links_to_folders_are_followed(tmp_path):
    write(tmp_path / "elsewhere", "a.png", "b.png")
    write(tmp_path / "images", "cat/c.png")
    (tmp_path / "images" / "dog").symlink_to(tmp_path / "elsewhere")
    source = load(tmp_path / "images")
    assert found(source, tmp_path / "images") == ["cat/c.png", "dog/a.png", "dog/b.png"]
    assert source.class_names == ["cat", "dog"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    write(tmp_path, "cat/a.png")
    # A link to its own folder, which is root's to open as well, has no end.
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
    with pytest.raises(UserError, match=f"'{tmp_path}/cat/again.* cannot be listed .*links"):
        load(tmp_path)


def test_a_file_system_of_tensorflows_own_gives_the_same(tmp_path):
    paths = ["a/z.png", "d.png/y.png", "c.png", "a/e/u.png", "a/.hidden.png", ".b/w.png", "a/v.txt"]
    write(tmp_path, *[path.replace(".txt", ".png") for path in paths])
    (tmp_path / "a" / "v.png").rename(tmp_path / "a" / "v.txt")
    for path in paths:
        copy = f"ram://test_folder/{path}"
        tf.io.gfile.makedirs(os.path.dirname(copy))
        tf.io.gfile.copy(str(tmp_path / path), copy)
    here, there = load(tmp_path), load("ram://test_folder")
    assert found(there, "ram://test_folder") == found(here, tmp_path)
    assert there.ignored == ["ram://test_folder/a/v.txt"]
    assert here.ignored == [f"{tmp_path}/a/v.txt"]
    for index in range(here.size):
        np.testing.assert_array_equal(read(there, index), read(here, index))


# Folders for training and for testing.


def parts(source, folder):
    names = found(source, folder)
    return [[names[i] for i in indices] for indices in (source.pretrain, source.train, source.test)]


@pytest.mark.parametrize("test", ["val", "validation", "test"])
@pytest.mark.parametrize("train", ["train", "training"])
def test_folders_for_training_and_testing_are_what_they_say(tmp_path, train, test):
    for_training = [f"{train}/cat/a.png", f"{train}/dog/b.png", f"{train}/dog/old/c.png"]
    for_testing = [f"{test}/cat/a.png", f"{test}/dog/d.png"]
    write(tmp_path, *for_training, *for_testing)
    (tmp_path / "labels.csv").write_text("")
    source = load(tmp_path)
    assert source.size == 5
    assert parts(source, tmp_path) == [for_training, for_training, for_testing]
    assert source.class_names == ["cat", "dog"]
    for path, label in zip(found(source, tmp_path), source.labels, strict=True):
        assert path.split("/")[1] == source.class_names[label]
    assert source.ignored == [f"{tmp_path}/labels.csv"]
    for indices in (source.pretrain, source.train, source.test):
        assert indices.dtype == np.int64
    assert source.labels.dtype == np.int32


def test_of_several_folders_for_testing_one_is_taken_and_the_others_are_left_alone(tmp_path):
    """As ImageNet's, whose test images have no labels."""
    training, testing = ["train/cat/a.png", "train/dog/b.png"], ["val/cat/c.png", "val/dog/d.png"]
    write(tmp_path, *training, *testing, "test/e.png", "test/emu/f.png")
    source = load(tmp_path)
    assert parts(source, tmp_path) == [training, training, testing]
    assert source.class_names == ["cat", "dog"]
    names = found(source, tmp_path)
    labels = {name: label for name, label in zip(names, source.labels.tolist(), strict=True)}
    assert [labels[name] for name in training + testing] == [0, 1, 0, 1]
    assert labels["test/e.png"] == labels["test/emu/f.png"] == -1


def test_a_class_may_have_nothing_for_testing(tmp_path):
    write(tmp_path, "train/cat/a.png", "train/dog/b.png", "val/dog/c.png")
    source = load(tmp_path)
    assert source.class_names == ["cat", "dog"]
    assert source.labels.tolist() == [0, 1, 1]


def test_a_class_that_training_lacks_is_named(tmp_path):
    write(tmp_path, "train/cat/a.png", "train/dog/b.png", "val/cat/c.png", "val/emu/d.png")
    with pytest.raises(UserError, match=f"folder:{tmp_path}.*'emu' for testing and none for train"):
        load(tmp_path)


@pytest.mark.parametrize(
    "paths",
    [
        ["train/a.png", "train/b.png", "val/c.png"],
        ["train/a.png", "train/b.png", "val/cat/c.png", "val/dog/d.png"],
        ["train/cat/a.png", "train/dog/b.png", "val/c.png"],  # as ImageNet's archives come
        ["train/b.png", "train/cat/a.png", "val/cat/c.png"],
        ["train/cat/a.png", "train/cat/b.png", "val/cat/c.png"],  # one class
    ],
)
def test_without_class_folders_they_have_no_labels(tmp_path, paths):
    write(tmp_path, *paths)
    source = load(tmp_path)
    assert source.labels is None and source.class_names is None
    for_training = [path for path in paths if path.startswith("train/")]
    for_testing = [path for path in paths if path.startswith("val/")]
    assert parts(source, tmp_path) == [for_training, for_training, for_testing]


@pytest.mark.parametrize(
    "paths",
    [
        ["train/cat/a.png", "val/cat/b.png", "extra/cat/c.png"],
        ["train/cat/a.png", "val/cat/b.png", "loose.png"],
        ["train/cat/a.png", "boat/cat/b.png"],  # of vehicles, say
        ["val/cat/a.png", "test/cat/b.png"],
        ["train/cat/a.png", "training/cat/b.png"],
    ],
)
def test_anything_beside_them_makes_them_folders_as_others(tmp_path, paths):
    write(tmp_path, *paths)
    source = load(tmp_path)
    assert source.pretrain.tolist() == list(range(len(paths)))
    if "loose.png" in paths:
        assert source.labels is None
    else:
        assert source.class_names == sorted({path.split("/")[0] for path in paths})
