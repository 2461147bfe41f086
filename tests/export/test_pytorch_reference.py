"""Checkpoints of the reference implementation that PyTorch trains, imported and exported again."""

import copy
import itertools
import shutil

import numpy as np
import pytest

from moco_tf import load_backbone, run_directory, run_metrics
from moco_tf.training.run_model import load_model
from tests import in_process
from tests.export.backbones import assert_close, photographs
from tests.export.checkpoints import (
    BATCH,
    RATE,
    SCRIPT,
    STEPS,
    assert_same_checkpoint,
    build_torch,
    is_key_parameter,
    momentum,
    normalized,
    reference,
    run_flags,
    saved,
    torch_features,
    train_reference,
)
from tests.pytorch import torch

pytestmark = pytest.mark.torch

M = 0.99  # Momentum of the key encoder.

# PyTorch's names of our variables and layers.
PARTS = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
HEADS = {
    "linear": {"projection": "fc"},
    "mlp": {"hidden": "fc.0", "projection": "fc.2"},
}
LAYERS = {"stem_conv": "conv1", "stem_bn": "bn1"}
for stage, block in itertools.product((1, 2, 3, 4), (1, 2)):
    for ours, theirs in {
        "1_conv": "conv1",
        "1_bn": "bn1",
        "2_conv": "conv2",
        "2_bn": "bn2",
        "shortcut_conv": "downsample.0",
        "shortcut_bn": "downsample.1",
    }.items():
        LAYERS[f"stage{stage}_block{block}_{ours}"] = f"layer{stage}.{block - 1}.{theirs}"


def step(model, optimizer, seed):
    """Take a training step of the reference on random images."""
    generator = torch.Generator().manual_seed(seed)
    images_q, images_k = torch.randn(2, BATCH, 3, 32, 32, generator=generator)
    train_reference(model, optimizer, images_q, images_k, M)


def in_torch_format(encoder, head, values=None):
    """Return the variables of an encoder as arrays in PyTorch's format, by PyTorch's names.

    Args:
        encoder: A model of `moco_tf.encoders.build` with a head.
        head: "linear" or "mlp".
        values: Values by the ids of variables, to return in place of those of the variables. Other
            variables are left out.
    """
    arrays = {}
    for layer in encoder.backbone.layers + encoder.head.layers:
        for variable in layer.variables:
            value = variable if values is None else values.get(id(variable))
            if value is not None:
                name = (LAYERS | HEADS[head])[layer.name]
                array = value.numpy()
                axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]
                arrays[f"{name}.{PARTS[variable.name]}"] = array.transpose(axes)
    return arrays


class Imported:
    """A checkpoint of the reference, the run that was created from it, and that run exported."""

    def __init__(self, encoder, head, photos, folder):
        self.encoder, self.head, self.workdir = encoder, head, folder / "run"
        self.model, self.optimizer = reference(encoder, head)
        for seed in range(STEPS):
            step(self.model, self.optimizer, seed)
        self.checkpoint = {
            "epoch": 1,
            "arch": encoder,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        self.flags = (
            *run_flags(photos),
            f"--config.encoder={encoder}",
            f"--config.stem={'small' if encoder == 'resnet8' else 'imagenet'}",
            f"--config.head={head}",
            "--config.schedule=step",
            f"--config.learning_rate={RATE}",
            f"--config.momentum={M}",
            "--config.scale_learning_rate=False",
            "--config.checkpoint_every=100",
        )
        checkpoint = f"--checkpoint={saved(self.checkpoint, folder)}"
        self.printed = in_process.run(SCRIPT, checkpoint, *self.flags, workdir=self.workdir)
        self.moco, _ = load_model(str(self.workdir))
        written = folder / "ours.pth.tar"
        in_process.run(SCRIPT, f"--out={written}", workdir=self.workdir)
        # As the reference reads it, whose scripts pass no other argument.
        self.written = torch.load(written, map_location="cpu")


@pytest.fixture(
    scope="module",
    params=[
        ("resnet8", "linear"),
        ("resnet8", "mlp"),
        pytest.param(("resnet18", "mlp"), marks=pytest.mark.nightly),  # torchvision's
    ],
    ids="-".join,
)
def imported(request, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    torch.manual_seed(0)
    yield Imported(*request.param, photos, folder)
    shutil.rmtree(folder)  # Hundreds of megabytes.


def at_the_end_of_a_step(tensors):
    """Return a state dict of the reference with the momentum update of its next step."""
    tensors = dict(tensors)
    for key in filter(is_key_parameter, tensors):
        theta_q = tensors[key.replace("encoder_k", "encoder_q")].double()
        tensors[key] = (M * tensors[key].double() + (1 - M) * theta_q).float()
    return tensors


def test_imported_run_holds_every_value_of_the_reference(imported):
    moco = imported.moco
    expected = at_the_end_of_a_step(imported.checkpoint["state_dict"])
    arrays = {
        "module.queue": moco.queue.keys.numpy().T,
        "module.queue_ptr": moco.queue.pointer.numpy()[np.newaxis],
    }
    for prefix, encoder in (("q", moco.query_encoder), ("k", moco.key_encoder)):
        for key, array in in_torch_format(encoder, imported.head).items():
            arrays[f"module.encoder_{prefix}.{key}"] = array
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    assert arrays.keys() == expected.keys() - counters
    for key, array in arrays.items():
        np.testing.assert_allclose(
            array, expected[key].numpy(), rtol=2.5e-7 * is_key_parameter(key), err_msg=key
        )

    assert moco.queue.pointer.numpy() == 16
    assert {int(expected[key]) for key in counters} == {STEPS}
    assert moco.step.numpy() == STEPS
    assert moco.optimizer.iterations.numpy() == STEPS
    assert f"step {STEPS}" in imported.printed
    assert "note" not in imported.printed


def test_imported_run_holds_the_momentum_of_the_reference(imported):
    moco = imported.moco
    parameters = moco.query_encoder.trainable_variables
    buffers = {
        id(parameter): buffer
        for parameter, buffer in zip(parameters, moco.optimizer.momentum_buffers, strict=True)
    }
    arrays = in_torch_format(moco.query_encoder, imported.head, buffers)
    expected = {
        key.removeprefix("module.encoder_q."): imported.optimizer.state[parameter]
        for key, parameter in imported.model.named_parameters()
        if key.startswith("module.encoder_q.")
    }
    assert arrays.keys() == expected.keys()
    for key, array in arrays.items():
        assert np.abs(array).max() > 0
        buffer = expected[key]["momentum_buffer"].numpy()
        np.testing.assert_array_equal(array, buffer, err_msg=key)


def test_imported_encoders_compute_the_same_as_in_torch(imported):
    moco, theirs = imported.moco, imported.model["module"].eval()
    images = photographs(4, 64, 64)
    features = load_backbone(str(imported.workdir))(images, training=False)
    assert_close(features, torch_features(theirs.encoder_q, images))
    x = normalized(images)
    theirs = copy.deepcopy(imported.model).eval()
    theirs.load_state_dict(at_the_end_of_a_step(theirs.state_dict()))
    theirs = theirs["module"]
    for ours, encoder in (
        (moco.query_encoder, theirs.encoder_q),
        (moco.key_encoder, theirs.encoder_k),
    ):
        with torch.no_grad():
            expected = encoder(x).numpy()
        assert_close(ours(x.permute(0, 2, 3, 1).numpy(), training=False), expected)


def test_written_checkpoint_is_the_one_that_was_read(imported):
    assert_same_checkpoint(imported.written, imported.checkpoint)


def test_torch_continues_from_the_written_checkpoint_as_from_its_own(imported):
    states = []
    for checkpoint in (imported.checkpoint, imported.written):
        model, optimizer = reference(imported.encoder, imported.head)
        model.load_state_dict(checkpoint["state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        # The reference sets the rate at the start of an epoch.
        optimizer.param_groups[0]["lr"] = RATE
        step(model, optimizer, seed=STEPS)
        states.append((model.state_dict(), momentum({"optimizer": optimizer.state_dict()})))
    (expected, expected_momentum), (actual, actual_momentum) = states
    for key, tensor in expected.items():  # The two differ by the rounding of the key encoder.
        torch.testing.assert_close(actual[key], tensor, rtol=1e-4, atol=1e-5, msg=key)
    for index, tensor in expected_momentum.items():
        torch.testing.assert_close(actual_momentum[index], tensor, rtol=1e-3, atol=1e-4)
    kernel = "module.encoder_q.conv1.weight"
    assert (states[0][0][kernel] != imported.checkpoint["state_dict"][kernel]).any()


def test_linear_evaluation_of_the_reference_finds_every_key(imported):
    # It loads the query encoder without its head into a classifier of ImageNet's 1,000 classes.
    prefix = "module.encoder_q"
    state = {
        key[len(f"{prefix}.") :]: tensor
        for key, tensor in imported.written["state_dict"].items()
        if key.startswith(prefix) and not key.startswith(f"{prefix}.fc")
    }
    classifier = build_torch(imported.encoder, "linear", 1000)
    missing, unexpected = classifier.load_state_dict(state, strict=False)
    assert set(missing) == {"fc.weight", "fc.bias"}
    assert unexpected == []
    images = photographs(4, 64, 64)
    expected = torch_features(imported.model["module"].encoder_q, images)
    np.testing.assert_array_equal(torch_features(classifier, images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("imported", [("resnet8", "mlp")], indirect=True, ids="-".join)
def test_imported_run_is_resumed_and_evaluated(imported, tmp_path):
    """test_pytorch_runs.py checks that an imported run resumes exactly."""
    workdir = shutil.copytree(imported.workdir, tmp_path / "run")
    printed = in_process.run("train.py", *imported.flags, workdir=workdir)
    assert f"resuming from step {STEPS}" in printed
    lines = run_metrics.read_metrics(str(workdir))
    assert [line["step"] for line in lines] == list(range(STEPS + 1, 2 * STEPS + 1))
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert run_directory.latest_checkpoint(str(workdir)).endswith(f"step-{2 * STEPS}")
    in_process.run("evaluate.py", "--protocol=knn", workdir=workdir)
    assert (workdir / "eval" / "knn.json").exists()
