"""Encoders as state dicts: round trips, torchvision's names and torch's axes."""

import numpy as np
import pytest

from moco_tf import encoders
from moco_tf.encoders import state_dict
from moco_tf.errors import UserError


@pytest.fixture(scope="module")
def encoder():
    """Return an encoder with a head, for tests that do not depend on the architecture."""
    return random_encoder("resnet8", 0, head="mlp", dim=24, stem="small")


@pytest.fixture
def arrays(encoder):
    return state_dict.read(encoder)


def random_encoder(name, seed, **kwargs):
    """Return an encoder whose variables are all random and positive."""
    model = encoders.build(name, **kwargs)
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        variable.assign(generator.uniform(0.1, 1, variable.shape))
    return model


def assert_equal_weights(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


# Round trips.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet18", {}),
        ("resnet18", {"stem": "small"}),
        ("resnet8w3", {"stem": "small", "head": "linear"}),
        ("resnet8", {"stem": "small", "head": "mlp", "dim": 24}),
        pytest.param("resnext50_32x8d", {}, marks=pytest.mark.nightly),
    ],
)
def test_encoder_written_from_another_equals_it_exactly(name, settings):
    one, other = (random_encoder(name, seed, **settings) for seed in (1, 2))
    expected = one.get_weights()
    state_dict.write(other, state_dict.read(one))
    assert_equal_weights(other.get_weights(), expected)
    assert_equal_weights(one.get_weights(), expected)


def test_keys_equal_those_of_torchvision_in_its_order(arrays):
    def bn(name):
        parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return [f"{name}.{part}" for part in parts]

    expected = ["conv1.weight", *bn("bn1")]
    for stage in (1, 2, 3):
        block = f"layer{stage}.0"
        expected += [f"{block}.conv1.weight", *bn(f"{block}.bn1")]
        expected += [f"{block}.conv2.weight", *bn(f"{block}.bn2")]
        if stage > 1:
            expected += [f"{block}.downsample.0.weight", *bn(f"{block}.downsample.1")]
    expected += ["fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias"]
    assert list(arrays) == expected


def test_linear_head_has_the_keys_of_the_classifier():
    model = encoders.build("resnet8", head="linear", stem="small")
    assert list(state_dict.read(model))[-2:] == ["fc.weight", "fc.bias"]


def test_backbone_has_the_keys_of_its_encoder_without_the_head(encoder, arrays):
    backbone_arrays = state_dict.read(encoder.backbone)
    assert list(backbone_arrays) == [key for key in arrays if not key.startswith("fc.")]
    for key, array in backbone_arrays.items():
        np.testing.assert_array_equal(array, arrays[key])


def test_arrays_are_copies(encoder, arrays):
    before = encoder.get_weights()
    for array in arrays.values():
        array += 1
    assert_equal_weights(encoder.get_weights(), before)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_arrays_are_cast_to_the_dtype_of_the_encoder(arrays, dtype):
    other = random_encoder("resnet8", 1, head="mlp", dim=24, stem="small")
    cast = {key: array.astype(dtype) for key, array in arrays.items()}
    state_dict.write(other, cast)
    for entry in state_dict.entries(other):
        assert entry.variable.dtype == "float32"
        np.testing.assert_array_equal(entry.read(), np.float32(cast[entry.key]))


# Axes.


def test_axes_of_a_convolution(encoder):
    arrays = state_dict.read(encoder)
    kernel = np.zeros((32, 16, 3, 3), np.float32)
    kernel[5, 3, 2, 0] = 7
    arrays["layer2.0.conv1.weight"] = kernel
    other = random_encoder("resnet8", 1, head="mlp", dim=24, stem="small")
    state_dict.write(other, arrays)
    keras_kernel = other.backbone.get_layer("stage2_block1_1_conv").kernel.numpy()
    assert keras_kernel.shape == (3, 3, 16, 32)
    assert np.argwhere(keras_kernel).tolist() == [[2, 0, 3, 5]]
    read = state_dict.read(other)["layer2.0.conv1.weight"]
    assert np.argwhere(read).tolist() == [[5, 3, 2, 0]]


@pytest.mark.slow
def test_axes_of_a_grouped_convolution():
    model = encoders.build("resnext50_32x8d")
    # 32 groups of 8 channels: 256 outputs with 8 inputs each.
    kernel = np.zeros((256, 8, 3, 3), np.float32)
    kernel[100, 6, 0, 1] = 7
    state_dict.write(model, {**state_dict.read(model), "layer1.2.conv2.weight": kernel})
    keras_kernel = model.get_layer("stage1_block3_2_conv").kernel.numpy()
    assert keras_kernel.shape == (3, 3, 8, 256)
    assert np.argwhere(keras_kernel).tolist() == [[0, 1, 6, 100]]


def test_axes_of_a_dense_layer(encoder):
    arrays = state_dict.read(encoder)
    matrix = np.zeros((24, 64), np.float32)
    matrix[5, 60] = 7
    arrays["fc.2.weight"] = matrix
    other = random_encoder("resnet8", 1, head="mlp", dim=24, stem="small")
    state_dict.write(other, arrays)
    keras_kernel = other.head.get_layer("projection").kernel.numpy()
    assert keras_kernel.shape == (64, 24)
    assert np.argwhere(keras_kernel).tolist() == [[60, 5]]
    assert np.argwhere(state_dict.read(other)["fc.2.weight"]).tolist() == [[5, 60]]


@pytest.mark.parametrize(
    ("part", "attribute"),
    [
        ("weight", "gamma"),
        ("bias", "beta"),
        ("running_mean", "moving_mean"),
        ("running_var", "moving_variance"),
    ],
)
def test_vectors_of_batch_normalization(encoder, arrays, part, attribute):
    layer = encoder.backbone.get_layer("stage3_block1_shortcut_bn")
    array = arrays[f"layer3.0.downsample.1.{part}"]
    np.testing.assert_array_equal(array, getattr(layer, attribute).numpy())


def test_arrays_have_the_memory_layout_and_dtypes_of_torch(arrays):
    assert all(array.flags.c_contiguous for array in arrays.values())
    dtypes = {
        (key.endswith("num_batches_tracked"), str(array.dtype)) for key, array in arrays.items()
    }
    assert dtypes == {(False, "float32"), (True, "int64")}


# Counters and prefixes.


def test_counters_have_the_number_of_steps(encoder):
    arrays = state_dict.read(encoder, steps=123)
    counters = [array for key, array in arrays.items() if key.endswith("num_batches_tracked")]
    normalizations = [layer for layer in encoder.backbone.layers if layer.name.endswith("_bn")]
    assert len(counters) == len(normalizations)
    assert all(array.shape == () for array in counters)
    assert all(array == 123 for array in counters)


def test_counters_are_0_by_default(arrays):
    assert arrays["bn1.num_batches_tracked"] == 0


def test_counters_are_optional(encoder, arrays):
    without = {key: array for key, array in arrays.items() if "num_batches" not in key}
    assert len(without) < len(arrays)
    other = random_encoder("resnet8", 1, head="mlp", dim=24, stem="small")
    state_dict.write(other, without)
    assert_equal_weights(other.get_weights(), encoder.get_weights())


def test_prefix_precedes_every_key(encoder, arrays):
    prefix = "module.encoder_q."
    prefixed = state_dict.read(encoder, prefix)
    assert list(prefixed) == [prefix + key for key in arrays]
    other = random_encoder("resnet8", 1, head="mlp", dim=24, stem="small")
    state_dict.write(other, prefixed, prefix)
    assert_equal_weights(other.get_weights(), encoder.get_weights())


# Errors.


def missing(arrays):
    del arrays["fc.2.bias"]


def unexpected(arrays):
    arrays["layer4.0.conv1.weight"] = np.zeros((128, 64, 3, 3), np.float32)


def counter_of_a_dense_layer(arrays):
    arrays["fc.0.num_batches_tracked"] = np.array(0)


def another_width(arrays):
    arrays["fc.2.weight"] = arrays["fc.2.weight"][:-1]


def keras_axes(arrays):
    arrays["fc.2.weight"] = arrays["fc.2.weight"].T


def integers(arrays):
    arrays["fc.2.bias"] = arrays["fc.2.bias"].astype(np.int64)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing, r"the key 'fc\.2\.bias' is missing"),
        (unexpected, r"the key 'layer4\.0\.conv1\.weight' does not belong to this encoder"),
        (counter_of_a_dense_layer, r"the key 'fc\.0\.num_batches_tracked' does not belong"),
        (another_width, r"the key 'fc\.2\.weight' has shape \(23, 64\), expected \(24, 64\)"),
        (keras_axes, r"the key 'fc\.2\.weight' has shape \(64, 24\), expected \(24, 64\)"),
        (integers, r"the key 'fc\.2\.bias' has dtype int64, expected floating"),
    ],
)
def test_state_dict_that_does_not_fit_is_an_error_and_changes_nothing(arrays, spoil, message):
    other = random_encoder("resnet8", 1, head="mlp", dim=24, stem="small")
    before = other.get_weights()
    # The error is in the last keys, so all keys before would fit.
    spoil(arrays)
    with pytest.raises(UserError, match=message):
        state_dict.write(other, arrays)
    assert_equal_weights(other.get_weights(), before)


def test_keys_without_the_prefix_are_an_error(encoder, arrays):
    with pytest.raises(UserError, match=r"the key 'conv1\.weight' does not belong to this encoder"):
        state_dict.write(encoder, arrays, prefix="module.")


def test_state_dict_of_another_architecture_is_an_error():
    deep, shallow = (encoders.build(name, stem="small") for name in ("resnet14", "resnet8"))
    with pytest.raises(UserError, match=r"'layer1\.1\.conv1\.weight' does not belong"):
        state_dict.write(shallow, state_dict.read(deep))
    with pytest.raises(UserError, match=r"'layer1\.1\.conv1\.weight' is missing"):
        state_dict.write(deep, state_dict.read(shallow))


def test_state_dict_for_other_channels_is_an_error():
    rgb, five = (encoders.build("resnet8", stem="small", channels=c) for c in (3, 5))
    message = r"the key 'conv1\.weight' has shape \(16, 3, 3, 3\), expected \(16, 5, 3, 3\)"
    with pytest.raises(UserError, match=message):
        state_dict.write(five, state_dict.read(rgb))
