"""Runs that are exported as checkpoints of the reference implementation, and imported again."""

import functools
import shutil

import keras
import numpy as np
import pytest

from moco_tf import load_backbone, run_directory, run_metrics
from moco_tf.backbones import pytorch_files
from moco_tf.backbones.reference_checkpoint import from_checkpoint, to_checkpoint
from moco_tf.training.build import build_model
from moco_tf.training.run import train
from moco_tf.training.run_model import load_model, start_from
from tests import command, in_process
from tests.export.checkpoints import (
    SCRIPT,
    assert_same_checkpoint,
    refusal,
    run_flags,
    saved,
    set_values,
    small_config,
)
from tests.pytorch import torch

pytestmark = pytest.mark.torch


def exported(workdir):
    moco, steps_per_epoch = load_model(str(workdir))
    return to_checkpoint(moco, "resnet8", steps_per_epoch)


def imported(checkpoint, config, workdir):
    """Create a run from a checkpoint that `pytorch_files.read` returned."""
    start_from(
        functools.partial(from_checkpoint, checkpoint=checkpoint),
        config,
        workdir,
    )
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


def assert_same_state(workdir, expected_workdir, tolerance):
    """Compare two checkpoints bit for bit, except for the parameters of the key encoder."""
    state, expected = (
        # Not the description of the objects, in which a process numbers its models.
        {name: value for name, value in command.state(run).items() if not isinstance(value, bytes)}
        for run in (workdir, expected_workdir)
    )
    assert len(expected) > 50
    assert state.keys() == expected.keys()
    rounded = [name for name in expected if "/key_encoder/" in name and "moving" not in name]
    assert len(rounded) > 10
    for name, value in expected.items():
        limit = max(tolerance, 2.5e-7 if name in rounded else 0)
        np.testing.assert_allclose(state[name], value, rtol=limit, atol=limit, err_msg=name)


def losses(workdir):
    """Return the losses in metrics.jsonl by their steps."""
    lines = run_metrics.read_metrics(str(workdir))
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_run_returns_but_for_the_rounding_of_the_key_encoder(returned_run, stopped_run, checkpoint):
    assert_same_state(returned_run, stopped_run, tolerance=0)
    assert_same_checkpoint(exported(returned_run), checkpoint)


@pytest.mark.slow
def test_returned_run_ends_as_if_it_had_never_left(returned_run, trained_run, tmp_path):
    """The run stopped within an epoch, so images, random draws and learning rates must continue."""
    workdir = str(shutil.copytree(returned_run, tmp_path / "run"))
    config = run_directory.read_config(workdir)
    config.knn_every = 0
    train(config, workdir)
    assert_same_state(workdir, trained_run, tolerance=1e-4)
    expected = losses(trained_run)
    assert list(expected) == list(range(1, 13))
    assert losses(workdir) == pytest.approx({step: expected[step] for step in (11, 12)}, rel=1e-5)


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


def test_checkpoint_at_step_0_has_no_momentum(small):
    small.step.assign(0)
    checkpoint = to_checkpoint(small, "resnet8", 5)
    assert checkpoint["epoch"] == 0
    assert checkpoint["optimizer"]["state"] == {}
    assert from_checkpoint(small, checkpoint)  # It is complete.
    assert not any(buffer.numpy().any() for buffer in small.optimizer.momentum_buffers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_exactly(small, tmp_path, dtype):
    checkpoint = to_checkpoint(small, "resnet8", 5)
    states = [checkpoint["state_dict"], *checkpoint["optimizer"]["state"].values()]
    for tensors in states:
        for key, tensor in tensors.items():
            tensors[key] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    path = saved(checkpoint, tmp_path)
    for tensors in states:
        for key, tensor in tensors.items():
            tensors[key] = tensor.float() if tensor.is_floating_point() else tensor
    from_checkpoint(small, pytorch_files.read(path))
    assert_same_checkpoint(to_checkpoint(small, "resnet8", 5), checkpoint)


def test_special_values_of_float32_survive_a_run(small, photos, tmp_path):
    """The bits of -0, and of the smallest and the largest numbers, stay the same."""
    checkpoint = to_checkpoint(small, "resnet8", 5)
    bits = np.array([0x80000000, 0x00000001, 0x80800000, 0x7F7FFFFF], np.uint32)
    values = torch.from_numpy(bits.view(np.float32))
    tensors = checkpoint["state_dict"]
    for tensor in (
        tensors["module.encoder_q.bn1.running_mean"],
        tensors["module.encoder_k.bn1.running_var"],
        tensors["module.queue"],
        checkpoint["optimizer"]["state"][0]["momentum_buffer"],
    ):
        tensor.view(-1)[:4] = values
    content = pytorch_files.read(saved(checkpoint, tmp_path))
    workdir = imported(content, small_config(f"folder:{photos}"), str(tmp_path / "run"))
    assert_same_checkpoint(exported(workdir), checkpoint)


def test_older_format_of_torch_holds_the_same(small, tmp_path):
    checkpoint = to_checkpoint(small, "resnet8", 5)
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
    checkpoint = to_checkpoint(small, "resnet8", 5)
    from_checkpoint(mixed_model, pytorch_files.read(saved(checkpoint, tmp_path)))
    assert mixed_model.step.numpy() == 7
    assert mixed_model.optimizer.iterations.numpy() == 7
    assert_same_checkpoint(to_checkpoint(mixed_model, "resnet8", 5), checkpoint)


def test_import_notes_an_epoch_of_another_length(small, photos, tmp_path):
    path = saved(to_checkpoint(small, "resnet8", 5) | {"epoch": 199}, tmp_path)
    flags = (f"--checkpoint={path}", *run_flags(photos))
    output = in_process.run(SCRIPT, *flags, workdir=tmp_path / "run")
    [note] = [line for line in output.splitlines() if line.startswith("note: ")]
    for fact in (path, "step 7", "199 epochs", "1.40"):  # 7 steps at 5 per epoch
        assert fact in note


@pytest.mark.parametrize("part", ["query_encoder", "key_encoder", "queue", "optimizer"])
def test_run_that_is_not_finite_is_not_exported(small, part):
    variable = {
        "query_encoder": small.query_encoder.weights[0],
        "key_encoder": small.key_encoder.weights[-1],
        "queue": small.queue.keys,
        "optimizer": small.optimizer.momentum_buffers[3],
    }[part]
    variable.assign(np.full(variable.shape, np.nan))
    message = refusal(to_checkpoint, small, "resnet8", 5)
    assert f"the run holds NaN or infinity in the weight {variable.path}" in message


@pytest.fixture
def published(small, tmp_path):
    """A file as published by facebookresearch/moco: the query encoder, without the training."""
    checkpoint = to_checkpoint(small, "resnet8", 5)
    tensors = {k: v for k, v in checkpoint["state_dict"].items() if "encoder_q" in k}
    return saved({"epoch": 200, "arch": "resnet8", "state_dict": tensors}, tmp_path)


def test_query_encoder_alone_starts_a_new_run(small, published, photos, tmp_path):
    flags = (f"--checkpoint={published}", *run_flags(photos))
    workdir = tmp_path / "run"
    output = in_process.run(SCRIPT, *flags, workdir=workdir)
    [note] = [line for line in output.splitlines() if line.startswith("note: ")]
    assert note == (
        f"note: {published} holds the query encoder alone, so a new run starts from it: the key "
        "encoder is a copy, the queue is random, and the momentum buffers are 0"
    )
    assert output.endswith(f"wrote {workdir}, a run at step 0\n")

    model, _ = load_model(str(workdir))
    for encoder in (model.query_encoder, model.key_encoder):
        for weight, expected in zip(encoder.weights, small.query_encoder.weights, strict=True):
            np.testing.assert_array_equal(weight.numpy(), expected.numpy())
    config = run_directory.read_config(str(workdir))
    new = build_model(config, steps_per_epoch=5)
    np.testing.assert_array_equal(model.queue.keys.numpy(), new.queue.keys.numpy())
    np.testing.assert_allclose(np.linalg.norm(model.queue.keys.numpy(), axis=1), 1, rtol=1e-5)
    assert not any(buffer.numpy().any() for buffer in model.optimizer.momentum_buffers)
    counters = (model.queue.pointer, model.step, model.optimizer.iterations)
    assert [int(counter.numpy()) for counter in counters] == [0, 0, 0]


@pytest.mark.slow
def test_run_that_starts_from_a_query_encoder_trains(published, photos, tmp_path):
    flags = run_flags(photos)
    in_process.run(SCRIPT, f"--checkpoint={published}", *flags, workdir=tmp_path / "run")
    before = load_backbone(str(tmp_path / "run")).get_weights()
    in_process.run("train.py", *flags, workdir=tmp_path / "run")
    assert list(losses(tmp_path / "run")) == list(range(1, 11))
    after = load_backbone(str(tmp_path / "run")).get_weights()
    assert all((a != b).any() for a, b in zip(after, before, strict=True) if a.ndim == 4)


def test_config_is_blamed_where_a_shape_does_not_fit(published, photos, tmp_path):
    flags = (f"--checkpoint={published}", *run_flags(photos), "--config.dim=16")
    message = in_process.run_mistake(SCRIPT, *flags, workdir=tmp_path / "run")
    assert f"{published} does not match config.encoder=resnet8" in message
    assert "dim=16" in message
    assert "'module.encoder_q.fc.weight' has shape (12, 64), expected (16, 64)" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module._orig_mod."])
def test_prefix_of_a_checkpoint_is_found(small, prefix):
    checkpoint = to_checkpoint(small, "resnet8", 5)
    tensors = checkpoint["state_dict"]
    checkpoint["state_dict"] = {
        prefix + key.removeprefix("module."): tensor for key, tensor in tensors.items()
    }
    assert from_checkpoint(small, checkpoint)
    assert_same_checkpoint(to_checkpoint(small, "resnet8", 5), checkpoint | {"state_dict": tensors})
