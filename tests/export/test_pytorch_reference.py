"""Checkpoints of the reference, trained by PyTorch itself, as runs of ours and back."""

import contextlib
import itertools
import shutil

import numpy as np
import pytest

from moco_tf import load_backbone, run_directory
from moco_tf.training.run import load_model
from moco_tf.export import pytorch
from tests import in_process
from tests.export.checkpoints import (
    BATCH,
    KEYS,
    RATE,
    SCRIPT,
    STEPS,
    assert_close,
    assert_identical,
    assert_same_checkpoint,
    momentum,
    normalized,
    photographs,
    reference,
    saved,
    settings,
    without_classifier,
)
from tests.images import write_folder
from tests.pytorch import torch, torchvision

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
for _stage, _block in itertools.product((1, 2, 3, 4), (1, 2)):
    for _ours, _theirs in {
        "1_conv": "conv1",
        "1_bn": "bn1",
        "2_conv": "conv2",
        "2_bn": "bn2",
        "shortcut_conv": "downsample.0",
        "shortcut_bn": "downsample.1",
    }.items():
        LAYERS[f"stage{_stage}_block{_block}_{_ours}"] = f"layer{_stage}.{_block - 1}.{_theirs}"


def step(model, optimizer, seed):
    """A training step of MoCo on random images."""
    moco = model["module"].train()
    images_q, images_k = torch.randn(2, BATCH, 3, 32, 32, generator=generator(seed))
    pairs = zip(moco.encoder_q.parameters(), moco.encoder_k.parameters(), strict=True)
    with torch.no_grad():
        for parameter_q, parameter_k in pairs:
            parameter_k.lerp_(parameter_q, 0.01)
        k = torch.nn.functional.normalize(moco.encoder_k(images_k))
    q = torch.nn.functional.normalize(moco.encoder_q(images_q))
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ moco.queue], 1) / 0.07
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(logits, torch.zeros(BATCH, dtype=torch.long)).backward()
    optimizer.step()
    first = int(moco.queue_ptr)
    moco.queue[:, first : first + BATCH] = k.T
    moco.queue_ptr[0] = (first + BATCH) % KEYS


def generator(seed):
    return torch.Generator().manual_seed(seed)


def under_torchs_names(encoder, head, values=None):
    """`{key: array}` of an encoder's variables, or of what `values` has for their ids."""
    found = {}
    for layer in encoder.backbone.layers + encoder.head.layers:
        for variable in layer.variables:
            value = variable if values is None else values.get(id(variable))
            if value is not None:
                name = (LAYERS | HEADS[head])[layer.name]
                value = value.numpy()
                axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]
                found[f"{name}.{PARTS[variable.name]}"] = value.transpose(axes)
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of 20 images: five steps of 8 an epoch."""
    return write_folder(tmp_path_factory.mktemp("images") / "photos", each=20, side=32)


class Imported:
    """A checkpoint of the reference, the run that was made of it, and what came of that."""

    def __init__(self, head, photos, folder):
        self.head = head
        self.model, self.optimizer = reference(head)
        for seed in range(STEPS):
            step(self.model, self.optimizer, seed)
        self.checkpoint = {
            "epoch": 1,
            "arch": "resnet18",
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        theirs = saved(self.checkpoint, folder)
        workdir, self.resumed, written = folder / "run", folder / "resumed", folder / "ours.pth.tar"
        overrides = (
            *settings(photos),
            "--config.encoder=resnet18",
            "--config.stem=imagenet",
            f"--config.head={head}",
            "--config.schedule=step",
            f"--config.learning_rate={RATE}",
            "--config.scale_learning_rate=False",
            "--config.checkpoint_every=100",
        )
        self.said = in_process.run(
            SCRIPT, f"--checkpoint={theirs}", f"--workdir={workdir}", *overrides
        )
        self.moco, steps_per_epoch = load_model(str(workdir))
        self.backbone = load_backbone(str(workdir))
        if head == "linear":
            shutil.copytree(workdir, self.resumed)
            self.trained = in_process.run("train.py", f"--workdir={self.resumed}", *overrides)
            self.evaluated = in_process.run("evaluate.py", "--protocol=knn", f"--workdir={workdir}")
            in_process.run(SCRIPT, f"--workdir={workdir}", f"--out={written}")
        else:
            torch.save(pytorch.to_checkpoint(self.moco, "resnet18", steps_per_epoch), written)
        # As the reference reads it, whose scripts give no other argument.
        self.written = torch.load(written, map_location="cpu")


@pytest.fixture(scope="module", params=["linear", "mlp"])
def imported(request, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)  # most of a gigabyte
        yield Imported(request.param, photos, folder)


def test_the_imported_run_holds_every_number_of_the_reference(imported):
    moco, wanted = imported.moco, imported.checkpoint["state_dict"]
    buffers = {
        id(variable): buffer
        for variable, buffer in zip(
            moco.query_encoder.trainable_variables, moco.optimizer.momentum_buffers, strict=True
        )
    }
    found = {
        "module.queue": moco.queue.keys.numpy().T,
        "module.queue_ptr": moco.queue.pointer.numpy()[np.newaxis],
    }
    for prefix, encoder in (("q", moco.query_encoder), ("k", moco.key_encoder)):
        arrays = under_torchs_names(encoder, imported.head)
        found |= {f"module.encoder_{prefix}.{key}": array for key, array in arrays.items()}
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    assert found.keys() == wanted.keys() - counters and len(counters) == 40
    for key, array in found.items():
        np.testing.assert_array_equal(array, wanted[key].numpy(), err_msg=key)

    theirs = {
        key.removeprefix("module.encoder_q."): imported.optimizer.state[parameter]
        for key, parameter in imported.model.named_parameters()
        if key.startswith("module.encoder_q.")
    }
    found = under_torchs_names(moco.query_encoder, imported.head, buffers)
    assert found.keys() == theirs.keys()
    for key, array in found.items():
        assert np.abs(array).max() > 0
        np.testing.assert_array_equal(array, theirs[key]["momentum_buffer"].numpy(), err_msg=key)

    assert moco.queue.pointer.numpy() == 16
    assert {int(wanted[key]) for key in counters} == {STEPS}
    assert moco.step.numpy() == moco.optimizer.iterations.numpy() == STEPS
    assert f"step {STEPS}" in imported.said and "note" not in imported.said


def test_the_imported_encoders_compute_what_torchs_do(imported):
    theirs, x = imported.model["module"].eval(), normalized(photographs())
    found = imported.backbone(photographs(), training=False).numpy()
    assert_close(found, without_classifier(theirs.encoder_q, photographs()))
    for ours, encoder in (
        (imported.moco.query_encoder, theirs.encoder_q),
        (imported.moco.key_encoder, theirs.encoder_k),
    ):
        with torch.no_grad():
            expected = encoder(x).numpy()
        assert_close(ours(x.permute(0, 2, 3, 1).numpy(), training=False).numpy(), expected)


def test_the_checkpoint_written_back_is_the_one_that_was_read(imported):
    assert_same_checkpoint(imported.written, imported.checkpoint)


def test_torch_goes_on_from_the_written_checkpoint_as_from_its_own(imported):
    after = []
    for checkpoint in (imported.checkpoint, imported.written):
        model, optimizer = reference(imported.head)
        model.load_state_dict(checkpoint["state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        optimizer.param_groups[0]["lr"] = RATE  # the reference sets it at the start of an epoch
        step(model, optimizer, seed=STEPS)
        after.append((model.state_dict(), momentum({"optimizer": optimizer.state_dict()})))
    for expected, found in zip(*after, strict=True):
        assert_identical(found, expected)
    moved = after[0][0]["module.encoder_q.conv1.weight"]
    assert (moved != imported.checkpoint["state_dict"]["module.encoder_q.conv1.weight"]).any()


def test_the_references_linear_evaluation_finds_every_key_that_it_expects(imported):
    # It takes what begins so, without the head, into a classifier of ImageNet.
    prefix = "module.encoder_q"
    state = {
        key[len(f"{prefix}.") :]: tensor
        for key, tensor in imported.written["state_dict"].items()
        if key.startswith(prefix) and not key.startswith(f"{prefix}.fc")
    }
    classifier = torchvision.models.resnet18()
    missing, unexpected = classifier.load_state_dict(state, strict=False)
    assert set(missing) == {"fc.weight", "fc.bias"} and unexpected == []
    expected = without_classifier(imported.model["module"].encoder_q, photographs())
    np.testing.assert_array_equal(without_classifier(classifier, photographs()), expected)


@pytest.mark.parametrize("imported", ["linear"], indirect=True)
def test_an_imported_run_is_resumed_and_evaluated(imported):
    """With one head; a run with the other is resumed in test_pytorch_runs.py, bit for bit."""
    assert f"going on from step {STEPS}" in imported.trained
    lines = run_directory.read_metrics(str(imported.resumed))
    assert [line["step"] for line in lines] == list(range(STEPS + 1, 11))
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert run_directory.latest_checkpoint(str(imported.resumed)).endswith("step-10")
    assert "knn of" in imported.evaluated
