"""IDX files written byte by byte, and Fashion-MNIST as Debian ships it."""

import gzip
import pathlib
import struct

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import sources
from moco_tf.errors import UserError

FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")


def idx(array):
    """The file of an array of bytes, by the description of the format on MNIST's page."""
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return header + bytes(int(value) for value in array.ravel())


def images(count, seed=0, shape=(5, 7)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "train-images-idx3-ubyte", images(6))
    write(tmp_path, "train-labels-idx1-ubyte", np.array([3, 0, 1, 2, 0, 1]))
    write(tmp_path, "t10k-images-idx3-ubyte", images(2, seed=1))
    write(tmp_path, "t10k-labels-idx1-ubyte", np.array([1, 3]))
    return tmp_path


def write(folder, name, array):
    (folder / name).write_bytes(idx(array))


def load(folder):
    return sources.load(f"idx:{folder}")


def read(source, index):
    return source.read(tf.constant(index, tf.int64)).numpy()


def test_both_parts_are_read_with_their_labels(folder):
    source = load(folder)
    assert source.size == 8
    assert source.pretrain.tolist() == source.train.tolist() == list(range(6))
    assert source.test.tolist() == [6, 7]
    assert source.labels.tolist() == [3, 0, 1, 2, 0, 1, 1, 3]
    assert source.class_names == ["0", "1", "2", "3"]
    expected = np.concatenate([images(6), images(2, seed=1)])
    for index in range(8):
        found = read(source, index)
        assert found.shape == (5, 7, 3) and found.dtype == np.uint8
        np.testing.assert_array_equal(found, np.repeat(expected[index][..., np.newaxis], 3, -1))
    assert source.describe(5).startswith("training image 5 of")
    assert source.describe(7).startswith("test image 1 of")


def test_gzipped_files_are_the_same(folder):
    expected = [read(load(folder), index) for index in range(8)]
    for path in list(folder.iterdir()):
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    source = load(folder)
    assert source.labels.tolist() == [3, 0, 1, 2, 0, 1, 1, 3]
    for index in range(8):
        np.testing.assert_array_equal(read(source, index), expected[index])


def test_colour_images_and_names_with_a_prefix_and_no_labels(tmp_path):
    write(tmp_path, "mine-train-images-idx4-ubyte", images(3, shape=(4, 4, 3)))
    source = load(tmp_path)
    assert (source.size, source.labels, source.class_names) == (3, None, None)
    assert len(source.test) == 0
    np.testing.assert_array_equal(read(source, 2), images(3, shape=(4, 4, 3))[2])


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("train-images-idx3-ubyte", b"", "not an IDX file"),
        (
            "train-images-idx3-ubyte",
            b"\x89PNG\r\n",
            "not an IDX file of bytes: it begins with 8950",
        ),
        ("train-images-idx3-ubyte", b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "not an IDX file of bytes"),
        ("train-images-idx3-ubyte", idx(images(6))[:-1], "not whole: 225 bytes where 226 belong"),
        ("train-images-idx3-ubyte", idx(images(6))[:9], "not whole: 9 bytes"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12, "not whole"),
        ("train-images-idx3-ubyte", idx(np.zeros(6)), "holds no images"),
        ("train-labels-idx1-ubyte", idx(np.zeros(5)), "5 labels for 6 images"),
        ("t10k-images-idx3-ubyte", idx(images(2, shape=(5, 8))), "differ in size"),
    ],
)
def test_a_file_that_is_not_whole_or_not_of_the_format_is_named(folder, name, contents, words):
    (folder / name).write_bytes(contents)
    with pytest.raises(UserError, match=words):
        load(folder)


def test_a_broken_gzip_file_is_named(folder):
    (folder / "train-images-idx3-ubyte").unlink()
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(images(6)))[:-12])
    with pytest.raises(UserError, match=f"{path} cannot be read"):
        load(folder)


@pytest.mark.parametrize("place", ["", "nowhere"])
def test_a_folder_without_training_images_is_named(tmp_path, place):
    with pytest.raises(UserError, match=f"idx:{tmp_path / place}.*there is no"):
        load(tmp_path / place)


def test_fashion_mnist_is_what_its_authors_say():
    if not FASHION_MNIST.is_dir():
        pytest.skip("Fashion-MNIST is missing: apt-get install dataset-fashion-mnist")
    source = load(FASHION_MNIST)
    assert (source.size, len(source.pretrain), len(source.test)) == (70000, 60000, 10000)
    assert np.bincount(source.labels[source.train]).tolist() == [6000] * 10
    assert np.bincount(source.labels[source.test]).tolist() == [1000] * 10
    # The first training image is an ankle boot, and the mean over all is known to everyone.
    assert source.labels[0] == 9
    sample = np.stack([read(source, index)[..., 0] for index in range(0, 60000, 20)])
    assert sample.mean() / 255 == pytest.approx(0.2860, abs=0.005)
