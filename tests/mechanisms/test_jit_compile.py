"""MoCo computes the same numbers with and without XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import MoCo
from moco_tf.config import default_config
from moco_tf.optimizers import SGD
from moco_tf.schedules import Cosine
from moco_tf.training.build import build_model
from tests.replicas import small_encoder

STEPS, BATCH, SIDE = 3, 8, 8


def train(strategy, jit_compile):
    """Return the loss of each step and all variables after them, by name."""
    keras.backend.clear_session()  # The numbers in names of variables start at 0 again.
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = MoCo(
            lambda: small_encoder(groups=2 // strategy.num_replicas_in_sync),
            queue_size=21,  # not a multiple of the batch
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
    variables = {w.path: w.numpy() for w in model.variables + model.optimizer.variables}
    return {"losses": np.array(losses), **variables}


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_xla_computes_the_same(float64, two_replicas, replicas):
    """Losses, weights, momentum buffers, moving statistics and queue in float64."""
    strategy = two_replicas if replicas == 2 else tf.distribute.get_strategy()
    expected, compiled = (train(strategy, jit_compile) for jit_compile in (False, True))
    assert compiled.keys() == expected.keys()
    assert np.abs(np.diff(expected["losses"])).min() > 0
    for name, values in expected.items():
        assert np.abs(compiled[name] - values).max() <= 1e-8 * np.abs(values).max(), name


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_several_replicas_compile_what_is_between_their_communication(two_replicas, jit_compile):
    compiled = set()

    class Recorded(MoCo):
        def _local(self, function):
            result = super()._local(function)
            if result is not function:
                compiled.add(function.__name__)
            return result

    with two_replicas.scope():
        model = Recorded(lambda: small_encoder(groups=1), queue_size=16)
        model.compile(SGD(0.1), jit_compile=jit_compile)
    views = tf.zeros([BATCH, SIDE, SIDE, 3])
    data = tf.data.Dataset.from_tensors((views, views))
    model.make_train_function()
    model.train_function(iter(two_replicas.experimental_distribute_dataset(data)))
    assert compiled == ({"encode", "info_nce", "momentum_update"} if jit_compile else set())


@pytest.mark.parametrize("jit_compile", [False, True])
def test_config_decides_whether_the_step_is_compiled(jit_compile):
    config = default_config()
    config.update(encoder="resnet8", stem="small", queue_size=16, jit_compile=jit_compile)
    assert build_model(config, steps_per_epoch=10).jit_compile is jit_compile
