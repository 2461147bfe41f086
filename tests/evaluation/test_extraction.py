"""Extracted features of a small folder against the backbone called image by image."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from moco_tf import encoders
from moco_tf.data import sources
from moco_tf.errors import UserError
from moco_tf.evaluation import extraction
from moco_tf.evaluation.extraction import Extractor, extract, feature_step
from tests.images import write_pieces

SIZE = 24
PATHS = [f"{folder}/{number}.png" for folder in ("cat", "dog") for number in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # The size of the central view, which is then the image itself.
    return write_pieces(tmp_path_factory.mktemp("images"), PATHS, SIZE, "cat/3.png")


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(0)
    network = encoders.build("resnet8", stem="small")
    # Statistics that make training and inference mode very different.
    for layer in network.layers:
        if layer.name.endswith("_bn"):
            layer.moving_variance.assign(tf.fill(layer.moving_variance.shape, 0.25))
    return encoders.with_normalization(network)


def one_by_one(backbone, folder, indices):
    images = [np.asarray(Image.open(folder / PATHS[i]), np.float32) for i in indices]
    return np.concatenate([backbone(image[np.newaxis], training=False) for image in images])


# A single batch, a smaller last batch, and only full batches.
@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [256, 4, 3])
def test_features_are_in_the_order_of_the_indices(monkeypatch, folder, backbone, batch_size):
    monkeypatch.setattr(extraction, "batch_size", lambda image_size: batch_size)
    indices = np.array([9, 0, 4, 1, 7, 2, 8, 5, 6])
    result = extract(backbone, sources.load(f"folder:{folder}"), indices, SIZE)
    assert result.indices.tolist() == indices.tolist()
    assert result.labels.tolist() == [1, 0, 0, 0, 1, 0, 1, 1, 1]
    assert result.num_classes == 2
    expected = one_by_one(backbone, folder, indices)
    assert result.features.dtype == np.float32
    assert result.features.shape == (9, 64)
    np.testing.assert_allclose(result.features, expected, rtol=1e-4, atol=1e-5)
    # Otherwise features in a wrong order would pass as well.
    assert np.abs(expected[1:] - expected[:-1]).max(axis=1).min() > 0.01


def test_unreadable_images_are_left_out_with_their_labels(monkeypatch, folder, backbone):
    monkeypatch.setattr(extraction, "batch_size", lambda image_size: 4)
    result = extract(backbone, sources.load(f"folder:{folder}"), np.arange(10), SIZE)
    readable = [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert result.indices.tolist() == readable
    assert result.unreadable == {3: f"{folder}/cat/3.png"}
    assert result.unreadable_classes == []
    assert result.labels.tolist() == [0] * 4 + [1] * 5
    expected = one_by_one(backbone, folder, readable)
    np.testing.assert_allclose(result.features, expected, rtol=1e-4, atol=1e-5)


def test_extractor_follows_the_weights_and_reads_the_images_once(monkeypatch, folder):
    monkeypatch.setattr(extraction, "batch_size", lambda image_size: 4)
    source, reads = sources.load(f"folder:{folder}"), []

    def read(index):
        count = tf.numpy_function(lambda: np.int64(reads.append(1) or 0), [], tf.int64)
        with tf.control_dependencies([count]):
            return source.read(index)

    counted = dataclasses.replace(source, read=read)
    backbone = encoders.random_backbone("resnet8", stem="small", seed=0)
    step = feature_step(backbone)
    extractor = Extractor(counted, np.arange(10), SIZE, keep_views=True)
    first = extractor(step)
    reads_of_first = len(reads)
    backbone.set_weights(encoders.random_backbone("resnet8", stem="small", seed=1).get_weights())
    second = extractor(step)
    assert len(reads) == reads_of_first > 0
    assert np.abs(second.features - first.features).max() > 0.01
    expected = extract(backbone, source, np.arange(10), SIZE)
    np.testing.assert_array_equal(second.features, expected.features)
    assert second.indices.tolist() == expected.indices.tolist()
    assert second.unreadable == expected.unreadable


def test_class_without_a_readable_image_is_named(folder, backbone):
    result = extract(backbone, sources.load(f"folder:{folder}"), np.array([3, 8, 6]), SIZE)
    assert result.labels.tolist() == [1, 1]
    assert result.unreadable.keys() == {3}
    assert result.unreadable_classes == ["cat"]


def test_flat_folder_gives_features_without_labels(folder, backbone):
    source = sources.load(f"folder:{folder / 'dog'}")
    result = extract(backbone, source, np.array([4, 0]), SIZE)
    assert result.labels is None
    assert result.num_classes == 0
    expected = one_by_one(backbone, folder, [9, 5])
    np.testing.assert_allclose(result.features, expected, rtol=1e-4, atol=1e-5)


def test_features_are_float32_for_float16_backbone(folder):
    def mean_color(images):
        return tf.cast(tf.reduce_mean(images, axis=[1, 2]) / 256.0, tf.float16)

    result = extract(mean_color, sources.load(f"folder:{folder}"), np.array([0, 6]), SIZE)
    assert result.features.dtype == np.float32
    expected = [np.asarray(Image.open(folder / PATHS[i])).mean(axis=(0, 1)) / 256 for i in (0, 6)]
    np.testing.assert_allclose(result.features, expected, rtol=1e-3)


def test_no_images_are_refused(folder, backbone):
    with pytest.raises(UserError, match=f"folder:{folder}' has no images in this part"):
        extract(backbone, sources.load(f"folder:{folder}"), np.array([], np.int64), SIZE)


def test_source_without_readable_image_is_refused(folder, backbone):
    with pytest.raises(UserError, match=f"folder:{folder}.*none of the images can be read"):
        extract(backbone, sources.load(f"folder:{folder}"), np.array([3]), SIZE)


@pytest.mark.distributed
def test_two_replicas_give_identical_features(monkeypatch, folder, backbone, two_replicas):
    # Ten images: three batches for two replicas.
    monkeypatch.setattr(extraction, "batch_size", lambda image_size: 2)
    source = sources.load(f"folder:{folder}")
    indices = np.array([9, 0, 4, 1, 3, 7, 2, 8, 5, 6])
    expected = extract(backbone, source, indices, SIZE)
    with two_replicas.scope():
        copy = encoders.with_normalization(encoders.build("resnet8", stem="small"))
        copy.set_weights(backbone.get_weights())
        result = extract(copy, source, indices, SIZE)
    np.testing.assert_array_equal(result.indices, expected.indices)
    np.testing.assert_array_equal(result.labels, expected.labels)
    np.testing.assert_array_equal(result.features, expected.features)


def test_backbone_may_be_a_function_with_statements_on_tensors(folder):
    def flat(images):
        if tf.reduce_max(images) > 300:
            images = images / 300
        return tf.reshape(images, [len(images), -1])

    result = extract(flat, sources.load(f"folder:{folder}"), np.array([0, 6]), SIZE)
    expected = [np.asarray(Image.open(folder / PATHS[i]), np.float32).ravel() for i in (0, 6)]
    np.testing.assert_array_equal(result.features, expected)


def test_network_of_build_gets_its_normalization(folder, backbone):
    network = encoders.without_normalization(backbone)
    result = extract(network, sources.load(f"folder:{folder}"), np.array([0, 6]), SIZE)
    images = np.stack([np.asarray(Image.open(folder / PATHS[i]), np.float32) for i in (0, 6)])
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    expected = network((images / 255 - mean) / std, training=False)
    np.testing.assert_allclose(result.features, expected, rtol=1e-4, atol=1e-5)


def test_models_from_elsewhere_take_images_as_they_are(folder):
    flat = keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Flatten()])
    result = extract(flat, sources.load(f"folder:{folder}"), np.array([0, 6]), SIZE)
    expected = [np.asarray(Image.open(folder / PATHS[i]), np.float32).ravel() for i in (0, 6)]
    np.testing.assert_array_equal(result.features, expected)
