"""The other two mechanisms, step by step, against implementations of their own in PyTorch."""

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
from tests.pytorch import torch

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
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")


class Reference(reference.MoCo):
    """What is alike in both: encoders, groups of BatchNormalization, and SGD."""

    def __init__(self, ours):
        f_q = reference.ResNet8("linear", DIM).double()
        arrays = state_dict.read(ours.query_encoder)
        f_q.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
        super().__init__(f_q, torch.zeros(1, DIM), GROUPS, m=None, t=T)

    def take(self, loss, learning_rate):
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()

    def numbers(self, encoders):
        """Everything that the encoders hold, `{name: (module, statistics)}`, and the buffers."""
        found = {}
        for name, (f, statistics) in encoders.items():
            for key, parameter in f.named_parameters():
                found[f"{name}.{key}"] = parameter.detach()
                buffer = self.optimizer.state[parameter]["momentum_buffer"]
                found[f"momentum.{name}.{key}"] = buffer
            for key in statistics[0]:
                if not key.endswith("num_batches_tracked"):
                    found[f"{name}.{key}"] = torch.stack([own[key] for own in statistics]).mean(0)
        return found


class EndToEndReference(Reference):
    def __init__(self, ours, shuffle_bn, symmetric_loss):
        super().__init__(ours)
        self.shuffle_bn, self.symmetric_loss = shuffle_bn, symmetric_loss
        parameters = [*self.f_q.parameters(), *self.f_k.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=1.0, momentum=0.9, weight_decay=1e-4)

    def one_way(self, x_q, x_k, order):
        q = self.encode(self.f_q, self.statistics_q, x_q)
        k = self.encode(self.f_k, self.statistics_k, x_k[order])[torch.argsort(order)]
        return F.cross_entropy(q @ k.T / self.t, torch.arange(N))

    def step(self, number, x_q, x_k, _):
        order = torch.arange(N)
        if self.shuffle_bn:
            order = permutation(N, seed_for("permutation", SEED, number)).numpy()
            order = torch.from_numpy(order).long()
        losses = [self.one_way(x_q, x_k, order)]
        if self.symmetric_loss:
            losses.append(self.one_way(x_k, x_q, order))
        self.take(sum(losses), RATES[number])
        encoders = {"q": (self.f_q, self.statistics_q), "k": (self.f_k, self.statistics_k)}
        return {"loss": sum(losses).detach() / len(losses), **self.numbers(encoders)}


class MemoryBankReference(Reference):
    def __init__(self, ours):
        super().__init__(ours)
        self.bank = torch.from_numpy(ours.bank.representations.numpy().copy())
        self.draws = lambda step: ours.bank.draw(NEGATIVES, step).numpy()

    def step(self, number, x_q, _, rows):
        q = self.encode(self.f_q, self.statistics_q, x_q)
        losses = []
        for query, row in zip(q, rows, strict=True):
            others = torch.cat([self.bank[:row], self.bank[row + 1 :]])
            keys = torch.stack([self.bank[row], *others[self.draws(number)]])
            losses.append(F.cross_entropy(keys @ query / self.t, torch.tensor(0)))
        loss = torch.stack(losses).mean()
        self.take(loss, RATES[number])
        before = self.bank.clone()
        for query, row in zip(q.detach(), rows, strict=True):
            self.bank[row] = F.normalize(0.5 * before[row] + 0.5 * query, dim=0)
        encoders = {"q": (self.f_q, self.statistics_q)}
        return {"loss": loss.detach(), "bank": self.bank, **self.numbers(encoders)}


def numbers(ours):
    """Everything that our model holds, under the references' names and in their axes."""
    buffers = {
        id(parameter): buffer  # both encoders' go by the same names
        for parameter, buffer in zip(
            ours.learned_variables, ours.optimizer.momentum_buffers, strict=True
        )
    }
    found = {"bank": ours.bank.representations.numpy()} if isinstance(ours, MemoryBank) else {}
    for name, encoder in (("q", "query_encoder"), ("k", "key_encoder")):
        for entry in state_dict.entries(getattr(ours, encoder)) if hasattr(ours, encoder) else ():
            found[f"{name}.{entry.key}"] = entry.read()
            if entry.variable.trainable:
                buffer = entry._replace(variable=buffers[id(entry.variable)])
                found[f"momentum.{name}.{entry.key}"] = buffer.read()
    return found


class Comparison(keras.callbacks.Callback):
    """After each of our steps lets the reference take the same one, and compares everything."""

    def __init__(self, theirs, batches):
        super().__init__()
        self.theirs, self.batches = theirs, batches
        self.losses = []

    def on_train_batch_end(self, step, logs=None):
        x_q, x_k, rows = (part[step] for part in self.batches)
        x_q, x_k = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in (x_q, x_k))
        wanted = self.theirs.step(step, x_q, x_k, rows)
        found = {"loss": np.array(logs["loss"]), **numbers(self.model)}
        self.model.reset_metrics()
        self.losses.append(float(found["loss"]))
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            array = tensor.numpy()
            difference = np.abs(found[name] - array).max()
            assert difference <= 1e-8 * np.abs(array).max(), f"{name} at step {step}"


def build_encoder():
    return encoders.build("resnet8", "linear", DIM, stem="small", bn_groups=GROUPS)


def compare(ours, make_reference):
    ours.compile(SGD(Cosine(RATE, STEPS_PER_EPOCH, STEPS / STEPS_PER_EPOCH)))
    generator = np.random.default_rng(2)
    views = generator.normal(size=(2, STEPS, N, 12, 12, 3))
    rows = np.stack([generator.permutation(IMAGES)[:N] for _ in range(STEPS)])
    batches = (*views, rows)
    taken = batches if isinstance(ours, MemoryBank) else tuple(views)
    comparison = Comparison(make_reference(ours), batches)
    data = tf.data.Dataset.from_tensor_slices(taken)
    ours.fit(data, verbose=0, shuffle=False, callbacks=[comparison])
    assert len(comparison.losses) == STEPS
    assert np.abs(np.diff(comparison.losses)).min() > 0


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle_bn": True, "symmetric_loss": False},
        {"shuffle_bn": False, "symmetric_loss": True},
    ],
    ids=str,
)
def test_twenty_steps_end_to_end_are_the_references(options):
    keras.utils.set_random_seed(1)
    ours = EndToEnd(build_encoder, temperature=T, seed=SEED, **options)
    compare(ours, lambda ours: EndToEndReference(ours, **options))
    assert len(ours.optimizer.momentum_buffers) == 2 * len(ours.query_encoder.trainable_variables)


def test_twenty_steps_with_a_memory_bank_are_the_references():
    keras.utils.set_random_seed(1)
    ours = MemoryBank(build_encoder, IMAGES, NEGATIVES, temperature=T, seed=SEED)
    compare(ours, MemoryBankReference)
