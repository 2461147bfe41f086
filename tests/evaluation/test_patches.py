"""Anomaly detection by patches against NumPy, and against images whose odd part is known."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from moco_tf import encoders
from moco_tf.data import sources
from moco_tf.errors import UserError
from moco_tf.evaluation import patches
from moco_tf.evaluation.settings import AnomalySettings

SIZE = 64
SETTINGS = AnomalySettings(level="patch")


@pytest.fixture(scope="module")
def network():
    return encoders.random_network("resnet18", stem="imagenet", seed=0)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """40 normal images of noise, and 20 of which one corner is gray; the labels are in files."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, [60, SIZE, SIZE, 3], np.uint8)
    images[40:, :32, 32:] = 128
    path = tmp_path_factory.mktemp("noise") / "images.npy"
    np.save(path, images)
    labels = np.repeat([1, 0], [40, 20]).astype(np.int32)
    return dataclasses.replace(
        sources.load(f"npy:{path}"),
        train=np.arange(20),
        test=np.arange(20, 60),
        load_labels=lambda: (labels, ["bad", "good"]),
    )


def maps_in_numpy(network, source, indices):
    """Return the averaged and normalized maps of the third stage, `[n, h, w, D]`."""
    images = np.stack([source.read(tf.constant(i, tf.int64)) for i in indices])
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    stage = patches.keras.Model(network.inputs, network.get_layer("stage3_block2_relu").output)
    maps = stage((images / np.float32(255) - mean) / std, training=False).numpy()
    height, width = maps.shape[1:3]
    averaged = np.zeros_like(maps)
    for y in range(height):
        for x in range(width):
            window = maps[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            averaged[:, y, x] = window.mean(axis=(1, 2))
    return averaged / np.linalg.norm(averaged, axis=-1, keepdims=True)


def test_distances_equal_those_of_numpy(network, source):
    stage = patches.third_stage(network)
    bank, unreadable = patches.choose(stage, source, source.train, SIZE, seed=0)
    normal = maps_in_numpy(network, source, source.train)
    assert unreadable == {}
    assert bank.shape == (20 * 16, 256)  # All 4 x 4 patches of all images.
    expected = normal.reshape(-1, 256)
    # In another order, which is random for each image.
    similarity = bank @ expected.T
    assert sorted(similarity.argmax(axis=1)) == list(range(len(expected)))
    np.testing.assert_allclose(similarity.max(axis=1), 1, atol=1e-5)

    result, size = patches.distances(stage, bank, source, source.test, SIZE)
    assert size == (4, 4)
    tested = maps_in_numpy(network, source, source.test).reshape(len(source.test), 16, 256)
    nearest = 1 - (tested @ expected.T).max(axis=-1)
    np.testing.assert_allclose(result.features, nearest, atol=1e-5)


def test_odd_part_of_an_image_is_found(network, source):
    result, heat = patches.evaluate(network, None, source, SIZE, SETTINGS)
    stage = patches.third_stage(network)
    bank, _ = patches.choose(stage, source, source.train, SIZE, seed=0)
    tested, _ = patches.distances(stage, bank, source, source.test, SIZE)
    expected = roc_auc_score(tested.labels == 0, tested.features.max(axis=1))
    assert result["auroc"] == pytest.approx(expected)
    assert result["auroc"] > 0.95
    assert (result["num_normal"], result["num_patches"], result["num_test"]) == (20, 320, 40)
    assert (result["protocol"], result["level"]) == ("anomaly_patch", "patch")
    found = [item["class"] == "bad" for item in result["most_anomalous"]]
    assert heat.shape == (32, 4, 4)
    corners = heat[found][:, :2, 2:].mean(axis=(1, 2))
    others = heat[found][:, 2:, :2].mean(axis=(1, 2))
    assert (corners > others).all()


def test_number_of_patches_is_bounded(monkeypatch, network, source):
    monkeypatch.setattr(patches, "MAX_PATCHES", 60)
    stage = patches.third_stage(network)
    bank, _ = patches.choose(stage, source, source.train, SIZE, seed=0)
    assert bank.shape == (60, 256)
    again, _ = patches.choose(stage, source, source.train, SIZE, seed=0)
    np.testing.assert_array_equal(again, bank)
    other, _ = patches.choose(stage, source, source.train, SIZE, seed=1)
    assert (other != bank).any()
    monkeypatch.setattr(patches, "MAX_PATCHES", 7)  # Fewer than there are images.
    bank, _ = patches.choose(stage, source, source.train, SIZE, seed=0)
    assert bank.shape == (7, 256)


def test_normal_images_of_a_gallery(network, source):
    gallery = dataclasses.replace(source, load_labels=None)
    queries = dataclasses.replace(source, train=source.train[:0])
    result, _ = patches.evaluate(network, gallery, queries, SIZE, SETTINGS)
    # Every test image is among the normal images.
    assert result["most_anomalous"][0]["score"] == pytest.approx(0, abs=1e-5)
    assert (result["num_normal"], result["num_test"]) == (60, 60)
    labeled, _ = patches.evaluate(network, source, queries, SIZE, SETTINGS)
    assert labeled["num_normal"] == 40
    others = dataclasses.replace(
        source, load_labels=lambda: (np.zeros(60, np.int32), ["cable", "dent"])
    )
    with pytest.raises(UserError, match="the classes are cable, dent"):
        patches.evaluate(network, others, queries, SIZE, SETTINGS)


def test_other_networks_are_refused(source):
    network = patches.keras.Sequential([patches.keras.Input([8, 8, 3])], name="mine")
    with pytest.raises(
        UserError, match="level=patch needs one of this project's ResNets, not mine"
    ):
        patches.third_stage(network)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": "patch", "k": 3}, "k=3 has no effect with level=patch"),
        ({"seed": 3}, "seed=3 has no effect with level=image"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        AnomalySettings(**settings)


def test_network_with_normalization_has_the_same_maps(network, source):
    stage = patches.third_stage(encoders.with_normalization(network))
    indices = np.arange(2)
    images = np.stack([source.read(tf.constant(i, tf.int64)) for i in indices])
    maps = tf.math.l2_normalize(stage(np.float32(images), training=False), axis=-1)
    np.testing.assert_allclose(maps, maps_in_numpy(network, source, indices), atol=1e-5)
