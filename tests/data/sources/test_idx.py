"""The `idx` source: files written byte by byte, and Fashion-MNIST as Debian packages it."""

import gzip
import pathlib
import struct

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import sources
from moco_tf.data.sources import idx
from moco_tf.errors import UserError
from moco_tf.evaluation.protocols import require_two_labeled_parts

FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")


def idx_file(array):
    """Encode an array as MNIST's web page describes the format."""
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return header + bytes(int(value) for value in array.ravel())


def random_images(count, seed=0, shape=(5, 7)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


@pytest.fixture
def folder(tmp_path):
    write_idx(tmp_path, "train-images-idx3-ubyte", random_images(6))
    write_idx(tmp_path, "train-labels-idx1-ubyte", np.array([3, 0, 1, 2, 0, 1]))
    write_idx(tmp_path, "t10k-images-idx3-ubyte", random_images(2, seed=1))
    write_idx(tmp_path, "t10k-labels-idx1-ubyte", np.array([1, 3]))
    return tmp_path


def write_idx(folder, name, array):
    (folder / name).write_bytes(idx_file(array))


def load(folder):
    return sources.load(f"idx:{folder}")


def read_image(source, index):
    return source.read(tf.constant(index, tf.int64)).numpy()


def test_training_and_test_images_are_read_with_their_labels(folder):
    source = load(folder)
    assert source.size == 8
    assert source.pretrain.tolist() == source.train.tolist() == list(range(6))
    assert source.test.tolist() == [6, 7]
    assert source.labels.tolist() == [3, 0, 1, 2, 0, 1, 1, 3]
    assert source.class_names == ["0", "1", "2", "3"]
    expected = np.concatenate([random_images(6), random_images(2, seed=1)])
    for index in range(8):
        image = read_image(source, index)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, np.repeat(expected[index][..., np.newaxis], 3, -1))
    assert source.describe(5).startswith("training image 5 of")
    assert source.describe(7).startswith("test image 1 of")


def test_gzipped_files_give_the_same_source(folder):
    expected = [read_image(load(folder), index) for index in range(8)]
    for path in list(folder.iterdir()):
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    source = load(folder)
    assert source.labels.tolist() == [3, 0, 1, 2, 0, 1, 1, 3]
    for index in range(8):
        np.testing.assert_array_equal(read_image(source, index), expected[index])


def test_color_images_with_a_name_prefix_and_no_labels(tmp_path):
    write_idx(tmp_path, "mine-train-images-idx4-ubyte", random_images(3, shape=(4, 4, 3)))
    source = load(tmp_path)
    assert source.size == 3
    assert not source.has_labels
    assert source.labels is None
    assert source.class_names is None
    assert len(source.test) == 0
    np.testing.assert_array_equal(read_image(source, 2), random_images(3, shape=(4, 4, 3))[2])


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("train-images-idx3-ubyte", b"", "not an IDX file"),
        (
            "train-images-idx3-ubyte",
            b"\x89PNG\r\n",
            "not an IDX file of bytes: it begins with 8950",
        ),
        ("train-images-idx3-ubyte", b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "not an IDX file of bytes"),
        (
            "train-images-idx3-ubyte",
            idx_file(random_images(6))[:-1],
            "is incomplete: it holds less than 226 bytes, the length in its header",
        ),
        ("train-images-idx3-ubyte", idx_file(random_images(6))[:9], "is incomplete: it holds less"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12, "is incomplete: it holds less"),
        (
            "train-images-idx3-ubyte",
            idx_file(random_images(6)) + b"\0",
            "is damaged: it holds more than 226 bytes, the length in its header",
        ),
        ("train-images-idx3-ubyte", idx_file(np.zeros(6)), r"holds no images: its shape is \(6,\)"),
        (
            "train-images-idx3-ubyte",
            idx_file(random_images(6, shape=(5, 7, 4))),
            r"holds no images: its shape is \(6, 5, 7, 4\)",
        ),
        (
            "train-images-idx3-ubyte",
            idx_file(random_images(6, shape=(0, 7))),
            r"holds no images: its shape is \(6, 0, 7\)",
        ),
        (
            "train-images-idx3-ubyte",
            idx_file(random_images(0)),
            r"holds no images: its shape is \(0, 5, 7\)",
        ),
        (
            "train-images-idx3-ubyte",
            b"\0\0\x08\x64" + b"\0\0\0\1" * 100 + b"\0",
            "holds no images: it has 100 dimensions",
        ),
        (
            "train-labels-idx1-ubyte",
            idx_file(np.zeros([6, 2])),
            r"holds no labels: its shape is \(6, 2\)",
        ),
        ("mine-train-images-idx3-ubyte.gz", b"", "holds several data sets, with the files mine-tr"),
        ("train-labels-idx1-ubyte", idx_file(np.zeros(5)), "holds 5 labels, but .* holds 6 images"),
        ("t10k-images-idx3-ubyte", idx_file(random_images(2, shape=(5, 8))), "differ in size"),
    ],
)
def test_error_names_an_invalid_file(folder, name, contents, message):
    (folder / name).write_bytes(contents)
    with pytest.raises(UserError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        # A header that declares a terabyte.
        (
            idx_file(np.zeros([0, 0, 0]))[:4] + b"\0\0\x27\x10" * 3,
            "it holds less than 1000000000016",
        ),
        (idx_file(random_images(6))[:-1], "it holds 225 bytes instead of 226 bytes"),
        # Much more than the header declares, of which only one byte is read.
        (idx_file(random_images(6)) + bytes(2**26), "is damaged: it holds more than 226 bytes"),
    ],
)
def test_gzip_file_is_read_up_to_the_length_in_its_header(folder, monkeypatch, contents, message):
    (folder / "train-images-idx3-ubyte").unlink()
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(contents, compresslevel=1))
    num_read = []
    read_some = gzip.GzipFile.read
    monkeypatch.setattr(
        gzip.GzipFile,
        "read",
        lambda file, size=-1: num_read.append(size) or read_some(file, size),
    )
    with pytest.raises(UserError, match=f"{path} .*{message}"):
        load(folder)
    assert 0 < sum(num_read) < 1000
    assert min(num_read) > 0


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (
            ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
            "has 6 training and 0 test images with labels, but an evaluation needs both: add the",
        ),
        (["t10k-labels-idx1-ubyte"], "because there is no file with the labels of the test images"),
        (
            ["t10k-labels-idx1-ubyte", "train-labels-idx1-ubyte"],
            "because there is no file with the labels of the training and test images",
        ),
    ],
)
def test_evaluation_says_what_is_missing(folder, missing, message):
    for name in missing:
        (folder / name).unlink()
    with pytest.raises(UserError, match=message):
        require_two_labeled_parts(load(folder))


def test_error_names_a_damaged_gzip_file(folder):
    (folder / "train-images-idx3-ubyte").unlink()
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_file(random_images(6)))[:-12])
    with pytest.raises(UserError, match=f"{path} cannot be read"):
        load(folder)


@pytest.mark.parametrize(
    ("subfolder", "message"), [("", "holds no train-images"), ("nowhere", "there is no folder")]
)
def test_error_names_a_folder_without_training_images(tmp_path, subfolder, message):
    with pytest.raises(UserError, match=f"idx:{tmp_path / subfolder}.*{message}"):
        load(tmp_path / subfolder)


def test_fashion_mnist_is_as_published():
    if not FASHION_MNIST.is_dir():
        pytest.skip("Fashion-MNIST is missing: apt-get install dataset-fashion-mnist")
    source = load(FASHION_MNIST)
    assert (source.size, len(source.pretrain), len(source.test)) == (70000, 60000, 10000)
    assert np.bincount(source.labels[source.train]).tolist() == [6000] * 10
    assert np.bincount(source.labels[source.test]).tolist() == [1000] * 10
    # The first training image is an ankle boot. The mean of all training images is well known.
    assert source.labels[0] == 9
    train, _ = idx.load_parts(str(FASHION_MNIST))
    np.testing.assert_array_equal(read_image(source, 0)[..., 0], train.images[0])
    assert train.images.mean() / 255 == pytest.approx(0.2860, abs=0.00005)
