"""Runs of ours as checkpoints of the reference's format, and what comes of these: the same runs."""

import functools
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import run_directory
from moco_tf.backbones import loading
from moco_tf.export import pytorch
from moco_tf.training.build import build_model
from moco_tf.training.run import start_from
from tests import in_process
from tests.export.checkpoints import (
    BATCH,
    DIM,
    KEYS,
    SCRIPT,
    assert_same_checkpoint,
    saved,
    set_numbers,
    settings,
    small_config,
)
from tests.images import write_folder
from tests.pytorch import torch


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of 20 images: five steps of 8 an epoch."""
    return write_folder(tmp_path_factory.mktemp("images") / "photos", each=20, side=32)


# Runs of ours.


def state(workdir):
    """Every number of the newest checkpoint but the count of saves."""
    reader = tf.train.load_checkpoint(run_directory.latest_checkpoint(str(workdir)))
    values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, np.ndarray | np.number) and "save_counter" not in name
    }


def assert_same_state(found, expected):
    found, expected = state(found), state(expected)
    assert found.keys() == expected.keys() and len(expected) > 50
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


class ThereAndBack:
    """A run to step 10; the same when it stood at step 8, in the midst of its second epoch; that
    as a checkpoint, and a run that was made of the checkpoint."""

    def __init__(self, photos, folder):
        self.finished, self.before = folder / "finished", folder / "before"
        self.imported, self.resumed = folder / "imported", folder / "resumed"
        overrides = (*settings(photos), "--config.head=mlp")
        in_process.run("train.py", *overrides, f"--workdir={self.finished}")
        shutil.copytree(self.finished, self.before)
        newest = self.before / "checkpoints" / "checkpoint"
        newest.write_text('model_checkpoint_path: "step-8"\n')
        self.checkpoint = pytorch.read(saved(exported(self.before), folder))
        fill = functools.partial(pytorch.from_checkpoint, checkpoint=self.checkpoint)
        config = run_directory.read_config(str(self.before))
        start_from(fill, config, str(self.imported))
        shutil.copytree(self.imported, self.resumed)
        in_process.run("train.py", *overrides, f"--workdir={self.resumed}")


def exported(workdir):
    moco, steps_per_epoch = loading.load_model(str(workdir))
    return pytorch.to_checkpoint(moco, "resnet8", steps_per_epoch)


@pytest.fixture(scope="module")
def ours(photos, tmp_path_factory):
    return ThereAndBack(photos, tmp_path_factory.mktemp("ours"))


def test_a_run_there_and_back_is_the_same_bit_for_bit(ours):
    assert_same_state(ours.imported, ours.before)
    assert_same_checkpoint(exported(ours.imported), ours.checkpoint)


def test_an_imported_run_ends_as_if_it_had_never_left(ours):
    """Though it was in the midst of an epoch: images, random draws and rates go on from there."""
    assert_same_state(ours.resumed, ours.finished)
    lines = [
        [(line["step"], line["loss"]) for line in run_directory.read_metrics(str(workdir))]
        for workdir in (ours.finished, ours.resumed)
    ]
    assert [step for step, _ in lines[0]] == list(range(1, 11))
    assert lines[0][8:] == lines[1]


def test_the_checkpoint_of_a_run_says_where_it_stands(ours):
    assert (ours.checkpoint["epoch"], ours.checkpoint["arch"]) == (1, "resnet8")
    tensors = ours.checkpoint["state_dict"]
    counters = {int(tensors[key]) for key in tensors if key.endswith("num_batches_tracked")}
    assert counters == {8}
    assert tensors["module.queue"].shape == (DIM, KEYS)
    assert tensors["module.queue_ptr"].tolist() == [8 * BATCH % KEYS]
    # A cosine over two epochs, in its second, of a rate for batches of 256.
    [group] = ours.checkpoint["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(0.24 * BATCH / 256 * 0.5, rel=1e-6)


# Checkpoints of other kinds, on a small model.


@pytest.fixture(scope="module")
def built():
    return build_model(small_config(), steps_per_epoch=5)


@pytest.fixture
def small(built):
    """A model that stands at step 7, for each test to do with as it likes."""
    return set_numbers(built)


@pytest.mark.parametrize("optimizer", [None, {}, {"state": {}}], ids=["none", "empty", "no state"])
def test_without_an_optimizers_state_the_momentum_starts_at_0(small, tmp_path, optimizer):
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    if optimizer is None:
        del checkpoint["optimizer"]
    else:
        checkpoint["optimizer"] = optimizer
    assert all(np.abs(buffer.numpy()).min() > 0 for buffer in small.optimizer.momentum_buffers)
    pytorch.from_checkpoint(small, pytorch.read(saved(checkpoint, tmp_path)))
    assert not any(buffer.numpy().any() for buffer in small.optimizer.momentum_buffers)
    assert small.step.numpy() == small.optimizer.iterations.numpy() == 7


def test_before_the_first_step_there_is_no_momentum_to_write(small):
    small.step.assign(0)
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    assert checkpoint["epoch"] == 0 and checkpoint["optimizer"]["state"] == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_taken_over_exactly(small, tmp_path, dtype):
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    states = [checkpoint["state_dict"], *checkpoint["optimizer"]["state"].values()]
    for tensors in states:
        for key, tensor in tensors.items():
            tensors[key] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    path = saved(checkpoint, tmp_path)
    for tensors in states:
        for key, tensor in tensors.items():
            tensors[key] = tensor.float() if tensor.is_floating_point() else tensor
    pytorch.from_checkpoint(small, pytorch.read(path))
    written = pytorch.to_checkpoint(small, "resnet8", 5)
    assert_same_checkpoint(written, checkpoint)


def test_numbers_at_the_edges_of_float32_survive_a_run(small, tmp_path):
    """Bit for bit: -0, the smallest number, infinity, and a NaN with a message in it."""
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    bits = np.array([0x80000000, 0x00000001, 0xFF800000, 0x7FC00A0B], np.uint32)
    odd = torch.from_numpy(bits.view(np.float32))
    tensors = checkpoint["state_dict"]
    for tensor in (
        tensors["module.encoder_q.conv1.weight"],
        tensors["module.encoder_k.bn1.running_var"],
        tensors["module.queue"],
        checkpoint["optimizer"]["state"][0]["momentum_buffer"],
    ):
        tensor.view(-1)[:4] = odd
    workdir, content = str(tmp_path / "run"), pytorch.read(saved(checkpoint, tmp_path))
    fill = functools.partial(pytorch.from_checkpoint, checkpoint=content)
    start_from(fill, small_config(), workdir)
    written = pytorch.to_checkpoint(loading.load_model(workdir)[0], "resnet8", 5)
    assert_same_checkpoint(written, checkpoint)


def test_torchs_older_format_holds_the_same(small, tmp_path):
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    path = saved(checkpoint, tmp_path, _use_new_zipfile_serialization=False)
    assert_same_checkpoint(pytorch.read(path), checkpoint)


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def mixed(request):
    """A model of that precision, which Keras keeps for the whole process."""
    config = small_config()
    config.precision = request.param
    yield build_model(config, steps_per_epoch=5)
    keras.config.set_dtype_policy("float32")


def test_runs_of_mixed_precision_go_there_and_back(small, mixed, tmp_path):
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    pytorch.from_checkpoint(mixed, pytorch.read(saved(checkpoint, tmp_path)))
    assert mixed.step.numpy() == mixed.optimizer.iterations.numpy() == 7
    written = pytorch.to_checkpoint(mixed, "resnet8", 5)
    assert_same_checkpoint(written, checkpoint)


def test_what_a_checkpoint_lacks_is_said(small, photos, tmp_path):
    """As of a file that somebody stripped for publication."""
    checkpoint = pytorch.to_checkpoint(small, "resnet8", 5)
    path = saved({"epoch": 199, "state_dict": checkpoint["state_dict"]}, tmp_path)
    workdir = f"--workdir={tmp_path / 'run'}"
    output = in_process.run(SCRIPT, f"--checkpoint={path}", *settings(photos), workdir)
    notes = [line for line in output.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2 and all(path in note for note in notes)
    assert "no momentum buffers" in notes[0]
    assert "step 7" in notes[1] and "199 epochs" in notes[1] and "1.40" in notes[1]
