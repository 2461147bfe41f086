"""KerasHub's network, layer for layer, and the preset as KerasHub loads it."""

import keras
import numpy as np
import pytest

from export.keras_hub import to_image_converter, to_keras_hub
from moco_tf import encoders
from moco_tf.errors import UserError
from tests.images import crops

keras_hub = pytest.importorskip("keras_hub", reason="KerasHub is not installed")


def randomized(*args, **kwargs):
    """A backbone that has no statistic, scale or shift of its initial value."""
    keras.utils.set_random_seed(0)
    backbone = encoders.build(*args, **kwargs)
    for number, weight in enumerate(backbone.weights):
        if "bn" in weight.path:
            low, high = (-0.3, 0.3) if weight.path.endswith(("beta", "moving_mean")) else (0.5, 1.5)
            weight.assign(np.random.default_rng(number).uniform(low, high, weight.shape))
    return backbone


def stages(backbone):
    """The output of every stage."""
    last = {}
    for layer in backbone.layers:
        if layer.name.startswith("stage") and "_block" in layer.name:
            last[layer.name.partition("_")[0]] = layer.output
    return list(last.values())


@pytest.mark.parametrize(
    ("name", "channels", "shape"),
    [("resnet18", 3, (97, 75)), ("resnet50", 3, (64, 96)), ("resnet8w4", 5, (64, 64))],
)
def test_every_stage_is_the_same(name, channels, shape):
    backbone = randomized(name, channels=channels)
    found = to_keras_hub(backbone)
    images = np.random.default_rng(0).normal(size=(2, *shape, channels)).astype(np.float32)
    outputs = keras.Model(backbone.input, [*stages(backbone), backbone.output])
    *expected, features = outputs(images, training=False)
    pyramid = keras.Model(found.input, found.pyramid_outputs)(images, training=False)
    assert list(pyramid) == [f"P{stage + 2}" for stage in range(len(expected))]
    for stage, map_ in zip(pyramid.values(), expected, strict=True):
        assert_close(stage, map_)
    assert_close(np.mean(found(images, training=False), axis=(1, 2)), features)


def assert_close(found, expected):
    found, expected = map(keras.ops.convert_to_numpy, (found, expected))
    assert found.shape == expected.shape and expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_in_training_it_is_the_same_too():
    backbone, images = randomized("resnet18"), np.stack(crops(4, 64)).astype(np.float32) / 255
    found = to_keras_hub(backbone)
    features = np.mean(found(images, training=True), axis=(1, 2))
    assert_close(features, backbone(images, training=True))
    assert_close(found.get_layer("conv1_bn").moving_mean, backbone.get_layer("stem_bn").moving_mean)


def test_the_converter_is_our_normalisation():
    images = np.stack(crops(2, 48))
    backbone = randomized("resnet18")
    expected = encoders.with_normalization(backbone)(images.astype(np.float32), training=False)
    normalized = to_image_converter(3)(images)
    assert_close(np.mean(to_keras_hub(backbone)(normalized, training=False), axis=(1, 2)), expected)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (dict(name="resnet18", stem="small"), "resnet18 with stem=small"),
        (dict(name="resnet50w2"), "64 channels in the first stage, and resnet50w2 has 128"),
        (dict(name="resnet8"), "and resnet8 has 16"),
        (dict(name="resnext50_32x8d"), "no ResNeXt, and resnext50_32x8d is one"),
    ],
)
def test_a_network_that_keras_hub_does_not_have(network, words):
    with pytest.raises(UserError, match=words):
        to_keras_hub(encoders.build(**network))
