"""SGD against the arithmetic of torch.optim.SGD in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.optimizers import SGD, LossScaling, move_towards

STEPS = 20
# Powers of two are exact in float32, in which Keras stores the rate.
RATES = [0.25] * (STEPS // 2) + [0.03125] * (STEPS // 2)
WEIGHT_DECAY = 0.05  # large enough to show after 20 steps where it is applied


def initial_values_and_gradients():
    generator = np.random.default_rng(0)
    shapes = [(4, 3), (3,), ()]  # a kernel, a bias, a scalar
    values = [generator.normal(size=shape) for shape in shapes]
    gradients = [[generator.normal(size=shape) for shape in shapes] for _ in range(STEPS)]
    return values, gradients


def numpy_values(momentum, weight_decay):
    values, gradients = initial_values_and_gradients()
    buffers = [None] * len(values)
    for rate, step in zip(RATES, gradients, strict=True):
        for i, gradient in enumerate(step):
            d_p = gradient + weight_decay * values[i]
            buffers[i] = d_p if buffers[i] is None else momentum * buffers[i] + d_p
            values[i] = values[i] - rate * buffers[i]
    return values


def keras_values(optimizer):
    values, gradients = initial_values_and_gradients()
    variables = [keras.Variable(value, dtype="float64") for value in values]
    for rate, step in zip(RATES, gradients, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([tf.constant(gradient) for gradient in step], variables)
    return [variable.numpy() for variable in variables]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, WEIGHT_DECAY])
def test_twenty_steps_equal_those_of_torch(momentum, weight_decay):
    values = keras_values(SGD(RATES[0], momentum=momentum, weight_decay=weight_decay))
    for ours, expected in zip(values, numpy_values(momentum, weight_decay), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, WEIGHT_DECAY])
def test_sgd_of_keras_differs(weight_decay):
    # Without weight decay, the difference is that Keras' buffer includes the learning rate.
    other = keras.optimizers.SGD(RATES[0], momentum=0.9, weight_decay=weight_decay or None)
    for actual, expected in zip(keras_values(other), numpy_values(0.9, weight_decay), strict=True):
        assert np.abs(actual - expected).min() > 1e-3


def test_defaults_are_those_of_the_paper():
    config = SGD(0.03).get_config()
    assert (config["momentum"], config["weight_decay"]) == (0.9, 1e-4)


def test_config_builds_an_equal_object():
    first = SGD(RATES[0], momentum=0.8, weight_decay=WEIGHT_DECAY)
    second = SGD.from_config(first.get_config())
    for actual, expected in zip(keras_values(first), keras_values(second), strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert not np.allclose(actual, numpy_values(0.9, WEIGHT_DECAY)[-1])


def test_optimizer_follows_a_schedule():
    # A rate of 0.5 in the first step and of 0.25 in the second.
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.25])
    optimizer = SGD(schedule, momentum=0.0, weight_decay=0.0)
    variable = keras.Variable(1.0)
    optimizer.apply([tf.constant(1.0)], [variable])
    optimizer.apply([tf.constant(1.0)], [variable])
    assert float(variable.value) == 1.0 - 0.5 - 0.25


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-7), ("float64", 1e-16)])
def test_move_towards_moves_the_variable_by_a_fraction_and_keeps_the_target(dtype, tolerance):
    generator = np.random.default_rng(0)
    before, other = generator.normal(size=[2, 4, 3]).astype(dtype)
    variable, target = (keras.Variable(value, dtype=dtype) for value in (before, other))
    for fraction in (0.0, 0.001, 1.0):
        variable.assign(before)
        tf.function(lambda fraction=fraction: move_towards(target, variable, fraction))()
        expected = (1 - fraction) * before.astype(np.float64) + fraction * other
        np.testing.assert_allclose(variable.numpy(), expected, rtol=2 * tolerance, atol=tolerance)
        np.testing.assert_array_equal(target.numpy(), other)


@pytest.mark.parametrize("wrap", [lambda sgd: sgd, LossScaling])
def test_weight_decay_leaves_out_excluded_variables(wrap):
    optimizer = wrap(SGD(0.5, momentum=0.0, weight_decay=0.25))
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    variables = [keras.Variable(1.0, name="kernel"), keras.Variable(1.0, name="bias")]
    optimizer.apply([tf.constant(0.0)] * 2, variables)
    assert [float(variable.numpy()) for variable in variables] == [1 - 0.5 * 0.25, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 2.0}, "momentum=2.0: must be between 0 and 1"),
        ({"weight_decay": -1}, "weight_decay=-1: must be 0 or greater"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError) as error:
        SGD(0.1, **settings)
    assert str(error.value) == message
