"""The end-to-end and memory-bank mechanisms on two replicas, compiled by XLA, and in float16."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.mechanisms.end_to_end import EndToEnd
from moco_tf.mechanisms.memory_bank import MemoryBank
from moco_tf.optimizers import SGD, LossScaling
from moco_tf.schedules import Cosine

STEPS, N, SIDE, IMAGES = 20, 16, 6, 37
MECHANISMS = ["end_to_end", "memory_bank"]


@pytest.fixture(autouse=True)
def dtype_policy():
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")


def small_encoder(groups):
    """A normalised layer and a head, which many a time are traced and compiled in a few seconds."""
    images = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Conv2D(8, 3, 2, "same", use_bias=False)(images)
    x = keras.layers.ReLU()(BatchNormalization(groups)(x))
    return keras.Model(images, keras.layers.Dense(16)(keras.layers.Flatten()(x)))


def build(name, strategy, precision=None, **compiling):
    keras.backend.clear_session()  # names of weights count from the start again
    keras.config.set_dtype_policy(precision or keras.config.floatx())
    keras.utils.set_random_seed(0)
    groups = 4 // strategy.num_replicas_in_sync
    settings = dict(temperature=0.2, seed=1)
    with strategy.scope():
        if name == "memory_bank":
            model = MemoryBank(lambda: small_encoder(groups), IMAGES, 21, **settings)
        else:
            model = EndToEnd(lambda: small_encoder(groups), **settings)
        model.compile(SGD(Cosine(0.05, 5, STEPS / 5)), **compiling)
    return model


class Losses(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(float(logs["loss"]))
        self.model.reset_metrics()


def train(model, steps=STEPS):
    """The loss of each step, and everything that the model holds after them."""
    generator = np.random.default_rng(0)
    batches = [generator.random((steps, N, SIDE, SIDE, 3)) for _ in range(2)]
    if isinstance(model, MemoryBank):
        batches.append(np.stack([generator.permutation(IMAGES)[:N] for _ in range(steps)]))
    data = tf.data.Dataset.from_tensor_slices(tuple(batches))
    losses = Losses()
    data = data.unbatch().batch(N, drop_remainder=True)
    model.fit(data, verbose=0, shuffle=False, callbacks=[losses])
    assert len(losses.values) == steps and np.abs(np.diff(losses.values)).min() > 0
    held = {w.path: w.numpy() for w in model.variables + model.optimizer.variables}
    return {"losses": np.array(losses.values), **held}


def assert_equal(found, expected):
    """To 1e-8 of the largest, but for zeros."""
    assert found.keys() == expected.keys() and len(expected) > 10
    for name, wanted in expected.items():
        assert np.abs(found[name] - wanted).max() <= 1e-8 * np.abs(wanted).max(), name


@pytest.mark.parametrize("name", MECHANISMS)
def test_two_replicas_compute_what_one_computes_and_hold_the_same(float64, two_replicas, name):
    """In float64: losses of 20 steps, weights, momentum buffers, moving statistics, bank."""
    expected = train(build(name, tf.distribute.get_strategy()))
    model = build(name, two_replicas)
    assert_equal(train(model), expected)
    same = model.trainable_variables + model.optimizer.variables
    if name == "memory_bank":
        same = [*same, model.bank.representations]
    for weight in same:
        one, other = two_replicas.experimental_local_results(weight.value)
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=weight.path)


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_compiled_run_is_an_uncompiled_one(float64, name):
    strategy = tf.distribute.get_strategy()
    expected, found = (train(build(name, strategy, jit_compile=jit), 3) for jit in (False, True))
    assert_equal(found, expected)


@pytest.mark.parametrize("name", MECHANISMS)
def test_float16_scales_its_loss_and_computes_much_the_same(name):
    strategy = tf.distribute.get_strategy()
    expected = train(build(name, strategy), 6)["losses"]
    model = build(name, strategy, "mixed_float16")
    assert isinstance(model.optimizer, LossScaling) and model.compute_dtype == "float16"
    losses = train(model, 6)["losses"]
    np.testing.assert_allclose(losses, expected, rtol=0.02)
    assert np.abs(losses - expected).max() > 1e-5  # it is another computation all the same
    held = model.variables + model.optimizer.variables
    assert {variable.dtype for variable in held if "float" in variable.dtype} == {"float32"}


def test_the_key_encoder_learns_from_a_gradient_of_its_own():
    """Both encoders start alike, and part: through another view, in another order."""
    model = build("end_to_end", tf.distribute.get_strategy())
    pairs = list(zip(model.query_encoder.weights, model.key_encoder.weights, strict=True))
    for q, k in pairs:
        np.testing.assert_array_equal(q.numpy(), k.numpy())
    before = [k.numpy() for _, k in pairs]
    train(model, 2)
    for (q, k), old in zip(pairs, before, strict=True):
        assert np.abs(k.numpy() - old).max() > 0 and np.abs(k.numpy() - q.numpy()).max() > 0
