"""Images and labels in Python, as the sources that read their files see them."""

import os
import pathlib

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from moco_tf.data import given, sources
from moco_tf.errors import UserError

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, [4, 6, 5, 3], np.uint8)


def open_array(folder, data):
    files = given.as_files(data)
    for name, array in files.items():
        np.save(folder / name, array)
    return sources.load(f"npy:{folder}/images.npy")


def names(source):
    """Return the class name of each image, or None."""
    return [source.class_names[label] if label >= 0 else None for label in source.labels]


@pytest.mark.parametrize(
    "images",
    [IMAGES, tf.constant(IMAGES), np.asfortranarray(IMAGES), np.repeat(IMAGES, 2, axis=0)[::2]],
    ids=["array", "tensor", "fortran", "view"],
)
def test_arrays_are_kept_as_they_are(tmp_path, images):
    source = open_array(tmp_path, images)
    read = [source.read(tf.constant(index, tf.int64)).numpy() for index in range(4)]
    np.testing.assert_array_equal(read, IMAGES)
    assert source.labels is None
    assert np.load(tmp_path / "images.npy", mmap_mode="r").flags.c_contiguous


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3, 1, 3, 1], ["3", "1", "3", "1"]),
        (np.array([[3], [1], [3], [1]], np.uint8), ["3", "1", "3", "1"]),
        (tf.constant([3, 1, 3, 1]), ["3", "1", "3", "1"]),
        ([np.int64(3), 1, None, -1], ["3", "1", None, None]),
        (pd.Series([3, 1, None, None]), ["3", "1", None, None]),
        (pd.Series(["b", "a", None, "a"]), ["b", "a", None, "a"]),
        (("b", "a", "", "a"), ["b", "a", None, "a"]),
        ([True, False, True, False], ["True", "False", "True", "False"]),
    ],
)
def test_labels_are_those_of_the_images(tmp_path, labels, expected):
    assert names(open_array(tmp_path, (IMAGES, labels))) == expected
    (tmp_path / "list").mkdir()
    files = [tmp_path / "list" / f"{number}.jpg" for number in range(4)]
    files[0].touch()
    path = tmp_path / "images.txt"
    path.write_bytes(given.as_files((files, labels))["images.txt"])
    assert names(sources.load(f"files:{path}")) == expected


def test_lists_have_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/mnt")
    paths = [
        "a.jpg",
        b"caf\xe9.jpg",
        pathlib.Path("../b.jpg"),
        "~/c.jpg",
        "$DATA/d.jpg",
        "gs://e/f",
    ]
    expected = [
        *(f"{tmp_path}/a.jpg".encode(), f"{tmp_path}/".encode() + b"caf\xe9.jpg"),
        *(os.fsencode(tmp_path.parent / "b.jpg"), b"/home/me/c.jpg", b"/mnt/d.jpg", b"gs://e/f"),
    ]
    for data in (paths, tuple(paths), pd.Series(paths), np.array(paths, object)):
        assert given.as_files(data) == {"images.txt": b"\n".join(expected) + b"\n"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "images is of the type int: use a data source (photos, folder:PATH"),
        ({"on_error": "fail"}, "images is of the type dict: use"),
        (tf.data.Dataset.range(3), "images is of the type _RangeDataset: use"),
        ([], "images is empty: use"),
        (
            [IMAGES[0], IMAGES[1]],
            "images is a list of arrays: use one array, such as np.stack(images)",
        ),
        (["a.jpg", 3], "images[1] is 3: use the path of an image file"),
        (["a.jpg", ""], "images[1] is the path '': rename the file"),
        (["a\tb.jpg"], "images[0] is the path 'a\\tb.jpg': rename the file"),
        (["$UNSET/a.jpg"], "images[0]: the environment variable UNSET is not set"),
        (
            IMAGES / 255,
            "the array of images is float64, but images are uint8: use np.round(255 * images)",
        ),
        (IMAGES[0], "the array of images has the shape [6, 5, 3], which is that of one image"),
        (
            (IMAGES, [1, 2]),
            "the list of labels in images has the shape [2]: use one label for each of",
        ),
        ((IMAGES, np.eye(4)), "the array of labels in images has the shape [4, 4]: use one label"),
        (
            (IMAGES, [1, "a", 2, 3]),
            "the labels in images are of the type int and str: use integers",
        ),
        (
            (IMAGES, [1.5, 2, 3, 4]),
            "the labels in images are of the type float and int: use integers",
        ),
        ((IMAGES, {0: 1, 1: 1, 2: 0, 3: 0}), "the labels in images are a dict, which has no order"),
        ((IMAGES, {1, 2, 3, 4}), "the labels in images are a set, which has no order"),
        (
            (IMAGES, np.array(["cat", "dog", "cat", np.nan])),
            "the array of labels in images has the text 'nan', which NumPy makes of a missing",
        ),
        (
            (["a.jpg"], ["nan"]),
            "the list of labels in images has the text 'nan'",
        ),
        (
            pd.DataFrame({"path": ["a.jpg", "b.jpg"], "label": [0, 1]}),
            "images holds texts or objects of the shape [2, 2]: use a list of the paths, or a pair "
            "(images, labels), such as (df.path, df.label)",
        ),
        ([IMAGES, [1, 2, 3, 4]], "images is a list of 2: pass a pair (images, labels), a tuple"),
        ([IMAGES, np.arange(4)], "images is a list of 2: pass a pair (images, labels), a tuple"),
        ([["a.jpg"], ["cat"]], "images is a list of 2: pass a pair (images, labels), a tuple"),
        ((IMAGES, [1, 2, 3, 4], None), "images is a tuple of 3: pass a pair (images, labels)"),
        ([IMAGES, IMAGES], "images is a list of arrays: use one array, such as np.concatenate("),
        ((IMAGES, "cats"), "the labels in images are 'cats': use one label for each image"),
        ((["a.jpg"], ["a\tb"]), "images[0] has the label 'a\\tb': a label must not have tabs"),
    ],
)
def test_other_data_is_refused(data, message):
    with pytest.raises(UserError) as error:
        given.as_files(data)
    assert str(error.value).startswith(message)
