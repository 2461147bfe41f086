"""Projection heads against float64, and encoders put together of them and a backbone."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import encoders
from moco_tf.encoders.heads import head
from moco_tf.encoders.resnet import resnet
from moco_tf.errors import UserError


@pytest.mark.parametrize("name, layers", [("linear", 1), ("mlp", 2)])
def test_heads_start_uniform_within_one_over_the_root_of_fan_in(name, layers):
    keras.utils.set_random_seed(0)
    bound = 512**-0.5
    model = head(name, 512, 128)
    assert len(model.variables) == 2 * layers  # kernels and biases
    for variable in model.variables:
        values = variable.numpy()
        assert np.abs(values).max() <= bound
        # Of 128 numbers the largest is below 0.9 of the bound once in 700,000.
        assert values.max() > 0.9 * bound and values.min() < -0.9 * bound
        assert abs(values.mean()) < 5 * bound / (3 * values.size) ** 0.5
        assert abs(values.std() / (bound / 3**0.5) - 1) < 5 * (0.2 / values.size) ** 0.5


def test_the_linear_head_is_one_layer():
    model = head("linear", 2048, 128)
    assert model.output_shape == (None, 128)
    assert model.count_params() == 2048 * 128 + 128
    x = np.random.default_rng(0).normal(size=(3, 2048))
    kernel, bias = (np.float64(value) for value in model.get_weights())
    np.testing.assert_allclose(model(x), x @ kernel + bias, atol=1e-5)


def test_the_mlp_head_is_2048_2048_128_with_a_relu_between():
    model = head("mlp", 2048, 128)
    assert model.output_shape == (None, 128)
    assert model.count_params() == (2048 * 2048 + 2048) + (2048 * 128 + 128)
    x = np.random.default_rng(0).normal(size=(3, 2048))
    kernel, bias, last_kernel, last_bias = (np.float64(value) for value in model.get_weights())
    expected = np.maximum(x @ kernel + bias, 0) @ last_kernel + last_bias
    np.testing.assert_allclose(model(x), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_an_encoder_is_its_head_on_its_backbone(name):
    encoder = encoders.build("resnet8", head=name, dim=24, stem="small", bn_groups=2)
    images = tf.random.stateless_normal([4, 16, 16, 3], [0, 0])
    assert encoder.output_shape == (None, 24)
    assert encoder.backbone.output_shape == (None, 64)
    np.testing.assert_allclose(encoder(images), encoder.head(encoder.backbone(images)), atol=1e-6)
    assert encoder.count_params() == (encoder.backbone.count_params() + encoder.head.count_params())


def test_without_a_head_the_encoder_is_the_backbone():
    assert encoders.build("resnet8", stem="small").output_shape == (None, 64)


def test_a_backbone_with_normalization_takes_images_of_0_to_255():
    backbone = resnet("resnet8", "small")
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3))
    normalised = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = encoders.with_normalization(backbone)(tf.constant(images, tf.float32))
    np.testing.assert_allclose(found, backbone(tf.constant(normalised, tf.float32)), atol=1e-4)
    assert np.abs(found).max() > 0.1


@pytest.mark.parametrize("channels", [1, 5])
def test_images_of_other_channels_change_the_first_kernel_alone(channels):
    def shapes(channels):
        encoder = encoders.build("resnet8", "linear", 24, stem="small", channels=channels)
        assert encoder.input_shape == encoder.backbone.input_shape == (None, None, None, channels)
        return [tuple(variable.shape) for variable in encoder.variables]

    first, *others = shapes(channels)
    assert first == (3, 3, channels, 16)
    assert others == shapes(3)[1:]


@pytest.mark.parametrize("channels", [1, 5])
def test_images_of_other_channels_are_normalised_by_the_means_of_imagenets(channels):
    backbone = resnet("resnet8", "small", channels=channels)
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, channels))
    normalised = (images / 255 - (0.485 + 0.456 + 0.406) / 3) / ((0.229 + 0.224 + 0.225) / 3)
    found = encoders.with_normalization(backbone)(tf.constant(images, tf.float32))
    np.testing.assert_allclose(found, backbone(tf.constant(normalised, tf.float32)), atol=1e-4)
    assert np.abs(found).max() > 0.1


def test_an_unknown_head_is_named_with_the_choices():
    message = re.escape("unknown head 'conv': choose linear (MoCo v1) or mlp (MoCo v2)")
    with pytest.raises(UserError, match=message):
        head("conv", 512, 128)
