"""Residual networks against torchvision's definition: counts, sizes and values."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view

from moco_tf import encoders
from moco_tf.data.pixels import default
from moco_tf.encoders.resnet import resnet
from moco_tf.errors import UserError


@pytest.fixture(scope="module")
def networks():
    """Return the networks of several tests by name, with reproducible weights."""
    keras.utils.set_random_seed(0)
    names = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x8d")
    return {name: resnet(name) for name in names}


def count(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def convolutions(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]


# Parameters.


@pytest.mark.parametrize(
    ("name", "expected"),
    # torchvision's models without `fc`; for ResNeXt-50 32x8d, resnext50_32x4d with
    # width_per_group=8.
    [
        ("resnet18", 11176512),
        ("resnet34", 21284672),
        ("resnet50", 23508032),
        ("resnet101", 42500160),
        ("resnext50_32x8d", 45972800),
    ],
)
def test_parameter_counts_equal_those_of_torchvision(networks, name, expected):
    assert count(networks[name]) == expected


def test_cifar_networks_have_the_published_depth_and_size():
    # He et al. (2016), Table 6: 0.27 million for 20 layers, including the classifier of 650.
    network = resnet("resnet20", stem="small")
    layers = [layer for layer in convolutions(network) if "shortcut" not in layer.name]
    assert len(layers) + 1 == 20
    assert round(count(network) / 1e6, 2) == 0.27
    assert network.output_shape == (None, 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions", "features"),
    [
        ("resnet50", 24, 2048),
        ("resnet50w2", 94, 4096),
        ("resnet50w4", 375, 8192),
        ("resnext50_32x8d", 46, 2048),
    ],
)
def test_feature_extractors_have_the_size_in_table_1_of_the_paper(name, millions, features):
    # In a graph no initial values are computed.
    with tf.Graph().as_default():
        network = resnet(name)
        assert round(count(network) / 1e6) == millions
        assert network.output_shape == (None, features)


def test_width_multiplies_the_channels_of_every_convolution():
    narrow, wide = (convolutions(resnet(name, "small")) for name in ("resnet8", "resnet8w3"))
    assert [layer.filters for layer in wide] == [3 * layer.filters for layer in narrow]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_no_convolution_has_a_bias(networks, name):
    assert not any(layer.use_bias for layer in convolutions(networks[name]))


def test_3x3_convolutions_of_resnext50_32x8d_have_32_groups_of_at_least_8_channels(networks):
    grouped = {
        layer.name: (layer.groups, layer.filters // layer.groups, layer.kernel.shape[2])
        for layer in convolutions(networks["resnext50_32x8d"])
        if layer.groups > 1
    }
    assert grouped == {
        f"stage{stage}_block{block}_2_conv": (32, 4 * 2**stage, 4 * 2**stage)
        for stage, depth in enumerate((3, 4, 6, 3), start=1)
        for block in range(1, depth + 1)
    }


def test_stride_is_on_the_3x3_convolution(networks):
    strided = {
        layer.name: layer.kernel_size
        for layer in convolutions(networks["resnet50"])
        if layer.strides == (2, 2)
    }
    expected = {"stem_conv": (7, 7)}
    for stage in (2, 3, 4):
        expected[f"stage{stage}_block1_2_conv"] = (3, 3)
        expected[f"stage{stage}_block1_shortcut_conv"] = (1, 1)
    assert strided == expected


# Sizes.


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("size", [224, 225, 33])
def test_stages_have_the_sizes_of_torchvision(networks, name, size):
    def output_size(size, kernel, stride, padding):
        return (size + 2 * padding - kernel) // stride + 1

    expected = {"stem_relu": output_size(size, 7, 2, 3)}
    expected["stem_pool"] = output_size(expected["stem_relu"], 3, 2, 1)
    expected["stage1_block1_relu"] = expected["stem_pool"]
    for stage in (2, 3, 4):
        before = expected[f"stage{stage - 1}_block1_relu"]
        expected[f"stage{stage}_block1_relu"] = output_size(before, 3, 2, 1)
    network = networks[name]
    outputs = [network.get_layer(layer).output for layer in expected]
    shapes = keras.Model(network.input, outputs).compute_output_shape((1, size, size, 3))
    assert [shape[1:3] for shape in shapes] == [(side, side) for side in expected.values()]


def test_small_stem_keeps_the_resolution():
    network = resnet("resnet18", stem="small")
    outputs = [network.get_layer(name).output for name in ("stem_relu", "stage1_block2_relu")]
    model = keras.Model(network.input, outputs)
    assert model.compute_output_shape((1, 32, 32, 3)) == [(1, 32, 32, 64)] * 2
    assert network.get_layer("stem_conv").kernel_size == (3, 3)
    # 3 x 3 x 3 instead of 7 x 7 x 3 weights for each of 64 channels.
    assert count(network) == 11176512 - (49 - 9) * 3 * 64


# Values.


def windows(x, size, stride, padding, fill=0.0):
    """Return all windows of `[N, H, W, C]`, `[N, H', W', C, size, size]`."""
    pad_width = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    x = np.pad(x, pad_width, constant_values=fill)
    return sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]


def torchvision_forward(model, x, depths, convolutions_of_block, small_stem):
    """Compute torchvision's ResNet.forward up to the average pooling in NumPy."""
    weights = {
        f"{layer.name}.{variable.name}": np.float64(variable.numpy())
        for layer in model.layers
        for variable in layer.variables
    }

    def conv_bn(x, name, stride=1):
        kernel = weights[f"{name}_conv.kernel"]
        x = windows(x, len(kernel), stride, len(kernel) // 2)
        groups = x.shape[3] // kernel.shape[2]
        parts = zip(np.split(x, groups, axis=3), np.split(kernel, groups, axis=3), strict=True)
        x = np.concatenate(
            [np.einsum("nhwcij,ijco->nhwo", *part, optimize=True) for part in parts], axis=-1
        )
        mean, variance, gamma, beta = (
            weights[f"{name}_bn.{part}"]
            for part in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def relu(x):
        return np.maximum(x, 0)

    x = relu(conv_bn(x, "stem", stride=1 if small_stem else 2))
    if not small_stem:
        x = windows(x, 3, 2, 1, fill=-np.inf).max(axis=(-1, -2))
    for stage, depth in enumerate(depths, start=1):
        for block in range(1, depth + 1):
            name = f"stage{stage}_block{block}"
            stride = 2 if stage > 1 and block == 1 else 1
            strides = (stride, 1) if convolutions_of_block == 2 else (1, stride, 1)
            y = x
            for index, step in enumerate(strides, start=1):
                y = conv_bn(y, f"{name}_{index}", step)
                if index < len(strides):
                    y = relu(y)
            if f"{name}_shortcut_conv.kernel" in weights:
                x = conv_bn(x, f"{name}_shortcut", stride)
            x = relu(x + y)
    return x.mean(axis=(1, 2))


def randomize_normalizations(network, images, generator):
    """Assign random parameters, and statistics that are similar to those of the images.

    With unrelated statistics, the features would depend almost only on the betas of the last
    blocks, and hardly on the image and the convolutions.
    """
    layers = [layer for layer in network.layers if layer.name.endswith("_bn")]
    for layer in layers:
        # All four are random, so that none can take the place of another unnoticed.
        layer.gamma.assign(generator.uniform(0.4, 0.8, layer.gamma.shape))
        layer.beta.assign(generator.normal(0, 0.3, layer.beta.shape))
        layer.momentum = 0.0
    network(images, training=True)
    for layer in layers:
        mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
        layer.moving_mean.assign(mean + generator.normal(0, 0.3 * variance**0.5))
        layer.moving_variance.assign(variance * generator.uniform(0.5, 1.5, variance.shape))
        layer.momentum = 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "depths", "convolutions_of_block", "stem", "size"),
    [
        ("resnet18", (2, 2, 2, 2), 2, "imagenet", (40, 37)),
        ("resnet50", (3, 4, 6, 3), 3, "imagenet", (33, 38)),
        ("resnext50_32x8d", (3, 4, 6, 3), 3, "imagenet", (33, 38)),
        ("resnet14", (2, 2, 2), 2, "small", (11, 8)),
    ],
)
def test_features_equal_those_of_torchvision(
    networks, name, depths, convolutions_of_block, stem, size
):
    if stem == "imagenet":
        network = networks[name]
    else:
        keras.utils.set_random_seed(0)
        network = resnet(name, stem)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, *size, 3))
    before = network.get_weights()
    randomize_normalizations(network, tf.constant(x, tf.float32), generator)
    features = network(tf.constant(x, tf.float32), training=False).numpy()
    expected = torchvision_forward(network, x, depths, convolutions_of_block, stem == "small")
    network.set_weights(before)
    assert features.shape == expected.shape
    # The differences between images must be far above the tolerance.
    tolerance = 1e-4 * expected.max()
    assert expected.std(axis=0).mean() > 20 * tolerance
    np.testing.assert_allclose(features, expected, rtol=0, atol=tolerance)


def test_training_normalizes_each_group_by_itself():
    keras.utils.set_random_seed(0)
    network = resnet("resnet8", "small", bn_groups=2)
    images = tf.random.stateless_normal([8, 16, 16, 3], [0, 0])
    together = network(images, training=True)
    # The same network with one group, applied to each half.
    alone = resnet("resnet8", "small", bn_groups=1)
    alone.set_weights(network.get_weights())
    halves = [alone(half, training=True) for half in tf.split(images, 2)]
    np.testing.assert_allclose(together, tf.concat(halves, 0), atol=1e-5)
    assert np.abs(together - alone(images, training=True)).max() > 1e-3


# Initial weights.


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x8d"])
def test_initial_kernels_are_normal_with_variance_2_over_fan_out(networks, name):
    for layer in convolutions(networks[name]):
        kernel = layer.kernel.numpy()
        # The fan-out of a grouped convolution counts the channels of all groups, as in torch.
        height, width, _, channels = kernel.shape
        expected = (2 / (height * width * channels)) ** 0.5
        # Five standard errors of the estimates.
        assert abs(kernel.mean()) < 5 * expected / kernel.size**0.5
        assert abs(kernel.std() / expected - 1) < 5 / (2 * kernel.size) ** 0.5
        # 4.55 % of a normal distribution; a truncated normal would have none.
        beyond = (np.abs(kernel) > 2 * expected).mean()
        assert abs(beyond - 0.0455) < 5 * (0.0455 / kernel.size) ** 0.5


def test_batch_normalization_starts_as_the_identity(networks):
    for layer in networks["resnet18"].layers:
        if layer.name.endswith("_bn"):
            assert (layer.gamma.numpy() == 1).all()
            assert (layer.beta.numpy() == 0).all()
            assert (layer.moving_mean.numpy() == 0).all()
            assert (layer.moving_variance.numpy() == 1).all()


# Errors.


@pytest.mark.parametrize(
    "name", ["resnet", "resnet51", "vgg16", "", "w2", "resnet50w0", "resnet50x2"]
)
def test_unknown_encoder_is_an_error_with_the_choices(name):
    with pytest.raises(UserError, match=f"unknown encoder '{name}'.*resnet18.*resnet50"):
        resnet(name)


def test_other_pixels_than_the_channels_are_refused():
    with pytest.raises(UserError, match="for each of the 1 channels, or None"):
        encoders.build("resnet8", stem="small", channels=1, pixels=default(3))


def test_channels_first_are_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(UserError, match="image_data_format.. is 'channels_first', but images"):
            encoders.build("resnet8", stem="small")
    finally:
        keras.config.set_image_data_format("channels_last")


def test_unknown_stem_is_an_error_with_the_choices():
    with pytest.raises(UserError, match="unknown stem 'cifar': choose imagenet or small"):
        resnet("resnet18", stem="cifar")
