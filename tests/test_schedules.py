"""The schedules against their closed forms in every step of a small run."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.schedules import Cosine, Step

RATE, STEPS_PER_EPOCH, EPOCHS, MILESTONES = 0.03, 7, 20, (12, 16)
STEPS = range(STEPS_PER_EPOCH * EPOCHS)


def step_rate(step):
    epoch = step // STEPS_PER_EPOCH
    if epoch < 12:
        return RATE
    return RATE * 0.1 if epoch < 16 else RATE * 0.01


def cosine_rate(step):
    epoch = step // STEPS_PER_EPOCH
    return RATE * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2


SCHEDULES = [
    (Step(RATE, STEPS_PER_EPOCH, MILESTONES), step_rate),
    (Cosine(RATE, STEPS_PER_EPOCH, EPOCHS), cosine_rate),
]


@pytest.mark.parametrize(("schedule", "expected"), SCHEDULES)
def test_rate_equals_the_closed_form_in_every_step(schedule, expected):
    rates = [float(schedule(step)) for step in STEPS]
    # Near a cosine of -1, the error of float32 is absolute instead of relative.
    np.testing.assert_allclose(rates, [expected(step) for step in STEPS], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("schedule", "expected"), SCHEDULES)
def test_rate_changes_at_the_first_step_of_an_epoch(schedule, expected):
    changes = [step for step in STEPS[1:] if float(schedule(step)) != float(schedule(step - 1))]
    epochs = MILESTONES if isinstance(schedule, Step) else range(1, EPOCHS)
    assert changes == [epoch * STEPS_PER_EPOCH for epoch in epochs]


def test_step_applies_its_factor_at_each_milestone():
    schedule = Step(1.0, 2, milestones=(1, 2, 4), factor=0.5)
    assert [float(schedule(step)) for step in range(10)] == [
        *(1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.125, 0.125)
    ]


def test_cosine_ends_at_zero_and_stays_there():
    schedule = Cosine(0.5, steps_per_epoch=10, epochs=4)
    expected = keras.optimizers.schedules.CosineDecay(0.5, decay_steps=4)
    for epoch in range(10):
        assert float(schedule(10 * epoch)) == pytest.approx(float(expected(epoch)), abs=1e-7)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Cosine(0.5, 0, 4), "steps_per_epoch=0: must be 1 or greater"),
        (lambda: Cosine(0.5, 10, 0), "epochs=0: must be greater than 0"),
        (lambda: Step(0.5, 2.5), "steps_per_epoch=2.5: must be an integer, 1 or greater"),
        (lambda: Step(0.5, 1, 120), "milestones=120: pass a tuple of epochs, such as (120, 160)"),
        (lambda: Step(0.5, 1, (1.5,)), "milestones=1.5: must be an integer, 0 or greater"),
        (lambda: Step("0.5", 1), "learning_rate='0.5': must be a number, 0 or greater"),
        (lambda: Cosine(-1, 1, 1), "learning_rate=-1: must be 0 or greater"),
    ],
)
def test_invalid_arguments_are_refused(build, message):
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value) == message


def test_default_milestones_are_those_of_the_paper():
    schedule = Step(0.03, 1)
    rates = [float(schedule(epoch)) for epoch in (119, 120, 159, 160, 199)]
    np.testing.assert_allclose(rates, [0.03, 0.003, 0.003, 0.0003, 0.0003], rtol=1e-6)


@pytest.mark.parametrize(("schedule", "expected"), SCHEDULES)
def test_schedule_gives_the_same_rate_in_a_graph(schedule, expected):
    graph = tf.function(schedule, input_signature=[tf.TensorSpec([], tf.int64)])
    for step in (0, 83, 84, 111, 112, 139):
        assert float(graph(tf.constant(step, tf.int64))) == pytest.approx(expected(step), rel=1e-5)


@pytest.mark.parametrize(("schedule", "expected"), SCHEDULES)
def test_config_builds_an_equal_object(schedule, expected):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert type(again) is type(schedule)
    assert [float(again(step)) for step in STEPS] == [float(schedule(step)) for step in STEPS]
