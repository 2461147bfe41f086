"""MoCo, step by step, against the PyTorch implementation in tests/reference.py."""

import inspect
import math
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import encoders, optimizers
from moco_tf.encoders import state_dict
from moco_tf.mechanisms import base, moco
from moco_tf.mechanisms.shuffling import permutation, unshuffle
from moco_tf.schedules import Cosine, Step
from moco_tf.seeds import seed_for
from tests import reference
from tests.pytorch import torch, torchvision

pytestmark = pytest.mark.torch

STEPS, STEPS_PER_EPOCH, RATE = 20, 4, 0.06
EPOCHS = STEPS // STEPS_PER_EPOCH
MILESTONES = (2, 4)
N, DIM, SEED = 8, 16, 3
QUEUE_SIZE = 21  # not a multiple of the batch, and overwritten seven times


@pytest.fixture(autouse=True)
def dtype_policy():
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")


def schedule(name):
    """Return a schedule, and the learning rate of each step from its closed form."""
    epochs = [step // STEPS_PER_EPOCH for step in range(STEPS)]
    if name == "cosine":
        rates = [RATE * 0.5 * (1 + math.cos(math.pi * epoch / EPOCHS)) for epoch in epochs]
        return Cosine(RATE, STEPS_PER_EPOCH, EPOCHS), rates
    rates = [RATE * 0.1 ** sum(epoch >= milestone for milestone in MILESTONES) for epoch in epochs]
    return Step(RATE, STEPS_PER_EPOCH, MILESTONES), rates


def set_normalizations(encoder):
    """Assign random values to BatchNormalization, which would start as the identity."""
    generator = np.random.default_rng(0)
    for entry in state_dict.entries(encoder):
        if ".bn" in entry.key or entry.key.startswith("bn"):
            low, high = (0.5, 1.5) if entry.key.endswith(("weight", "var")) else (-0.3, 0.3)
            entry.write(generator.uniform(low, high, entry.shape))


class Comparison(keras.callbacks.Callback):
    """Takes the same step of the reference after each step of the model, and compares them."""

    def __init__(self, reference, views, orders, rates, recorded, tolerance):
        super().__init__()
        self.reference, self.views, self.orders, self.rates = reference, views, orders, rates
        self.recorded, self.tolerance = recorded, tolerance

    def on_train_batch_end(self, step, logs=None):
        x_q, x_k = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in self.views[step])
        loss, logits = self.reference.step(x_q, x_k, self.orders[step], self.rates[step])
        expected = {"loss": loss.numpy(), "logits": logits.numpy(), **self.reference.state()}
        actual = {
            # With a symmetric loss, the sum of both directions, each a mean over the batch.
            "loss": self.recorded["losses"].numpy().sum() / N,
            "logits": self.recorded["logits"].numpy(),
            **state(self.model),
        }
        assert actual.keys() == expected.keys()
        for name, array in expected.items():
            difference = np.abs(actual[name] - array).max()
            assert difference <= self.tolerance * np.abs(array).max(), f"{name} at step {step}"


def state(moco):
    """Return all variables of the model with the names and the axes of the reference."""
    buffers = {
        parameter.path: buffer
        for parameter, buffer in zip(
            moco.query_encoder.trainable_variables, moco.optimizer.momentum_buffers, strict=True
        )
    }
    arrays = {"queue": moco.queue.keys.numpy(), "pointer": moco.queue.pointer.numpy()}
    for entry in state_dict.entries(moco.query_encoder):
        arrays[f"q.{entry.key}"] = entry.read()
        if entry.variable.trainable:
            buffer = entry._replace(variable=buffers[entry.variable.path])
            arrays[f"momentum.{entry.key}"] = buffer.read()
    for entry in state_dict.entries(moco.key_encoder):
        arrays[f"k.{entry.key}"] = entry.read()
    return arrays


def compare(
    monkeypatch,
    head="linear",
    schedule_name="step",
    m=0.9,
    groups=2,
    shuffle_bn=True,
    symmetric=False,
    model_module=moco,
    optimizers_module=optimizers,
    steps=STEPS,
    run_eagerly=False,
):
    """Train both in float64, and raise an AssertionError at the first difference."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(1)
    recorded = record_losses(monkeypatch, model_module, 2 * N if symmetric else N)
    rate, rates = schedule(schedule_name)
    model = model_module.MoCo(
        lambda: encoders.build("resnet8", head, DIM, stem="small", bn_groups=groups),
        QUEUE_SIZE,
        m,
        temperature=0.2,
        shuffle_bn=shuffle_bn,
        symmetric_loss=symmetric,
        seed=SEED,
    )
    set_normalizations(model.query_encoder)
    model.key_encoder.set_weights(model.query_encoder.get_weights())
    model.compile(optimizers_module.SGD(rate), run_eagerly=run_eagerly)

    f_q = reference.ResNet8(head, DIM).double()
    copy = reference_of(model, f_q, groups, m, symmetric)
    views = np.random.default_rng(2).normal(size=(STEPS, 2, N, 12, 12, 3))
    orders = [torch.arange(N)] * STEPS
    if shuffle_bn:
        seeds = [seed_for("permutation", SEED, step) for step in range(STEPS)]
        orders = [torch.from_numpy(permutation(N, seed).numpy()).long() for seed in seeds]
    comparison = Comparison(copy, views, orders, rates, recorded, tolerance=1e-8)
    fit(model, views[:steps], comparison)


def record_losses(monkeypatch, model_module, count):
    """Return variables with the losses and the logits of each step; the model returns means."""
    losses = tf.Variable(tf.zeros([count], keras.config.floatx()))
    logits = tf.Variable(tf.zeros([count, 1 + QUEUE_SIZE], keras.config.floatx()))
    info_nce = model_module.info_nce

    def recording(*args):
        result = info_nce(*args)
        losses.assign(result[0])
        logits.assign(result[1])
        return result

    monkeypatch.setattr(model_module, "info_nce", recording)
    return {"losses": losses, "logits": logits}


def reference_of(model, f_q, groups, m, symmetric=False):
    """Return the reference with the weights and the queue of a model."""
    arrays = state_dict.read(model.query_encoder)
    f_q.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
    queue = torch.from_numpy(model.queue.keys.numpy().copy())
    return reference.MoCo(f_q, queue, groups, m, t=0.2, symmetric=symmetric)


def fit(model, views, comparison):
    data = tf.data.Dataset.from_tensor_slices((views[:, 0], views[:, 1]))
    model.fit(data, verbose=0, shuffle=False, callbacks=[comparison])


# All pairs of head, schedule and momentum, and one run for each of the other settings.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "schedule_name", "m", "options"),
    [
        ("linear", "step", 0.0, {"groups": 1, "shuffle_bn": False}),
        pytest.param("mlp", "cosine", 0.0, {}, marks=pytest.mark.nightly),
        pytest.param("linear", "cosine", 0.9, {"shuffle_bn": False}, marks=pytest.mark.nightly),
        pytest.param("mlp", "step", 0.9, {"symmetric": True}, marks=pytest.mark.nightly),
        pytest.param("linear", "step", 0.999, {"groups": 4}, marks=pytest.mark.nightly),
        ("mlp", "cosine", 0.999, {}),
    ],
    ids=str,
)
def test_twenty_steps_equal_those_of_the_reference(monkeypatch, head, schedule_name, m, options):
    compare(monkeypatch, head, schedule_name, m, **options)


# A few steps reveal a mistake, and run eagerly in less time than a graph needs to be traced.
BRIEFLY = dict(steps=3, run_eagerly=True)


def test_three_steps_equal_those_of_the_reference(monkeypatch):
    compare(monkeypatch, **BRIEFLY)


def mutant(module, *replacements):
    """Return a module with a deliberate mistake."""
    source = inspect.getsource(module)
    for before, after in replacements:
        assert source.count(before) == 1, before
        source = source.replace(before, after)
    # With the name of the original module, AutoGraph would find the source without the mistake.
    mutated = types.ModuleType("mutant")
    exec(compile(source, "mutant", "exec"), mutated.__dict__)
    return mutated


ENQUEUE = "        self.queue.enqueue(tf.concat(k, 0), new_frames)\n"
IN_PLACE = "        # One in-place operation"
DECAY = "        variable.assign_sub(learning_rate * self.coupled_weight_decay * variable)"
DECAYED = "            gradient += self.coupled_weight_decay * variable"
MUTATIONS = {
    "decoupled weight decay": (
        optimizers,
        (DECAYED, "            gradient = gradient"),
        (IN_PLACE, f"{DECAY}\n{IN_PLACE}"),
    ),
    "learning rate inside the momentum buffer": (
        optimizers,
        ("grad=gradient", "grad=tf.cast(learning_rate, variable.dtype) * gradient"),
        ("lr=tf.cast(learning_rate, variable.dtype)", "lr=tf.ones([], variable.dtype)"),
    ),
    "momentum update of the moving statistics": (
        moco,
        ("self.momentum, self.key_encoder.trainable_variables", "0.9, self.key_encoder.weights"),
        ("zip(theta_k, theta_q, strict", "zip(theta_k, self.query_encoder.weights, strict"),
    ),
    "enqueue before the loss": (
        moco,
        (ENQUEUE, ""),
        ("        theta_q = self", f"{ENQUEUE}        theta_q = self"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MUTATIONS)
def test_mistake_breaks_parity(monkeypatch, mistake):
    module, *replacements = MUTATIONS[mistake]
    name = "model_module" if module is moco else "optimizers_module"
    with pytest.raises(AssertionError, match="at step"):
        compare(monkeypatch, **{name: mutant(module, *replacements)}, **BRIEFLY)


@pytest.mark.nightly
def test_keys_left_in_permuted_order_break_parity(monkeypatch):
    monkeypatch.setattr(base, "unshuffle", lambda keys, order: unshuffle(keys, None))
    with pytest.raises(AssertionError, match="at step"):
        compare(monkeypatch, **BRIEFLY)


@pytest.mark.nightly
def test_loss_of_resnet18_in_float32_equals_the_reference_for_ten_steps():
    """The relative tolerance is 1e-4."""
    keras.utils.set_random_seed(1)
    steps, count, groups, m = 10, 16, 2, 0.99
    rate = 0.03 * count / 256
    model = moco.MoCo(
        lambda: encoders.build("resnet18", "mlp", 128, bn_groups=groups),
        queue_size=4096,
        momentum=m,
        temperature=0.2,
        seed=SEED,
    )
    # With its usual initial values, the network amplifies rounding errors up to a hundredfold in
    # each step: at a learning rate of 0.03, PyTorch in float32 and in float64 differ by 2e-3 after
    # three steps. With small residual branches and a small rate, a mistake is larger than rounding.
    for encoder in (model.query_encoder, model.key_encoder):
        for entry in state_dict.entries(encoder):
            if entry.key.endswith("bn2.weight"):
                entry.write(np.full(entry.shape, 0.2))
    model.compile(optimizers.SGD(rate))
    f_q = torchvision.models.resnet18(num_classes=128)
    f_q.fc = reference.build_head("mlp", 512, 128)
    copy = reference_of(model, f_q, groups, m)
    views = np.random.default_rng(2).normal(size=(steps, 2, count, 64, 64, 3)).astype(np.float32)
    for step in range(steps):
        order = permutation(count, seed_for("permutation", SEED, step)).numpy()
        x_q, x_k = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in views[step])
        expected, _ = copy.step(x_q, x_k, torch.from_numpy(order).long(), rate)
        batch = tf.data.Dataset.from_tensors(tuple(views[step]))
        [loss] = model.fit(batch, verbose=0, shuffle=False).history["loss"]
        assert loss == pytest.approx(float(expected), rel=1e-4), step
