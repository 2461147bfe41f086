"""SGD against torch.optim.SGD's arithmetic, written out in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf.optimizers import SGD, move_towards

STEPS = 20
# A power of two is the same in float32, in which Keras keeps the rate, and in float64.
RATES = [0.25] * (STEPS // 2) + [0.03125] * (STEPS // 2)
WEIGHT_DECAY = 0.05  # large enough that its place in the arithmetic shows after 20 steps


def start():
    generator = np.random.default_rng(0)
    shapes = [(4, 3), (3,), ()]  # a kernel, a bias, a scalar
    values = [generator.normal(size=shape) for shape in shapes]
    gradients = [[generator.normal(size=shape) for shape in shapes] for _ in range(STEPS)]
    return values, gradients


def torch_sgd(momentum, weight_decay):
    values, gradients = start()
    buffers = [None] * len(values)
    for rate, step in zip(RATES, gradients, strict=True):
        for i, gradient in enumerate(step):
            d_p = gradient + weight_decay * values[i]
            buffers[i] = d_p if buffers[i] is None else momentum * buffers[i] + d_p
            values[i] = values[i] - rate * buffers[i]
    return values


def keras_values(optimizer):
    values, gradients = start()
    variables = [keras.Variable(value, dtype="float64") for value in values]
    for rate, step in zip(RATES, gradients, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([tf.constant(gradient) for gradient in step], variables)
    return [variable.numpy() for variable in variables]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, WEIGHT_DECAY])
def test_twenty_steps_are_torchs(momentum, weight_decay):
    found = keras_values(SGD(RATES[0], momentum=momentum, weight_decay=weight_decay))
    for ours, expected in zip(found, torch_sgd(momentum, weight_decay), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, WEIGHT_DECAY])
def test_keras_own_sgd_goes_elsewhere(weight_decay):
    # Without decay what differs is the rate, which Keras keeps inside the buffer.
    other = keras.optimizers.SGD(RATES[0], momentum=0.9, weight_decay=weight_decay or None)
    for theirs, torchs in zip(keras_values(other), torch_sgd(0.9, weight_decay), strict=True):
        assert np.abs(theirs - torchs).min() > 1e-3


def test_the_defaults_are_the_papers():
    config = SGD(0.03).get_config()
    assert (config["momentum"], config["weight_decay"]) == (0.9, 1e-4)


def test_its_config_makes_it_again():
    first = SGD(RATES[0], momentum=0.8, weight_decay=WEIGHT_DECAY)
    second = SGD.from_config(first.get_config())
    for a, b in zip(keras_values(first), keras_values(second), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, torch_sgd(0.9, WEIGHT_DECAY)[-1])


def test_it_follows_a_schedule():
    # Rates 0.5 and 0.25 in turn, so that one step tells whether the schedule was asked.
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.25])
    optimizer = SGD(schedule, momentum=0.0, weight_decay=0.0)
    variable = keras.Variable(1.0)
    optimizer.apply([tf.constant(1.0)], [variable])
    optimizer.apply([tf.constant(1.0)], [variable])
    assert float(variable.value) == 1.0 - 0.5 - 0.25


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-7), ("float64", 1e-16)])
def test_a_variable_moves_by_a_share_of_its_distance_and_the_other_stays(dtype, tolerance):
    generator = np.random.default_rng(0)
    before, other = generator.normal(size=[2, 4, 3]).astype(dtype)
    variable, target = (keras.Variable(value, dtype=dtype) for value in (before, other))
    for share in (0.0, 0.001, 1.0):
        variable.assign(before)
        tf.function(lambda share=share: move_towards(target, variable, share))()
        expected = (1 - share) * before.astype(np.float64) + share * other
        np.testing.assert_allclose(variable.numpy(), expected, rtol=2 * tolerance, atol=tolerance)
        np.testing.assert_array_equal(target.numpy(), other)
