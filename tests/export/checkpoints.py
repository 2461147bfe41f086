"""What the tests of export/pytorch.py share: checkpoints, and models on both sides to make them."""

import numpy as np
import pytest

from moco_tf.config import default_config
from moco_tf.data.normalization import MEAN, STD
from moco_tf.errors import UserError
from moco_tf.training.build import build_model
from tests.command import TINY
from tests.images import crops
from tests.pytorch import torch, torchvision

# An epoch of 40 images. The queue has come round then, and stands at 16.
DIM, KEYS, BATCH, STEPS, RATE = 12, 24, 8, 5, 0.03
SCRIPT = "export/pytorch.py"


def saved(checkpoint, folder, **kwargs):
    torch.save(checkpoint, folder / "checkpoint.pth.tar", **kwargs)
    return str(folder / "checkpoint.pth.tar")


def momentum(checkpoint):
    state = checkpoint["optimizer"]["state"]
    return {index: values["momentum_buffer"] for index, values in state.items()}


def assert_same_checkpoint(found, expected):
    assert list(found) == list(expected) == ["epoch", "arch", "state_dict", "optimizer"]
    assert (found["epoch"], found["arch"]) == (expected["epoch"], expected["arch"])
    assert_identical(found["state_dict"], expected["state_dict"])
    assert_identical(momentum(found), momentum(expected))
    [found], [expected] = (ckpt["optimizer"]["param_groups"] for ckpt in (found, expected))
    # Ours is the config's, as float32.
    assert found == expected | {"lr": pytest.approx(expected["lr"], rel=1e-6)}


def assert_identical(found, expected):
    """Two state dicts or optimizer states: keys in one order, types, shapes and bits."""
    assert list(found) == list(expected) and len(expected) > 0
    for key, tensor in expected.items():
        assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape), key
        # As bytes: -0 is not 0 here, and a NaN is itself.
        assert found[key].numpy().tobytes() == tensor.numpy().tobytes(), key


def settings(photos):
    return (
        *TINY,
        f"--config.data.source=folder:{photos}",
        f"--config.batch_size={BATCH}",
        f"--config.queue_size={KEYS}",
        f"--config.dim={DIM}",
        "--config.epochs=2",
        "--config.knn_every=0",
    )


def small_config():
    config = default_config()
    small = dict(encoder="resnet8", stem="small", dim=DIM, queue_size=KEYS, image_size=32)
    config.update({**small, "batch_size": BATCH, "bn_groups": 2, "data": {"source": "photos"}})
    return config


def small_model():
    return set_numbers(build_model(small_config(), steps_per_epoch=5))


def set_numbers(moco):
    """Lets a small model stand at step 7, all of its numbers away from their start."""
    numbers = np.random.default_rng(0)
    for variable in moco.variables + moco.optimizer.momentum_buffers:
        if variable.dtype == "float32":
            variable.assign(numbers.uniform(0.5, 1.5, variable.shape))
    moco.queue.pointer.assign(5)
    for counter in (moco.step, moco.optimizer.iterations):
        counter.assign(7)
    return moco


# Models of torch's.


class Reference(torch.nn.Module):
    """What the reference trains, under its names: two torchvision ResNet-18 and a queue."""

    def __init__(self, head):
        super().__init__()
        self.encoder_q, self.encoder_k = (
            torchvision.models.resnet18(num_classes=DIM) for _ in range(2)
        )
        for encoder in (self.encoder_q, self.encoder_k):
            if head == "mlp":
                hidden = torch.nn.Linear(512, 512)
                encoder.fc = torch.nn.Sequential(hidden, torch.nn.ReLU(), encoder.fc)
            randomize(encoder)
        for parameter in self.encoder_k.parameters():
            parameter.requires_grad = False
        self.register_buffer("queue", torch.nn.functional.normalize(torch.randn(DIM, KEYS), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))


def reference(head):
    """A reference model as DistributedDataParallel holds it, with `module.` before every key, and
    its optimizer."""
    model = torch.nn.ModuleDict({"module": Reference(head)})
    return model, torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=1e-4)


def randomize(network):
    """Takes every BatchNormalization away from the identity, so that none can be left out."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.data.uniform_(0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                tensor.data.normal_(0, 0.3)


def photographs():
    """A few images of 0 to 255."""
    return np.stack(crops(4, 64)).astype(np.float32)


def normalized(images):
    """Images of 0 to 255 as torch's networks take them."""
    images = (images / 255 - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32))


def without_classifier(network, images):
    """The features of a torchvision network that images of 0 to 255 have, float32 `[N, D]`."""
    body = torch.nn.Sequential(*list(network.eval().children())[:-1], torch.nn.Flatten())
    with torch.no_grad():
        return body(normalized(images)).numpy()


def assert_close(found, expected):
    assert found.shape == expected.shape and expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


# Mistakes.


class Calls:
    """An object that a pickle holds as a function to call, and its arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def refusal(function, *arguments):
    """The line that a call ends in."""
    with pytest.raises(UserError) as error:
        function(*arguments)
    return str(error.value)
