"""Features of a small folder against the backbone called image by image."""

import keras
import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from PIL import Image

from moco_tf import encoders
from moco_tf.data import sources
from moco_tf.errors import UserError
from moco_tf.evaluation import features
from moco_tf.evaluation.features import extract

SIZE = 24
PATHS = [f"{folder}/{number}.png" for folder in ("cat", "dog") for number in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    photo = skimage.data.coffee()
    for number, path in enumerate(PATHS):
        (folder / path).parent.mkdir(exist_ok=True)
        # Of the size of the central view, which then is the image itself.
        corner = 30 * number
        Image.fromarray(photo[corner : corner + SIZE, corner : corner + SIZE]).save(folder / path)
    (folder / "cat" / "3.png").write_text("not an image\n")
    return folder


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(0)
    network = encoders.build("resnet8", stem="small")
    # Statistics with which training and inference mode are far apart.
    for layer in network.layers:
        if layer.name.endswith("_bn"):
            layer.moving_variance.assign(tf.fill(layer.moving_variance.shape, 0.25))
    return encoders.with_normalization(network)


def one_by_one(backbone, folder, indices):
    images = [np.asarray(Image.open(folder / PATHS[i]), np.float32) for i in indices]
    return np.concatenate([backbone(image[np.newaxis], training=False) for image in images])


@pytest.mark.parametrize("batch_size", [256, 4, 3])  # one batch; the last one smaller; all full
def test_features_are_the_backbones_in_the_order_asked_for(
    monkeypatch, folder, backbone, batch_size
):
    monkeypatch.setattr(features, "BATCH_SIZE", batch_size)
    indices = [9, 0, 4, 1, 7, 2, 8, 5, 6]
    found = extract(backbone, sources.load(f"folder:{folder}"), indices, SIZE)
    assert found.indices.tolist() == indices
    assert found.labels.tolist() == [1, 0, 0, 0, 1, 0, 1, 1, 1]
    expected = one_by_one(backbone, folder, indices)
    assert found.features.dtype == np.float32
    assert found.features.shape == (9, 64)
    np.testing.assert_allclose(found.features, expected, rtol=1e-4, atol=1e-5)
    # Else features in a wrong order would pass as well.
    assert np.abs(expected[1:] - expected[:-1]).max(axis=1).min() > 0.01


def test_unreadable_images_are_left_out_with_their_labels(monkeypatch, folder, backbone):
    monkeypatch.setattr(features, "BATCH_SIZE", 4)
    found = extract(backbone, sources.load(f"folder:{folder}"), np.arange(10), SIZE)
    kept = [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert found.indices.tolist() == kept
    assert found.labels.tolist() == [0] * 4 + [1] * 5
    np.testing.assert_allclose(
        found.features, one_by_one(backbone, folder, kept), rtol=1e-4, atol=1e-5
    )


def test_a_flat_folder_gives_features_without_labels(folder, backbone):
    found = extract(backbone, sources.load(f"folder:{folder / 'dog'}"), [4, 0], SIZE)
    assert found.labels is None
    expected = one_by_one(backbone, folder, [9, 5])
    np.testing.assert_allclose(found.features, expected, rtol=1e-4, atol=1e-5)


def test_features_are_float32_whatever_the_backbone_returns(folder):
    def halves(images):
        return tf.cast(tf.reduce_mean(images, axis=[1, 2]) / 256.0, tf.float16)

    found = extract(halves, sources.load(f"folder:{folder}"), [0, 6], SIZE)
    assert found.features.dtype == np.float32
    expected = [np.asarray(Image.open(folder / PATHS[i])).mean(axis=(0, 1)) / 256 for i in (0, 6)]
    np.testing.assert_allclose(found.features, expected, rtol=1e-3)


def test_nothing_readable_is_an_error_that_names_the_source(folder, backbone):
    with pytest.raises(UserError, match=f"folder:{folder}.*no image to evaluate on can be read"):
        extract(backbone, sources.load(f"folder:{folder}"), [3], SIZE)


def test_two_replicas_give_the_features_of_one_bit_for_bit(
    monkeypatch, folder, backbone, two_replicas
):
    monkeypatch.setattr(features, "BATCH_SIZE", 2)  # ten images: three batches for two replicas
    source, indices = sources.load(f"folder:{folder}"), [9, 0, 4, 1, 3, 7, 2, 8, 5, 6]
    expected = extract(backbone, source, indices, SIZE)
    with two_replicas.scope():
        copy = encoders.with_normalization(encoders.build("resnet8", stem="small"))
        copy.set_weights(backbone.get_weights())
        found = extract(copy, source, indices, SIZE)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.features, expected.features)
