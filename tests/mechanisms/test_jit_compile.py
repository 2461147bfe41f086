"""XLA for the whole step: the same numbers as without it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import MoCo, encoders
from moco_tf.config import default_config
from moco_tf.optimizers import SGD
from moco_tf.schedules import Cosine
from moco_tf.training.build import build_model

STEPS, BATCH, SIDE = 3, 8, 8


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")


def run(jit_compile):
    """The loss of each step, and everything that the model holds after them."""
    keras.backend.clear_session()  # names of weights count from the start again
    keras.utils.set_random_seed(0)
    model = MoCo(
        lambda: encoders.build("resnet8", "mlp", 16, stem="small", bn_groups=2),
        queue_size=21,  # no multiple of the batch
        momentum=0.9,
        temperature=0.2,
        seed=1,
    )
    model.compile(SGD(Cosine(0.05, 1, STEPS)), jit_compile=jit_compile)
    views = np.random.default_rng(0).normal(size=(STEPS, 2, BATCH, SIDE, SIDE, 3))
    data = tf.data.Dataset.from_tensor_slices((views[:, 0], views[:, 1]))
    losses = []
    for step in range(STEPS):
        history = model.fit(data.skip(step).take(1), verbose=0, shuffle=False).history
        losses += history["loss"]
    held = {w.path: w.numpy() for w in model.variables + model.optimizer.variables}
    return {"losses": np.array(losses), **held}


def test_a_compiled_run_is_an_uncompiled_one(float64):
    """In float64: losses, weights, momentum buffers, moving statistics, queue."""
    expected, found = run(jit_compile=False), run(jit_compile=True)
    assert found.keys() == expected.keys() and len(expected) > 50
    assert np.abs(np.diff(expected["losses"])).min() > 0
    for name, wanted in expected.items():
        # To 1e-8 of the largest, but for zeros.
        assert np.abs(found[name] - wanted).max() <= 1e-8 * np.abs(wanted).max(), name


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_config_says_whether_the_step_is_compiled(jit_compile):
    config = default_config()
    config.update(encoder="resnet8", stem="small", queue_size=16, jit_compile=jit_compile)
    assert build_model(config, steps_per_epoch=10).jit_compile is jit_compile
