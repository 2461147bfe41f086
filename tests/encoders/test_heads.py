"""Projection heads against NumPy, and encoders made of a backbone and a head."""

import dataclasses
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import encoders
from moco_tf.data.pixels import Pixels
from moco_tf.encoders import preprocessing
from moco_tf.encoders.heads import head
from moco_tf.encoders.resnet import resnet
from moco_tf.errors import UserError


@pytest.mark.parametrize(("name", "layers"), [("linear", 1), ("mlp", 2)])
def test_initial_values_are_uniform_within_one_over_the_root_of_fan_in(name, layers):
    keras.utils.set_random_seed(0)
    bound = 512**-0.5
    model = head(name, 512, 128)
    assert len(model.variables) == 2 * layers  # kernels and biases
    for variable in model.variables:
        values = variable.numpy()
        assert np.abs(values).max() <= bound
        # The largest of 128 values is below 0.9 of the bound once in 700,000 cases.
        assert values.max() > 0.9 * bound
        assert values.min() < -0.9 * bound
        assert abs(values.mean()) < 5 * bound / (3 * values.size) ** 0.5
        assert abs(values.std() / (bound / 3**0.5) - 1) < 5 * (0.2 / values.size) ** 0.5


def test_linear_head_has_one_layer():
    model = head("linear", 2048, 128)
    assert model.output_shape == (None, 128)
    assert model.count_params() == 2048 * 128 + 128
    x = np.random.default_rng(0).normal(size=(3, 2048))
    kernel, bias = (np.float64(value) for value in model.get_weights())
    np.testing.assert_allclose(model(x), x @ kernel + bias, atol=1e-5)


def test_mlp_head_is_2048_2048_128_with_a_relu_between():
    model = head("mlp", 2048, 128)
    assert model.output_shape == (None, 128)
    assert model.count_params() == (2048 * 2048 + 2048) + (2048 * 128 + 128)
    x = np.random.default_rng(0).normal(size=(3, 2048))
    kernel, bias, last_kernel, last_bias = (np.float64(value) for value in model.get_weights())
    expected = np.maximum(x @ kernel + bias, 0) @ last_kernel + last_bias
    np.testing.assert_allclose(model(x), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_encoder_applies_its_head_to_its_backbone(name):
    encoder = encoders.build("resnet8", head=name, dim=24, stem="small", bn_groups=2)
    images = tf.random.stateless_normal([4, 16, 16, 3], [0, 0])
    assert encoder.output_shape == (None, 24)
    assert encoder.backbone.output_shape == (None, 64)
    np.testing.assert_allclose(encoder(images), encoder.head(encoder.backbone(images)), atol=1e-6)
    assert encoder.count_params() == (encoder.backbone.count_params() + encoder.head.count_params())


def test_encoder_without_a_head_is_the_backbone():
    assert encoders.build("resnet8", stem="small").output_shape == (None, 64)


def test_backbone_with_normalization_takes_values_from_0_to_255():
    backbone = resnet("resnet8", "small")
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3))
    normalized = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    features = encoders.with_normalization(backbone)(tf.constant(images, tf.float32))
    np.testing.assert_allclose(features, backbone(tf.constant(normalized, tf.float32)), atol=1e-4)
    assert np.abs(features).max() > 0.1


@pytest.mark.parametrize("channels", [1, 5])
def test_channels_change_the_first_kernel_only(channels):
    def shapes(channels):
        encoder = encoders.build("resnet8", "linear", 24, stem="small", channels=channels)
        assert encoder.input_shape == encoder.backbone.input_shape == (None, None, None, channels)
        return [tuple(variable.shape) for variable in encoder.variables]

    first, *others = shapes(channels)
    assert first == (3, 3, channels, 16)
    assert others == shapes(3)[1:]


@pytest.mark.parametrize("channels", [1, 5])
def test_images_that_are_not_rgb_are_normalized_with_the_means_over_rgb(channels):
    backbone = resnet("resnet8", "small", channels=channels)
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, channels))
    normalized = (images / 255 - (0.485 + 0.456 + 0.406) / 3) / ((0.229 + 0.224 + 0.225) / 3)
    features = encoders.with_normalization(backbone)(tf.constant(images, tf.float32))
    np.testing.assert_allclose(features, backbone(tf.constant(normalized, tf.float32)), atol=1e-4)
    assert np.abs(features).max() > 0.1


def test_unknown_head_is_an_error_with_the_choices():
    message = re.escape("unknown head 'conv': choose linear (MoCo v1) or mlp (MoCo v2)")
    with pytest.raises(UserError, match=message):
        head("conv", 512, 128)


def test_random_backbone_depends_on_the_seed_only():
    one, same, other = (
        encoders.random_backbone("resnet8", stem="small", seed=seed).get_weights()
        for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_random_backbone_is_the_random_network_with_normalization():
    network = encoders.random_network("resnet8", stem="small", channels=1, seed=1)
    backbone = encoders.random_backbone("resnet8", stem="small", channels=1, seed=1)
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 1)).astype("float32")
    expected = encoders.with_normalization(network)(images)
    np.testing.assert_array_equal(backbone(images), expected)
    assert encoders.network_of(backbone) == encoders.Network("resnet8", "small", 1)


@pytest.mark.parametrize("head", [None, "mlp"])
def test_model_that_normalizes_is_not_normalized_again(head):
    network = encoders.build("resnet8", head=head, stem="small")
    model = encoders.with_normalization(network)
    assert encoders.with_normalization(model) is model
    assert encoders.with_normalization(model, encoders.pixels_of(model)) is model
    assert encoders.without_normalization(model) is network
    assert encoders.without_normalization(network) is network
    other = dataclasses.replace(encoders.pixels_of(model), mean=(0.5, 0.5, 0.5))
    with pytest.raises(UserError, match=f"{model.name} already normalizes its images"):
        encoders.with_normalization(model, other)


def test_backbone_named_like_a_model_that_normalizes_gets_a_normalization(tmp_path):
    images = keras.Input((8, 8, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(images))
    keras.Model(images, features).save(tmp_path / "trained_from_images.keras")
    network = encoders.build(str(tmp_path / "trained_from_images.keras"))
    model = encoders.with_normalization(network)
    assert model is not network
    assert encoders.without_normalization(model) is network


def test_encoder_is_built_from_a_path_object(tmp_path):
    images = keras.Input((8, 8, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(images))
    model = keras.Model(images, features)
    model.save(tmp_path / "mine.keras")
    network = encoders.build(tmp_path / "mine.keras")
    for weight, expected in zip(network.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert encoders.random_backbone(tmp_path / "mine.keras").output_shape == (None, 4)
    with pytest.raises(UserError, match="the encoder is of the type NoneType: use a ResNet"):
        encoders.build(None)


@pytest.mark.parametrize("name", ["bn_groups", "channels", "dim"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", None])
def test_number_that_is_not_a_positive_integer_is_refused(name, value):
    with pytest.raises(UserError, match=f"^{name}=.*: must be .*1 or greater$"):
        encoders.build("resnet8", "linear", stem="small", **{name: value})


def test_length_of_queries_is_ignored_without_a_head():
    assert encoders.build("resnet8", dim=0, stem="small").output_shape == (None, 64)


def test_model_from_a_file_normalizes_as_the_pixel_values_that_it_was_saved_with(tmp_path):
    pixels = Pixels((0.4,), (0.2,), "uint16", (0, 65535))
    network = encoders.build("resnet8", stem="small", channels=1, pixels=pixels)
    encoders.with_normalization(network).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert encoders.with_normalization(loaded, pixels) is loaded
    other = dataclasses.replace(pixels, value_range=(0, 4095))
    with pytest.raises(UserError, match="already normalizes its images, for other pixel values"):
        encoders.with_normalization(loaded, other)


@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_copy_of_a_resnet_by_keras_is_normalized_in_evaluations(stem, tmp_path):
    network = encoders.build("resnet8", stem=stem)
    network.save(tmp_path / "network.keras")
    images = np.random.default_rng(0).integers(0, 256, [2, 32, 32, 3]).astype(np.float32)
    expected = encoders.with_normalization(network)(images)
    clone = keras.models.clone_model(network)
    clone.set_weights(network.get_weights())
    for copy in (clone, keras.models.load_model(tmp_path / "network.keras")):
        assert not hasattr(copy, "pixels")
        np.testing.assert_array_equal(preprocessing.for_images(copy)(images), expected)
    model = encoders.with_normalization(clone)
    assert preprocessing.for_images(model) is model


def test_copy_of_a_network_from_elsewhere_is_normalized_in_evaluations(tmp_path):
    own_network().save(tmp_path / "own.keras")
    network = encoders.build(tmp_path / "own.keras")
    network.save(tmp_path / "network.keras")
    images = np.random.default_rng(0).integers(0, 256, [2, 8, 8, 3]).astype(np.float32)
    copy = keras.models.load_model(tmp_path / "network.keras")
    assert not hasattr(copy, "pixels")
    expected = encoders.with_normalization(network)(images)
    np.testing.assert_array_equal(preprocessing.for_images(copy)(images), expected)


def test_network_without_normalization_in_another_model_is_a_warning(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, [2, 32, 32, 3]).astype(np.float32)
    encoder = encoders.build("resnet8", stem="small", head="linear")
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    wrapped = keras.Sequential([keras.Input((32, 32, 3)), encoder.backbone])
    for model in (loaded, wrapped):
        with pytest.warns(UserWarning, match="contains resnet8, which takes normalized images"):
            assert preprocessing.for_images(model) is model
        normalizing = encoders.with_normalization(model)
        assert preprocessing.for_images(normalizing) is normalizing
    expected = encoders.with_normalization(encoder)(images)
    np.testing.assert_array_equal(encoders.with_normalization(loaded)(images), expected)
    # Around a model that normalizes, or with a normalization of their own.
    around = keras.Sequential([encoders.with_normalization(encoder.backbone)])
    scaled = keras.Sequential([keras.layers.Rescaling(1 / 255), encoder.backbone])
    for model in (around, scaled):
        model.build((None, 32, 32, 3))
        assert preprocessing.for_images(model) is model


@pytest.mark.parametrize("model", ["runs/mine", keras.Sequential([keras.layers.Flatten()])])
def test_what_is_no_built_model_gets_no_normalization(model):
    with pytest.raises(UserError, match="backbone=.*: pass a model from normalized images"):
        encoders.with_normalization(model)


def efficient_net(name):
    network = getattr(keras.applications, name)
    return network(weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg")


def own_network():
    """A network of a user with a layer that has the name of the first one of our ResNets."""
    images = keras.Input([8, 8, 3])
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.Conv2D(4, 3, name="stem_conv")(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.stem = keras.layers.Conv2D(4, 3, name="stem_conv")

    def call(self, images):
        return keras.ops.mean(self.stem(images), axis=(1, 2))


@pytest.mark.parametrize(
    "build",
    [
        lambda: efficient_net("EfficientNetB0"),
        lambda: efficient_net("EfficientNetV2B0"),
        own_network,
        Subclassed,
        lambda: lambda images: images,
    ],
    ids=["efficientnet", "efficientnet_v2", "own", "subclassed", "function"],
)
def test_network_of_others_is_taken_for_one_of_images(build):
    network = build()
    assert preprocessing.for_images(network) is network
