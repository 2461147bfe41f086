"""Helpers for the tests of PyTorch files: checkpoints, and the models on both sides."""

import copy

import numpy as np
import pytest

from moco_tf.config import default_config
from moco_tf.data.normalization import MEAN, STD
from moco_tf.errors import UserError
from moco_tf.training.build import build_model
from tests.command import TINY
from tests.pytorch import torch, torchvision
from tests.reference import ResNet8, build_head

# An epoch of 40 images, at whose end the queue was filled once and its pointer is at 16.
DIM, KEYS, BATCH, STEPS, RATE = 12, 24, 8, 5, 0.03
SCRIPT = "export/pytorch.py"


def saved(checkpoint, folder, **kwargs):
    """Save a checkpoint to a file in `folder`, and return its path."""
    torch.save(checkpoint, folder / "checkpoint.pth.tar", **kwargs)
    return str(folder / "checkpoint.pth.tar")


def momentum(checkpoint):
    """Return the momentum buffers in a checkpoint, by their indices."""
    state = checkpoint["optimizer"]["state"]
    return {index: values["momentum_buffer"] for index, values in state.items()}


def assert_same_checkpoint(actual, expected):
    """Compare two checkpoints bit for bit, except for the parameters of the key encoder.

    A conversion there and back rounds them twice.
    """
    assert list(actual) == ["epoch", "arch", "state_dict", "optimizer"]
    assert list(expected) == list(actual)
    assert actual["epoch"] == expected["epoch"]
    assert actual["arch"] == expected["arch"]
    assert_same_state(actual["state_dict"], expected["state_dict"])
    assert_identical(momentum(actual), momentum(expected))
    [group] = actual["optimizer"]["param_groups"]
    [expected_group] = expected["optimizer"]["param_groups"]
    # Our learning rate is that of the config, rounded to float32.
    assert group == expected_group | {"lr": pytest.approx(expected_group["lr"], rel=1e-6)}


def assert_same_state(actual, expected):
    """Compare two state dicts as `assert_same_checkpoint` does."""
    assert list(actual) == list(expected)
    rounded = [key for key in expected if is_key_parameter(key)]
    assert len(rounded) > 10
    for key in rounded:
        assert actual[key].dtype == expected[key].dtype, key
        torch.testing.assert_close(actual[key], expected[key], rtol=2.5e-7, atol=1e-9, msg=key)
    assert_identical(
        *({k: v for k, v in d.items() if k not in rounded} for d in (actual, expected))
    )


def is_key_parameter(key):
    """Return whether the momentum update changes a key of a state dict."""
    return "encoder_k" in key and not key.endswith(("running_mean", "running_var", "tracked"))


def assert_identical(actual, expected):
    """Compare two state dicts or optimizer states: order of keys, dtypes, shapes and bits."""
    assert len(expected) > 0
    assert list(actual) == list(expected)
    for key, tensor in expected.items():
        assert actual[key].dtype == tensor.dtype, key
        assert actual[key].shape == tensor.shape, key
        # Compared as bytes, -0 differs from 0, and a NaN equals itself.
        assert actual[key].numpy().tobytes() == tensor.numpy().tobytes(), key


def run_flags(photos):
    """Return the flags of a small run on a folder of images."""
    return (
        *TINY,
        f"--config.data.source=folder:{photos}",
        f"--config.batch_size={BATCH}",
        f"--config.queue_size={KEYS}",
        f"--config.dim={DIM}",
        "--config.epochs=2",
        "--config.knn_every=0",
    )


def small_config(source="photos"):
    config = default_config()
    config.update({"encoder": "resnet8", "stem": "small", "dim": DIM, "queue_size": KEYS})
    config.update({"image_size": 32, "batch_size": BATCH, "bn_groups": 2})
    config.data.source = source
    return config


def small_model():
    """Return a small model at step 7."""
    return set_values(build_model(small_config(), steps_per_epoch=5))


def set_values(moco):
    """Set a small model to step 7, and all of its weights to values that they never start with."""
    numbers = np.random.default_rng(0)
    for variable in moco.variables + moco.optimizer.momentum_buffers:
        if variable.dtype in ("float32", "float64"):
            variable.assign(numbers.uniform(0.5, 1.5, variable.shape))
    moco.queue.pointer.assign(5)
    for counter in (moco.step, moco.optimizer.iterations):
        counter.assign(7)
    return moco


class Reference(torch.nn.Module):
    """The model that facebookresearch/moco trains, under its names.

    Args:
        encoder: "resnet18", which is torchvision's, or "resnet8".
        head: "linear" or "mlp".
    """

    def __init__(self, encoder, head):
        super().__init__()
        self.encoder_q, self.encoder_k = (build_torch(encoder, head, DIM) for _ in range(2))
        for parameter in self.encoder_k.parameters():
            parameter.requires_grad = False
        self.register_buffer("queue", torch.nn.functional.normalize(torch.randn(DIM, KEYS), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))


def train_reference(model, optimizer, images_q, images_k, m):
    """Take a training step as facebookresearch/moco does, which updates the key encoder first.

    Args:
        model: The first result of `reference`.
        optimizer: The second.
        images_q: `[N, 3, H, W]`, the views that become queries.
        images_k: `[N, 3, H, W]`, those that become keys.
        m: Momentum of the key encoder.
    """
    moco = model["module"].train()
    pairs = zip(moco.encoder_q.parameters(), moco.encoder_k.parameters(), strict=True)
    with torch.no_grad():
        for parameter_q, parameter_k in pairs:
            parameter_k.copy_(m * parameter_k + (1 - m) * parameter_q)
        k = torch.nn.functional.normalize(moco.encoder_k(images_k))
    q = torch.nn.functional.normalize(moco.encoder_q(images_q))
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ moco.queue], 1) / 0.07
    optimizer.zero_grad()
    labels = torch.zeros(len(q), dtype=torch.long)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    optimizer.step()
    first = int(moco.queue_ptr)
    moco.queue[:, first : first + len(k)] = k.T
    moco.queue_ptr[0] = (first + len(k)) % moco.queue.shape[1]


def build_torch(encoder, head, num_outputs):
    """Build a randomized network of PyTorch that ends in a head."""
    if encoder == "resnet8":
        return randomize(ResNet8(head, num_outputs))
    network = getattr(torchvision.models, encoder)()
    network.fc = build_head(head, network.fc.in_features, num_outputs)
    return randomize(network)


def reference(encoder, head):
    """Return a `Reference` with DistributedDataParallel's prefix `module.`, and its optimizer."""
    model = torch.nn.ModuleDict({"module": Reference(encoder, head)})
    return model, torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=1e-4)


def randomize(network):
    """Randomize BatchNormalization, since a converter could leave out one that is the identity."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.data.uniform_(0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                tensor.data.normal_(0, 0.3)
    return network


def normalized(images):
    """Convert images with values between 0 and 255 to the input of PyTorch's networks."""
    images = (images / 255 - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32))


def torch_features(network, images):
    """Return the features, `[N, D]`, that a network computes before its layer `fc`.

    Args:
        network: A network of PyTorch with a layer `fc`, the last one.
        images: Images with values between 0 and 255, `[N, H, W, 3]`.
    """
    body = copy.deepcopy(network).eval()
    body.fc = torch.nn.Identity()
    with torch.no_grad():
        return body(normalized(images)).numpy()


class Calls:
    """An object that a pickle holds as a function to call, and its arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def refusal(function, *arguments):
    """Return the message of the `UserError` that a call raises."""
    with pytest.raises(UserError) as error:
        function(*arguments)
    return str(error.value)
