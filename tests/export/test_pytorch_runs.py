"""Runs that are exported as checkpoints of the reference implementation, and imported again."""

import functools
import shutil

import keras
import numpy as np
import pytest

from moco_tf import run_directory
from moco_tf.backbones import pytorch_files
from moco_tf.export import pytorch
from moco_tf.training.build import build_model
from moco_tf.training.run import load_model, start_from, train
from tests import command, in_process
from tests.export.checkpoints import (
    SCRIPT,
    assert_same_checkpoint,
    run_flags,
    saved,
    set_values,
    small_config,
)
from tests.pytorch import torch

pytestmark = pytest.mark.torch


def exported(workdir):
    moco, steps_per_epoch = load_model(str(workdir))
    return pytorch.to_checkpoint(moco, "resnet8", steps_per_epoch)


def imported(checkpoint, config, workdir):
    """Create a run from a checkpoint that `pytorch_files.read` returned."""
    start_from(functools.partial(pytorch.from_checkpoint, checkpoint=checkpoint), config, workdir)
    return workdir


@pytest.fixture(scope="module")
def stopped_run(trained_run, tmp_path_factory):
    """The trained run as it was at step 10 of 12, in the middle of its second epoch."""
    workdir = shutil.copytree(trained_run, tmp_path_factory.mktemp("stopped") / "run")
    for path in (workdir / "checkpoints").glob("step-12.*"):
        path.unlink()
    return workdir


@pytest.fixture(scope="module")
def checkpoint(stopped_run, tmp_path_factory):
    return pytorch_files.read(saved(exported(stopped_run), tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def returned_run(stopped_run, checkpoint, tmp_path_factory):
    """The stopped run, written as a checkpoint and imported again."""
    config = run_directory.read_config(str(stopped_run))
    return imported(checkpoint, config, str(tmp_path_factory.mktemp("returned") / "run"))


def assert_same_state(workdir, expected_workdir):
    state, expected = (
        # Not the description of the objects, in which a process numbers its models.
        {name: value for name, value in command.state(run).items() if not isinstance(value, bytes)}
        for run in (workdir, expected_workdir)
    )
    assert len(expected) > 50
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)


def losses(workdir):
    """Return the losses in metrics.jsonl by their steps."""
    lines = run_directory.read_metrics(str(workdir))
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_run_returns_bit_for_bit(returned_run, stopped_run, checkpoint):
    assert_same_state(returned_run, stopped_run)
    assert_same_checkpoint(exported(returned_run), checkpoint)


@pytest.mark.slow
def test_returned_run_ends_as_if_it_had_never_left(returned_run, trained_run, tmp_path):
    """The run stopped within an epoch, so images, random draws and learning rates must continue."""
    workdir = str(shutil.copytree(returned_run, tmp_path / "run"))
    config = run_directory.read_config(workdir)
    config.knn_every = 0
    train(config, workdir)
    assert_same_state(workdir, trained_run)
    expected = losses(trained_run)
    assert list(expected) == list(range(1, 13))
    assert losses(workdir) == {step: expected[step] for step in (11, 12)}


def test_checkpoint_of_a_run_holds_its_progress(checkpoint):
    assert checkpoint["epoch"] == 1
    assert checkpoint["arch"] == "resnet8"
    tensors = checkpoint["state_dict"]
    counters = {int(tensors[key]) for key in tensors if key.endswith("num_batches_tracked")}
    assert counters == {10}
    assert tensors["module.queue"].shape == (128, 100)
    assert tensors["module.queue_ptr"].tolist() == [10 * 16 % 100]
    # The second of two epochs of a cosine schedule, whose initial rate is for batches of 256.
    [group] = checkpoint["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(0.24 * 16 / 256 * 0.5, rel=1e-6)


@pytest.fixture(scope="module")
def built():
    return build_model(small_config(), steps_per_epoch=5)


@pytest.fixture
def small(built):
    """A model at step 7, which each test may change."""
    return set_values(built)


@pytest.mark.parametrize("optimizer", [None, {}, {"state": {}}], ids=["none", "empty", "no state"])
def test_momentum_starts_at_0_without_that_of_an_optimizer(small, tmp_path, optimizer):
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    if optimizer is None:
        del checkpoint["optimizer"]
    else:
        checkpoint["optimizer"] = optimizer
    assert all(np.abs(buffer.numpy()).min() > 0 for buffer in small.optimizer.momentum_buffers)
    pytorch.from_checkpoint(small, pytorch_files.read(saved(checkpoint, tmp_path)))
    assert not any(buffer.numpy().any() for buffer in small.optimizer.momentum_buffers)
    assert small.step.numpy() == 7
    assert small.optimizer.iterations.numpy() == 7


def test_checkpoint_at_step_0_has_no_momentum(small):
    small.step.assign(0)
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    assert checkpoint["epoch"] == 0
    assert checkpoint["optimizer"]["state"] == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_exactly(small, tmp_path, dtype):
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    states = [checkpoint["state_dict"], *checkpoint["optimizer"]["state"].values()]
    for tensors in states:
        for key, tensor in tensors.items():
            tensors[key] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    path = saved(checkpoint, tmp_path)
    for tensors in states:
        for key, tensor in tensors.items():
            tensors[key] = tensor.float() if tensor.is_floating_point() else tensor
    pytorch.from_checkpoint(small, pytorch_files.read(path))
    assert_same_checkpoint(pytorch.to_checkpoint(small, "resnet8", 5), checkpoint)


def test_special_values_of_float32_survive_a_run(small, photos, tmp_path):
    """The bits of -0, the smallest number, -infinity, and a NaN with a payload stay the same."""
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    bits = np.array([0x80000000, 0x00000001, 0xFF800000, 0x7FC00A0B], np.uint32)
    values = torch.from_numpy(bits.view(np.float32))
    tensors = checkpoint["state_dict"]
    for tensor in (
        tensors["module.encoder_q.conv1.weight"],
        tensors["module.encoder_k.bn1.running_var"],
        tensors["module.queue"],
        checkpoint["optimizer"]["state"][0]["momentum_buffer"],
    ):
        tensor.view(-1)[:4] = values
    content = pytorch_files.read(saved(checkpoint, tmp_path))
    workdir = imported(content, small_config(f"folder:{photos}"), str(tmp_path / "run"))
    assert_same_checkpoint(exported(workdir), checkpoint)


def test_older_format_of_torch_holds_the_same(small, tmp_path):
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    path = saved(checkpoint, tmp_path, _use_new_zipfile_serialization=False)
    assert_same_checkpoint(pytorch_files.read(path), checkpoint)


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def mixed_model(request):
    """A model in mixed precision, which Keras sets for the whole process."""
    config = small_config()
    config.precision = request.param
    yield build_model(config, steps_per_epoch=5)
    keras.config.set_dtype_policy("float32")


def test_model_of_mixed_precision_returns_the_same(small, mixed_model, tmp_path):
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    pytorch.from_checkpoint(mixed_model, pytorch_files.read(saved(checkpoint, tmp_path)))
    assert mixed_model.step.numpy() == 7
    assert mixed_model.optimizer.iterations.numpy() == 7
    assert_same_checkpoint(pytorch.to_checkpoint(mixed_model, "resnet8", 5), checkpoint)


def test_import_notes_what_a_checkpoint_lacks(small, photos, tmp_path):
    """The optimizer may be missing from a published checkpoint."""
    state_dict = pytorch.to_checkpoint(small, "resnet8", 5)["state_dict"]
    path = saved({"epoch": 199, "state_dict": state_dict}, tmp_path)
    flags = (f"--checkpoint={path}", *run_flags(photos))
    output = in_process.run(SCRIPT, *flags, workdir=tmp_path / "run")
    notes = [line for line in output.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2
    assert all(path in note for note in notes)
    assert "no momentum buffers" in notes[0]
    for fact in ("step 7", "199 epochs", "1.40"):  # 7 steps at 5 per epoch
        assert fact in notes[1]
