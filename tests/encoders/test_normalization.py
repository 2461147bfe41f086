"""BatchNormalization in groups against NumPy in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.errors import UserError

SHAPE, EPSILON = (8, 3, 5, 6), 1e-5
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def inputs(seed=0):
    generator = np.random.default_rng(seed)
    # Each image and channel has its own scale and mean, so that groups differ and Bessel's
    # correction matters.
    scale, mean = generator.uniform(0.5, 3, (2, 8, 1, 1, 6))
    return scale * generator.normal(size=SHAPE) + mean


def build_layer(groups, dtype="float32", **kwargs):
    layer = BatchNormalization(groups, dtype=dtype, **kwargs)
    layer.build(SHAPE)
    generator = np.random.default_rng(7)
    layer.gamma.assign(generator.uniform(0.5, 2, 6))
    layer.beta.assign(generator.normal(size=6))
    return layer


def weights(layer):
    return np.float64(layer.gamma.numpy()), np.float64(layer.beta.numpy())


def reference(x, groups, gamma, beta):
    """Return the outputs, and the mean and the unbiased variance of each group."""
    outputs, means, variances = [], [], []
    for block in np.split(x, groups):
        mean, variance = block.mean(axis=(0, 1, 2)), block.var(axis=(0, 1, 2))
        outputs.append((block - mean) / np.sqrt(variance + EPSILON) * gamma + beta)
        means.append(mean)
        variances.append(block.var(axis=(0, 1, 2), ddof=1))
    return np.concatenate(outputs), np.array(means), np.array(variances)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_training_normalizes_each_group_by_itself(groups, dtype):
    layer = build_layer(groups, dtype)
    outputs = layer(tf.constant(inputs(), dtype), training=True)
    expected, _, _ = reference(inputs(), groups, *weights(layer))
    assert outputs.dtype == dtype
    np.testing.assert_allclose(outputs, expected, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_moving_statistics_track_the_mean_of_the_groups(groups, dtype):
    layer = build_layer(groups, dtype)
    moving_mean, moving_variance = np.zeros(6), np.ones(6)
    for seed in range(3):
        layer(tf.constant(inputs(seed), dtype), training=True)
        _, means, variances = reference(inputs(seed), groups, *weights(layer))
        moving_mean = 0.9 * moving_mean + 0.1 * means.mean(axis=0)
        moving_variance = 0.9 * moving_variance + 0.1 * variances.mean(axis=0)
    np.testing.assert_allclose(layer.moving_mean.numpy(), moving_mean, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(
        layer.moving_variance.numpy(), moving_variance, atol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("groups", [1, 4])
def test_inference_uses_and_keeps_the_moving_statistics(groups, dtype):
    layer = build_layer(groups, dtype)
    mean, variance = np.linspace(-1, 1, 6), np.linspace(0.5, 4, 6)
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
    gamma, beta = weights(layer)
    outputs = layer(tf.constant(inputs(), dtype))
    expected = (inputs() - mean) / np.sqrt(variance + EPSILON) * gamma + beta
    np.testing.assert_allclose(outputs, expected, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(layer.moving_mean.numpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance.numpy(), variance, rtol=1e-6)


def test_inference_takes_a_batch_that_is_not_a_multiple_of_the_groups():
    assert build_layer(4)(tf.zeros([3, 2, 2, 6])).shape == (3, 2, 2, 6)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gradients_equal_those_of_the_plain_formula(groups, dtype):
    layer = build_layer(groups, dtype)
    # A weighted sum of the outputs, since the gradient of their plain sum is 0.
    weighting = np.random.default_rng(3).normal(size=SHAPE)

    x = tf.constant(inputs(), dtype)
    parameters = [layer.gamma.value, layer.beta.value]
    with tf.GradientTape() as tape:
        tape.watch([x, *parameters])
        loss = tf.reduce_sum(layer(x, training=True) * tf.constant(weighting, dtype))
    gradients = tape.gradient(loss, [x, *parameters])

    x, gamma, beta = (tf.constant(value) for value in (inputs(), *weights(layer)))
    with tf.GradientTape() as tape:
        tape.watch([x, gamma, beta])
        blocks = tf.reshape(x, [groups, -1, 6])
        mean = tf.reduce_mean(blocks, axis=1, keepdims=True)
        variance = tf.reduce_mean((blocks - mean) ** 2, axis=1, keepdims=True)
        y = tf.reshape((blocks - mean) / tf.sqrt(variance + EPSILON), SHAPE) * gamma + beta
        loss = tf.reduce_sum(y * weighting)
    for actual, expected in zip(gradients, tape.gradient(loss, [x, gamma, beta]), strict=True):
        tolerance = 10 * TOLERANCE[dtype]
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_keeps_parameters_and_statistics_in_float32(policy):
    layer = build_layer(2, policy)
    images = tf.cast(inputs(), layer.compute_dtype)
    outputs = layer(images, training=True)
    assert outputs.dtype == layer.compute_dtype
    expected, means, _ = reference(np.float64(images), 2, *weights(layer))
    np.testing.assert_allclose(np.float64(outputs), expected, atol=0.03)
    assert {variable.dtype for variable in layer.variables} == {"float32"}
    # Only the images are rounded to half precision.
    np.testing.assert_allclose(layer.moving_mean.numpy(), 0.1 * means.mean(axis=0), atol=1e-5)


def test_only_gamma_and_beta_are_trainable():
    layer = build_layer(2)
    assert len(layer.trainable_variables) == 2
    assert len(layer.non_trainable_variables) == 2


def test_momentum_and_epsilon_are_used():
    layer = build_layer(1, "float64", momentum=0.5, epsilon=0.1)
    outputs = layer(tf.constant(inputs()), training=True)
    gamma, beta = weights(layer)
    mean, variance = inputs().mean(axis=(0, 1, 2)), inputs().var(axis=(0, 1, 2))
    expected = (inputs() - mean) / np.sqrt(variance + 0.1) * gamma + beta
    np.testing.assert_allclose(outputs, expected, atol=1e-12)
    np.testing.assert_allclose(layer.moving_mean.numpy(), 0.5 * mean, atol=1e-12)


def test_config_builds_an_equal_object():
    layer = BatchNormalization(4, momentum=0.8, epsilon=1e-3)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert (again.groups, again.momentum, again.epsilon) == (4, 0.8, 1e-3)


def test_frozen_layer_normalizes_as_in_inference_and_stays_as_it_is():
    """As `keras.layers.BatchNormalization` does."""
    layer = build_layer(groups=2)
    layer.trainable = False
    before = layer.get_weights()
    x = inputs()
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    for actual, expected in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("groups", [0, -1, "2", 1.5])
def test_invalid_number_of_groups_is_refused(groups):
    with pytest.raises(UserError, match=r"groups=.*: must be (an integer, )?1 or greater"):
        BatchNormalization(groups)


def test_batch_that_is_not_a_multiple_of_the_groups_is_refused_in_training():
    layer = BatchNormalization(groups=4)
    with pytest.raises(UserError, match="a batch of 6 images cannot be split into 4 groups"):
        layer(np.zeros([6, 2, 2, 3], np.float32), training=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_policies_of_half_precision_keep_the_weights_in_float32(dtype):
    layer = BatchNormalization(groups=2, dtype=dtype)
    x = tf.cast(np.random.default_rng(0).normal(size=[4, 3, 3, 2]), dtype)
    y = layer(x, training=True)
    assert y.dtype == dtype
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    expected = BatchNormalization(groups=2)(tf.cast(x, "float32"), training=True)
    np.testing.assert_allclose(tf.cast(y, "float32"), expected, atol=0.02)
