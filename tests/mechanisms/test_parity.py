"""The model, step by step, against an implementation of its own in PyTorch: tests/reference.py."""

import inspect
import math
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import encoders, optimizers
from moco_tf.encoders import state_dict
from moco_tf.mechanisms import moco
from moco_tf.mechanisms.shuffling import permutation
from moco_tf.schedules import Cosine, Step
from moco_tf.seeds import seed_for
from tests import reference
from tests.pytorch import torch, torchvision

STEPS, STEPS_PER_EPOCH, RATE = 30, 5, 0.06
EPOCHS = STEPS // STEPS_PER_EPOCH
MILESTONES = (2, 4)
N, DIM, SEED = 8, 16, 3
QUEUE_SIZE = 21  # no multiple of the batch, and overwritten eleven times


@pytest.fixture(autouse=True)
def dtype_policy():
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")


def schedule(name):
    """Our schedule, and its closed form at each step."""
    epochs = [step // STEPS_PER_EPOCH for step in range(STEPS)]
    if name == "cosine":
        rates = [RATE * 0.5 * (1 + math.cos(math.pi * epoch / EPOCHS)) for epoch in epochs]
        return Cosine(RATE, STEPS_PER_EPOCH, EPOCHS), rates
    rates = [RATE * 0.1 ** ((epoch >= 2) + (epoch >= 4)) for epoch in epochs]
    return Step(RATE, STEPS_PER_EPOCH, MILESTONES), rates


def set_normalizations(encoder):
    """Scales and offsets unlike those that it starts with, and unlike each other."""
    generator = np.random.default_rng(0)
    for entry in state_dict.entries(encoder):
        if ".bn" in entry.key or entry.key.startswith("bn"):
            low, high = (0.5, 1.5) if entry.key.endswith(("weight", "var")) else (-0.3, 0.3)
            entry.write(generator.uniform(low, high, entry.shape))


class Comparison(keras.callbacks.Callback):
    """After each of our steps lets the reference take the same one, and compares everything."""

    def __init__(self, theirs, views, orders, rates, recorded, tolerance):
        super().__init__()
        self.theirs, self.views, self.orders, self.rates = theirs, views, orders, rates
        self.recorded, self.tolerance = recorded, tolerance

    def on_train_batch_end(self, step, logs=None):
        x_q, x_k = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in self.views[step])
        loss, logits = self.theirs.step(x_q, x_k, self.orders[step], self.rates[step])
        wanted = {"loss": loss.numpy(), "logits": logits.numpy(), **self.theirs.numbers()}
        found = {
            # The sum over the directions, each a mean over the batch.
            "loss": self.recorded["losses"].numpy().sum() / N,
            "logits": self.recorded["logits"].numpy(),
            **numbers(self.model),
        }
        assert found.keys() == wanted.keys()
        for name, array in wanted.items():
            difference = np.abs(found[name] - array).max()
            assert difference <= self.tolerance * np.abs(array).max(), f"{name} at step {step}"


def numbers(moco):
    """Everything that our model holds, under the reference's names and in its axes."""
    buffers = {
        parameter.path: buffer
        for parameter, buffer in zip(
            moco.query_encoder.trainable_variables, moco.optimizer.momentum_buffers, strict=True
        )
    }
    found = {"queue": moco.queue.keys.numpy(), "pointer": moco.queue.pointer.numpy()}
    for entry in state_dict.entries(moco.query_encoder):
        found[f"q.{entry.key}"] = entry.read()
        if entry.variable.trainable:
            buffer = entry._replace(variable=buffers[entry.variable.path])
            found[f"momentum.{entry.key}"] = buffer.read()
    for entry in state_dict.entries(moco.key_encoder):
        found[f"k.{entry.key}"] = entry.read()
    return found


def compare(
    monkeypatch,
    head="linear",
    schedule_name="step",
    m=0.9,
    groups=4,
    shuffle_bn=True,
    symmetric=False,
    model_module=moco,
    optimizers_module=optimizers,
    steps=STEPS,
    run_eagerly=False,
):
    """Trains both for 30 steps in float64; an AssertionError names what differs first."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(1)
    recorded = listen(monkeypatch, model_module, 2 * N if symmetric else N)
    rate, rates = schedule(schedule_name)
    ours = model_module.MoCo(
        lambda: encoders.build("resnet8", head, DIM, stem="small", bn_groups=groups),
        QUEUE_SIZE,
        m,
        temperature=0.2,
        shuffle_bn=shuffle_bn,
        symmetric_loss=symmetric,
        seed=SEED,
    )
    set_normalizations(ours.query_encoder)
    ours.key_encoder.set_weights(ours.query_encoder.get_weights())
    ours.compile(optimizers_module.SGD(rate), run_eagerly=run_eagerly)

    f_q = reference.ResNet8(head, DIM).double()
    theirs = reference_of(ours, f_q, groups, m, symmetric)
    views = np.random.default_rng(2).normal(size=(STEPS, 2, N, 12, 12, 3))
    orders = [torch.arange(N)] * STEPS
    if shuffle_bn:
        seeds = [seed_for("permutation", SEED, step) for step in range(STEPS)]
        orders = [torch.from_numpy(permutation(N, seed).numpy()).long() for seed in seeds]
    comparison = Comparison(theirs, views, orders, rates, recorded, tolerance=1e-8)
    fit(ours, views[:steps], comparison)


def listen(monkeypatch, model_module, count):
    """Variables that hold the losses and the logits of each step: the model only returns means."""
    losses = tf.Variable(tf.zeros([count], keras.config.floatx()))
    logits = tf.Variable(tf.zeros([count, 1 + QUEUE_SIZE], keras.config.floatx()))
    info_nce = model_module.info_nce

    def recording(*args):
        found = info_nce(*args)
        losses.assign(found[0])
        logits.assign(found[1])
        return found

    monkeypatch.setattr(model_module, "info_nce", recording)
    return {"losses": losses, "logits": logits}


def reference_of(ours, f_q, groups, m, symmetric=False):
    """The reference with our weights and our queue."""
    arrays = state_dict.read(ours.query_encoder)
    f_q.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
    queue = torch.from_numpy(ours.queue.keys.numpy().copy())
    return reference.MoCo(f_q, queue, groups, m, t=0.2, symmetric=symmetric)


def fit(ours, views, comparison):
    data = tf.data.Dataset.from_tensor_slices((views[:, 0], views[:, 1]))
    ours.fit(data, verbose=0, shuffle=False, callbacks=[comparison])


# Every two of head, schedule and momentum together; all three never meet in one formula.
@pytest.mark.parametrize(
    ("head", "schedule_name", "m"),
    [
        ("linear", "step", 0.0),
        ("mlp", "cosine", 0.0),
        ("linear", "cosine", 0.9),
        ("mlp", "step", 0.9),
        ("linear", "step", 0.999),
        ("mlp", "cosine", 0.999),
    ],
)
def test_thirty_steps_are_the_references(monkeypatch, head, schedule_name, m):
    compare(monkeypatch, head, schedule_name, m)


@pytest.mark.parametrize(
    "options",
    [{"groups": 1, "shuffle_bn": False}, {"shuffle_bn": False}, {"symmetric": True}],
    ids=["one group", "four groups unshuffled", "symmetric loss"],
)
def test_so_are_they_in_other_settings(monkeypatch, options):
    compare(monkeypatch, **options)


def mutant(module, *replacements):
    """A module with a deliberate mistake."""
    source = inspect.getsource(module)
    for before, after in replacements:
        assert source.count(before) == 1, before
        source = source.replace(before, after)
    # Of another name: by the module's own, AutoGraph would find the source without the mistake.
    mutated = types.ModuleType("mutant")
    exec(compile(source, "mutant", "exec"), mutated.__dict__)
    return mutated


ENQUEUE = "        self.queue.enqueue(tf.concat(k, 0))\n"
IN_PLACE = "        # In place"
DECAY = "        variable.assign_sub(learning_rate * self.coupled_weight_decay * variable)"
DECAYED = "gradient, variable.dtype) + self.coupled_weight_decay * variable"
MUTATIONS = {
    "decoupled weight decay": (
        optimizers,
        (DECAYED, "gradient, variable.dtype)"),
        (IN_PLACE, f"{DECAY}\n{IN_PLACE}"),
    ),
    "learning rate inside the momentum buffer": (
        optimizers,
        ("grad=gradient", "grad=tf.cast(learning_rate, variable.dtype) * gradient"),
        ("lr=tf.cast(learning_rate, variable.dtype)", "lr=tf.ones([], variable.dtype)"),
    ),
    "key moving statistics averaged too": (
        moco,
        ("self.momentum, self.key_encoder.trainable_variables", "0.9, self.key_encoder.weights"),
        ("zip(theta_k, theta_q, strict", "zip(theta_k, self.query_encoder.weights, strict"),
    ),
    "enqueue before the loss": (
        moco,
        (ENQUEUE, ""),
        ("        x_q = [self._augment", f"{ENQUEUE}        x_q = [self._augment"),
    ),
    "no unshuffle": (moco, ("key_encoder, images), order)", "key_encoder, images), None)")),
}


# A few steps show a mistake, and run at once where a graph of them takes seconds to trace.
BRIEFLY = dict(steps=3, run_eagerly=True)


def test_without_a_mistake_there_is_parity(monkeypatch):
    compare(monkeypatch, **BRIEFLY)


@pytest.mark.parametrize("mistake", MUTATIONS)
def test_a_mistake_breaks_parity(monkeypatch, mistake):
    module, *replacements = MUTATIONS[mistake]
    name = "model_module" if module is moco else "optimizers_module"
    with pytest.raises(AssertionError, match="at step"):
        compare(monkeypatch, **{name: mutant(module, *replacements)}, **BRIEFLY)


def test_in_float32_the_loss_of_a_resnet18_stays_within_1e_4_for_ten_steps():
    keras.utils.set_random_seed(1)
    steps, count, groups, m = 10, 16, 4, 0.99
    rate = 0.03 * count / 256
    ours = moco.MoCo(
        lambda: encoders.build("resnet18", "mlp", 128, bn_groups=groups),
        queue_size=4096,
        momentum=m,
        temperature=0.2,
        seed=SEED,
    )
    # From its usual start the network enlarges rounding errors up to a hundredfold at each step: at
    # a learning rate of 0.03, PyTorch in float32 and in float64 part by 2e-3 after three. Small
    # residual branches and a small rate make it tame enough to tell rounding from a mistake.
    for encoder in (ours.query_encoder, ours.key_encoder):
        for entry in state_dict.entries(encoder):
            if entry.key.endswith("bn2.weight"):
                entry.write(np.full(entry.shape, 0.2))
    ours.compile(optimizers.SGD(rate))
    f_q = torchvision.models.resnet18(num_classes=128)
    f_q.fc = reference.build_head("mlp", 512, 128)
    theirs = reference_of(ours, f_q, groups, m)
    views = np.random.default_rng(2).normal(size=(steps, 2, count, 64, 64, 3)).astype(np.float32)
    for step in range(steps):
        order = permutation(count, seed_for("permutation", SEED, step)).numpy()
        x_q, x_k = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in views[step])
        expected, _ = theirs.step(x_q, x_k, torch.from_numpy(order).long(), rate)
        batch = tf.data.Dataset.from_tensors(tuple(views[step]))
        [loss] = ours.fit(batch, verbose=0, shuffle=False).history["loss"]
        assert loss == pytest.approx(float(expected), rel=1e-4), step
