"""Arrays in files of NumPy, against the arrays that were saved."""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import run_data
from moco_tf.data import sources
from moco_tf.data.sources import npy
from moco_tf.errors import UserError

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, [100, 6, 5, 3], np.uint8)


def save(folder, images, labels=None):
    np.save(folder / "images.npy", images)
    if labels is not None:
        np.save(folder / "images.labels.npy", labels)
    return sources.load(f"npy:{folder}/images.npy")


def read(source, index):
    return source.read(tf.constant(index, tf.int64)).numpy()


@pytest.mark.parametrize("channels", [None, 1, 3, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_images_are_those_of_the_array(tmp_path, channels, order):
    shape = [10, 6, 5] + ([channels] if channels else [])
    images = np.asarray(GENERATOR.integers(0, 256, shape, np.uint8), order=order)
    source = save(tmp_path, images)
    assert source.size == 10
    assert source.channels == (channels or 3)
    for index, image in enumerate(images):
        expected = image if channels else np.stack([image] * 3, axis=-1)
        np.testing.assert_array_equal(read(source, index), expected)
    assert source.describe(3) == f"image 3 of {tmp_path}/images.npy"
    assert "no labels, because there is no images.labels.npy" in source.summary


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_values_have_any_byte_order(tmp_path, byte_order):
    images = GENERATOR.integers(0, 65536, [4, 6, 5, 1]).astype(f"{byte_order}u2")
    np.save(tmp_path / "images.npy", images)
    source = sources.load(f"npy:{tmp_path}/images.npy", pixels="uint16")
    for index in range(4):
        np.testing.assert_array_equal(read(source, index), images[index])
    with pytest.raises(UserError, match="is uint16, but images are uint8.*pixels=uint16 to keep"):
        sources.load(f"npy:{tmp_path}/images.npy")


def test_shape_is_known_inside_tf_data(tmp_path):
    source = save(tmp_path, IMAGES)
    dataset = tf.data.Dataset.range(2).map(source.read)
    assert dataset.element_spec == tf.TensorSpec([6, 5, 3], tf.uint8)


@pytest.mark.parametrize(
    ("labels", "class_names"),
    [
        ([10, 9, 10, 2], ["2", "9", "10"]),
        (["dog", "cat", "dog", "cat"], ["cat", "dog"]),
        ([False, True, True, False], ["False", "True"]),
    ],
)
def test_labels_are_in_the_file_beside_it(tmp_path, labels, class_names):
    source = save(tmp_path, IMAGES[:4], np.array(labels))
    assert source.class_names == class_names
    assert [class_names[label] for label in source.labels] == [str(label) for label in labels]


@pytest.mark.parametrize("missing", [-1, ""])
def test_images_without_a_label_are_for_pretraining_only(tmp_path, missing):
    labels = [7, 8, missing, missing] * 25
    source = save(tmp_path, IMAGES, np.array(labels))
    assert source.class_names == ["7", "8"]
    assert source.labels.tolist() == [0, 1, -1, -1] * 25
    assert sorted([*source.train, *source.test]) == [n for n in range(100) if n % 4 < 2]
    assert len(source.pretrain) == 100
    assert "50 images without a label are for pre-training only" in source.summary


def test_one_class_is_no_labels(tmp_path):
    source = save(tmp_path, IMAGES, np.zeros(100, int))
    assert source.labels is None
    assert "no labels, because there is only one class, 0" in source.summary


def test_a_fifth_is_held_out_and_stays_so(tmp_path):
    source = save(tmp_path, GENERATOR.integers(0, 256, [2000, 2, 2, 3], np.uint8))
    assert 350 < len(source.test) < 450
    assert sorted([*source.train, *source.test]) == source.pretrain.tolist() == list(range(2000))
    fewer = save(tmp_path, IMAGES)
    assert fewer.test.tolist() == [index for index in source.test if index < 100]


def test_contents_change_with_a_pixel(tmp_path, monkeypatch):
    monkeypatch.setattr(npy, "BLOCK_BYTES", 7 * IMAGES[0].nbytes)
    before = run_data.of_source(save(tmp_path, IMAGES)).contents
    changed = IMAGES.copy()
    changed[99, 5, 4, 2] ^= 1
    assert run_data.of_source(save(tmp_path, changed)).contents != before
    monkeypatch.setattr(npy, "CHECKSUM_BYTES", IMAGES.nbytes // 2)
    even = run_data.of_source(save(tmp_path, changed)).contents
    assert even == run_data.of_source(save(tmp_path, IMAGES)).contents != before


def test_contents_change_with_a_label(tmp_path):
    labels = np.arange(100) % 3
    before = run_data.of_source(save(tmp_path, IMAGES, labels))
    assert run_data.of_source(save(tmp_path, IMAGES, labels.astype(np.uint8))) == before
    run_data.write(str(tmp_path), before)
    changed = IMAGES.copy()
    changed[3, 2, 1, 0] ^= 1
    both = run_data.of_source(save(tmp_path, changed, labels[::-1]))
    with pytest.raises(UserError, match=r"the images of .* 2 changed \(100 images, labels in"):
        run_data.require_same(str(tmp_path), both, "npy:images.npy")
    after = run_data.of_source(save(tmp_path, IMAGES, labels[::-1]))
    with pytest.raises(UserError, match=r"the labels of .*: 1 changed \(labels in images.labels"):
        run_data.require_same(str(tmp_path), after, "npy:images.npy")
    (tmp_path / "images.labels.npy").unlink()
    with pytest.raises(UserError, match=r"the labels of .*: 1 removed \(labels in images.labels"):
        run_data.require_same(
            str(tmp_path), run_data.of_source(save(tmp_path, IMAGES)), "npy:images.npy"
        )


FLOATS = IMAGES[:2] / np.float32(255)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (FLOATS, r"is float32, but images are uint8: use np.round\(255 \* images\).astype"),
        (255 * FLOATS, r"is float32, but images are uint8: use np.round\(images\).astype"),
        (2 * FLOATS - 1, "scale the values, -1 to .* to 0 to 255"),
        (IMAGES[:2].astype(int), r"is int64, but images are uint8: use images.astype\(np.uint8\)"),
        (IMAGES[:2] * np.uint16(200), "is uint16, but images are uint8: scale the values"),
        (IMAGES[:2] > 100, r"is bool, but images are uint8: use images.astype\(np.uint8\) \* 255"),
        (IMAGES[0], r"shape \[6, 5, 3\], which is that of one image"),
        (np.moveaxis(IMAGES[:2, :, :], 3, 1).repeat(2, -1), "channels first: use np.moveaxis"),
        (IMAGES[:2].reshape(2, -1), r"shape \[2, 90\].*such as images.reshape\(2, HEIGHT, WIDTH"),
        (IMAGES[:1, 0, 0, 0], r"shape \[1\], which is not that of images: use an array \[N, H, W"),
    ],
)
def test_arrays_that_hold_no_images_are_refused(tmp_path, images, message):
    with pytest.raises(UserError, match=message) as error:
        save(tmp_path, images)
    assert str(error.value).startswith(
        f"data source 'npy:{tmp_path}/images.npy': {tmp_path}/images"
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(3, int), r"shape \[3\]: use one label for each of the 100 images"),
        (np.zeros([100, 2], int), r"shape \[100, 2\]: use one label for each"),
        (np.zeros(100), "is float64: use integers or texts"),
        (np.array(["cat", np.nan] * 50), "has the text 'nan', which NumPy makes of a missing lab"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, message):
    with pytest.raises(UserError, match=f"{tmp_path}/images.labels.npy.*{message}"):
        save(tmp_path, IMAGES, labels)


def test_files_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, IMAGES)
    complete = path.read_bytes()
    np.save(path, np.array([{}]))
    pickled = path.read_bytes()
    np.savez(tmp_path / "several.npz", IMAGES)
    several = (tmp_path / "several.npz").read_bytes()
    for contents in (b"", b"no array", complete[:-100], pickled):
        path.write_bytes(contents)
        with pytest.raises(UserError, match="is not a file of numpy.save .* or it is incomplete"):
            sources.load(f"npy:{path}")
    path.write_bytes(several)
    with pytest.raises(UserError, match="holds several arrays: save one with numpy.save"):
        sources.load(f"npy:{path}")
    with pytest.raises(UserError, match="there is no file '/none.npy'"):
        sources.load("npy:/none.npy")
    with pytest.raises(UserError, match="copy the file to a local disk"):
        sources.load("npy:gs://bucket/images.npy")
