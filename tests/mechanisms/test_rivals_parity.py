"""The end-to-end and memory-bank mechanisms, step by step, against PyTorch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import encoders
from moco_tf.encoders import state_dict
from moco_tf.mechanisms.end_to_end import EndToEnd
from moco_tf.mechanisms.memory_bank import MemoryBank
from moco_tf.mechanisms.shuffling import permutation
from moco_tf.optimizers import SGD
from moco_tf.schedules import Cosine
from moco_tf.seeds import seed_for
from tests import reference
from tests.precision import in_float64
from tests.pytorch import torch

pytestmark = [pytest.mark.slow, pytest.mark.torch]

F = torch.nn.functional

STEPS, STEPS_PER_EPOCH, RATE = 20, 4, 0.06
RATES = [
    0.5 * RATE * (1 + np.cos(np.pi * (step // STEPS_PER_EPOCH) * STEPS_PER_EPOCH / STEPS))
    for step in range(STEPS)
]
N, DIM, GROUPS, SEED, T = 8, 16, 2, 3, 0.2
IMAGES, NEGATIVES = 19, 13


@pytest.fixture(autouse=True)
def float64():
    with in_float64():
        yield


class Reference(reference.MoCo):
    """The common part of both mechanisms: encoders, groups of BatchNormalization, and SGD."""

    def __init__(self, model):
        f_q = reference.ResNet8("linear", DIM).double()
        arrays = state_dict.read(model.query_encoder)
        f_q.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
        super().__init__(f_q, torch.zeros(1, DIM), GROUPS, m=None, t=T)

    def update(self, loss, learning_rate):
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()

    def state(self, encoders):
        """Return the arrays of encoders, `{name: (module, statistics)}`, and momentum buffers."""
        tensors = {}
        for name, (f, statistics) in encoders.items():
            for key, parameter in f.named_parameters():
                tensors[f"{name}.{key}"] = parameter.detach()
                buffer = self.optimizer.state[parameter]["momentum_buffer"]
                tensors[f"momentum.{name}.{key}"] = buffer
            for key in statistics[0]:
                if not key.endswith("num_batches_tracked"):
                    tensors[f"{name}.{key}"] = torch.stack([gpu[key] for gpu in statistics]).mean(0)
        return tensors


class EndToEndReference(Reference):
    def __init__(self, model, shuffle_bn, symmetric_loss):
        super().__init__(model)
        self.shuffle_bn, self.symmetric_loss = shuffle_bn, symmetric_loss
        parameters = [*self.f_q.parameters(), *self.f_k.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=1.0, momentum=0.9, weight_decay=1e-4)

    def loss_of_one_direction(self, x_q, x_k, order):
        q = self.encode(self.f_q, self.statistics_q, x_q)
        k = self.encode(self.f_k, self.statistics_k, x_k[order])[torch.argsort(order)]
        return F.cross_entropy(q @ k.T / self.t, torch.arange(N))

    def step(self, number, x_q, x_k, _):
        order = torch.arange(N)
        if self.shuffle_bn:
            order = permutation(N, seed_for("permutation", SEED, number)).numpy()
            order = torch.from_numpy(order).long()
        losses = [self.loss_of_one_direction(x_q, x_k, order)]
        if self.symmetric_loss:
            losses.append(self.loss_of_one_direction(x_k, x_q, order))
        self.update(sum(losses), RATES[number])
        encoders = {"q": (self.f_q, self.statistics_q), "k": (self.f_k, self.statistics_k)}
        return {"loss": sum(losses).detach() / len(losses), **self.state(encoders)}


class MemoryBankReference(Reference):
    def __init__(self, model):
        super().__init__(model)
        self.bank = torch.from_numpy(model.bank.representations.numpy().copy())
        self.draws = lambda step: model.bank.draw(NEGATIVES, step).numpy()

    def step(self, number, x_q, _, rows):
        q = self.encode(self.f_q, self.statistics_q, x_q)
        losses = []
        for query, row in zip(q, rows, strict=True):
            others = torch.cat([self.bank[:row], self.bank[row + 1 :]])
            keys = torch.stack([self.bank[row], *others[self.draws(number)]])
            losses.append(F.cross_entropy(keys @ query / self.t, torch.tensor(0)))
        loss = torch.stack(losses).mean()
        self.update(loss, RATES[number])
        before = self.bank.clone()
        for query, row in zip(q.detach(), rows, strict=True):
            self.bank[row] = F.normalize(0.5 * before[row] + 0.5 * query, dim=0)
        encoders = {"q": (self.f_q, self.statistics_q)}
        return {"loss": loss.detach(), "bank": self.bank, **self.state(encoders)}


def state(model):
    """Return all variables of a model with the names and the axes of the reference."""
    buffers = {
        id(parameter): buffer  # Both encoders have the same names.
        for parameter, buffer in zip(
            model.learned_variables, model.optimizer.momentum_buffers, strict=True
        )
    }
    has_bank = isinstance(model, MemoryBank)
    arrays = {"bank": model.bank.representations.numpy()} if has_bank else {}
    encoders_by_name = {"q": model.query_encoder}
    if not has_bank:
        encoders_by_name["k"] = model.key_encoder
    for name, encoder in encoders_by_name.items():
        for entry in state_dict.entries(encoder):
            arrays[f"{name}.{entry.key}"] = entry.read()
            if entry.variable.trainable:
                buffer = entry._replace(variable=buffers[id(entry.variable)])
                arrays[f"momentum.{name}.{entry.key}"] = buffer.read()
    return arrays


class Comparison(keras.callbacks.Callback):
    """Takes the same step of the reference after each step of the model, and compares them."""

    def __init__(self, reference, batches):
        super().__init__()
        self.reference, self.batches = reference, batches
        self.losses = []

    def on_train_batch_end(self, step, logs=None):
        x_q, x_k, rows = (part[step] for part in self.batches)
        x_q, x_k = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in (x_q, x_k))
        expected = self.reference.step(step, x_q, x_k, rows)
        actual = {"loss": np.array(logs["loss"]), **state(self.model)}
        self.model.reset_metrics()
        self.losses.append(float(actual["loss"]))
        assert actual.keys() == expected.keys()
        for name, tensor in expected.items():
            array = tensor.numpy()
            difference = np.abs(actual[name] - array).max()
            assert difference <= 1e-8 * np.abs(array).max(), f"{name} at step {step}"


def build_encoder():
    return encoders.build("resnet8", "linear", DIM, stem="small", bn_groups=GROUPS)


def compare(model, make_reference):
    model.compile(SGD(Cosine(RATE, STEPS_PER_EPOCH, STEPS / STEPS_PER_EPOCH)))
    generator = np.random.default_rng(2)
    views = generator.normal(size=(2, STEPS, N, 12, 12, 3))
    rows = np.stack([generator.permutation(IMAGES)[:N] for _ in range(STEPS)])
    batches = (*views, rows)
    inputs = batches if isinstance(model, MemoryBank) else tuple(views)
    comparison = Comparison(make_reference(model), batches)
    data = tf.data.Dataset.from_tensor_slices(inputs)
    model.fit(data, verbose=0, shuffle=False, callbacks=[comparison])
    assert len(comparison.losses) == STEPS
    assert np.abs(np.diff(comparison.losses)).min() > 0


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"shuffle_bn": True, "symmetric_loss": False}, marks=pytest.mark.nightly),
        pytest.param({"shuffle_bn": False, "symmetric_loss": True}, marks=pytest.mark.nightly),
    ],
    ids=str,
)
def test_twenty_steps_end_to_end_equal_those_of_the_reference(options):
    keras.utils.set_random_seed(1)
    model = EndToEnd(build_encoder, temperature=T, seed=SEED, **options)
    compare(model, lambda model: EndToEndReference(model, **options))
    assert len(model.optimizer.momentum_buffers) == 2 * len(model.query_encoder.trainable_variables)


def test_twenty_steps_with_a_memory_bank_equal_those_of_the_reference():
    keras.utils.set_random_seed(1)
    model = MemoryBank(build_encoder, IMAGES, NEGATIVES, temperature=T, seed=SEED)
    compare(model, MemoryBankReference)
