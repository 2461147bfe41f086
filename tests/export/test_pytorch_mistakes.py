"""Checkpoints of another model, or of none: each ends in one line that names the key."""

import functools
import os

import pytest

from moco_tf.backbones import pytorch_files
from moco_tf.export import pytorch
from moco_tf.training.run import start_from
from tests import in_process
from tests.command import run_mistake
from tests.export.checkpoints import (
    BATCH,
    DIM,
    KEYS,
    SCRIPT,
    Calls,
    refusal,
    saved,
    settings,
    small_config,
    small_model,
)
from tests.images import write_folder
from tests.pytorch import torch

Q, K = "module.encoder_q.", "module.encoder_k."
COUNTER = f"{Q}bn1.num_batches_tracked"


@pytest.fixture(scope="module")
def moco():
    return small_model()


@pytest.fixture(scope="module")
def good(moco, tmp_path_factory):
    return saved(pytorch.to_checkpoint(moco, "resnet8", 5), tmp_path_factory.mktemp("good"))


@pytest.fixture
def checkpoint(good):
    """One that fits, for each test to spoil."""
    return pytorch_files.read(good)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "photos", each=BATCH, side=32)


# Checkpoints that can be read, and do not fit.


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "module.queue",
            torch.zeros(DIM, 25),
            f"shape ({DIM}, 25), expected ({DIM}, {KEYS})",
        ),
        ("module.queue", torch.zeros(16, KEYS), f"shape (16, {KEYS})"),
        ("module.queue", torch.zeros(KEYS, DIM), f"shape ({KEYS}, {DIM})"),
        ("module.queue", torch.zeros(DIM, KEYS, dtype=torch.int32), "holds int32"),
        ("module.queue_ptr", torch.tensor([KEYS]), "holds 24"),
        ("module.queue_ptr", torch.tensor([-1]), "holds -1"),
        ("module.queue_ptr", torch.tensor([1, 2]), "shape (2,)"),
        ("module.queue_ptr", torch.tensor([0.5]), "holds float32"),
        (COUNTER, torch.tensor(-1), "holds -1"),
        (COUNTER, torch.tensor([5]), "shape (1,)"),
        (COUNTER, torch.tensor(5.0), "holds float32"),
        (f"{Q}conv1.weight", torch.zeros(64, 3, 7, 7), "shape (64, 3, 7, 7)"),
        (f"{K}layer3.0.conv2.weight", torch.zeros(64, 64, 1, 1), "here it is (64, 64, 3, 3)"),
        (f"{K}bn1.running_var", torch.zeros(16, dtype=torch.int64), "holds int64"),
        (f"{Q}fc.weight", torch.zeros(128, 64), f"here it is ({DIM}, 64)"),
        (f"{Q}fc.weight", torch.zeros(DIM, 64, dtype=torch.complex64), "holds complex64"),
        (f"{Q}fc.weight", torch.zeros(DIM, 64, dtype=torch.bool), "holds bool"),
        (f"{Q}fc.weight", torch.zeros(DIM, 64).to_sparse(), "no plain tensor"),
        (f"{Q}fc.weight", torch.zeros(DIM, 64, device="meta"), "no plain tensor"),
        (f"{Q}fc.weight", "zeros", "no plain tensor"),
        (f"{K}fc.bias", [0.0] * DIM, "no plain tensor"),
        (f"{K}fc.bias", None, "no plain tensor"),
        # Surplus: of a deeper network, of a v2 head, of other methods, of a model that nothing
        # wraps, and one of a convolution where only BatchNormalization has it.
        (f"{Q}layer4.0.conv1.weight", torch.zeros(1), "has no place"),
        (f"{K}fc.2.weight", torch.zeros(1), "has no place"),
        (f"{K}conv1.bias", torch.zeros(16), "has no place"),
        ("module.predictor.weight", torch.zeros(1), "none of a MoCo checkpoint's"),
        ("encoder_q.conv1.weight", torch.zeros(1), "none of a MoCo checkpoint's"),
        (f"{Q}conv1.num_batches_tracked", torch.tensor(7), "has no place"),
        (f"{K}fc.num_batches_tracked", torch.tensor(7), "has no place"),
        # Beyond int64; and half the memory of the world, from a file of two bytes.
        (COUNTER, torch.tensor(2**63, dtype=torch.uint64), "holds"),
        (f"{Q}fc.weight", torch.zeros((), dtype=torch.half).expand(2**46), "no plain tensor"),
    ],
)
def test_a_value_that_does_not_fit_is_named(moco, checkpoint, tmp_path, key, value, words):
    checkpoint["state_dict"][key] = value
    content = pytorch_files.read(saved(checkpoint, tmp_path))
    line = refusal(pytorch.from_checkpoint, moco, content)
    assert f"'{key}'" in line and words in line, line


@pytest.mark.parametrize(
    "key",
    [
        "module.queue",
        "module.queue_ptr",
        COUNTER,
        f"{Q}layer2.0.downsample.1.running_mean",
        f"{K}fc.bias",
    ],
)
def test_a_missing_key_is_named(moco, checkpoint, tmp_path, key):
    del checkpoint["state_dict"][key]
    content = pytorch_files.read(saved(checkpoint, tmp_path))
    assert f"'{key}' is missing" in refusal(pytorch.from_checkpoint, moco, content)


@pytest.mark.parametrize(
    ("index", "value", "words"),
    [
        (3, None, "is missing"),
        (0, {"momentum_buffer": torch.zeros(64, 3, 7, 7)}, "shape (64, 3, 7, 7)"),
        (1, {"momentum_buffer": torch.zeros(16, dtype=torch.int64)}, "holds int64"),
        (2, {"momentum_buffer": [0.0]}, "no plain tensor"),
        (4, {"exp_avg": torch.zeros(16)}, "not SGD's"),
        (5, [torch.zeros(16)], "not SGD's"),
        (29, {"momentum_buffer": torch.zeros(16)}, "no place"),  # there are 29, from 0 on
    ],
)
def test_momentum_that_does_not_fit_is_named(moco, checkpoint, tmp_path, index, value, words):
    state = checkpoint["optimizer"]["state"]
    assert list(state) == list(range(29))
    state[index] = value
    if value is None:
        del state[index]
    content = pytorch_files.read(saved(checkpoint, tmp_path))
    line = refusal(pytorch.from_checkpoint, moco, content)
    assert f"optimizer state {index}" in line and words in line, line


@pytest.mark.parametrize("value", [["module.queue"], None, torch.zeros(3)])
def test_a_state_dict_that_is_no_dictionary(moco, checkpoint, tmp_path, value):
    checkpoint["state_dict"] = value
    content = pytorch_files.read(saved(checkpoint, tmp_path))
    line = "the key 'state_dict' holds no state dict"
    assert refusal(pytorch.from_checkpoint, moco, content) == line
    assert (
        refusal(pytorch_files.backbone_from_checkpoint, moco.query_encoder.backbone, content)
        == line
    )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("conv1.weight", None, "is missing"),
        ("conv1.weight", torch.zeros(64, 3, 7, 7), "shape (64, 3, 7, 7)"),
        ("layer1.0.downsample.0.weight", torch.zeros(16, 16, 1, 1), "has no place"),
        ("layer1.0.bn2.running_var", torch.zeros(16, dtype=torch.int64), "holds int64"),
    ],
)
@pytest.mark.parametrize("prefix", ["", Q])
def test_a_backbone_that_does_not_fit_names_the_key(
    moco, checkpoint, tmp_path, prefix, key, value, words
):
    tensors = {
        prefix + name.removeprefix(Q): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(Q)
    }
    tensors[prefix + key] = value
    if value is None:
        del tensors[prefix + key]
    content = pytorch_files.read(saved(tensors, tmp_path))
    line = refusal(pytorch_files.backbone_from_checkpoint, moco.query_encoder.backbone, content)
    assert f"'{prefix + key}'" in line and words in line, line


def test_a_key_that_would_move_the_cursor_is_printed_harmlessly(moco, checkpoint, tmp_path):
    checkpoint["state_dict"]["\x1b[2Jmodule.queue"] = torch.zeros(1)
    content = pytorch_files.read(saved(checkpoint, tmp_path))
    assert refusal(pytorch.from_checkpoint, moco, content).isprintable()


def test_a_run_has_one_step_for_queries_and_keys(moco, checkpoint, tmp_path):
    key = f"{K}layer1.0.bn1.num_batches_tracked"
    checkpoint["state_dict"][key] = torch.tensor(8)
    content = pytorch_files.read(saved(checkpoint, tmp_path))
    assert f"'{key}'" in refusal(pytorch.from_checkpoint, moco, content)


# The script.


def importing(path, workdir, photos, *overrides):
    arguments = (f"--checkpoint={path}", f"--workdir={workdir}")
    return (SCRIPT, *arguments, *settings(photos), *overrides)


def test_a_checkpoint_of_another_architecture_leaves_nothing_behind(checkpoint, photos, tmp_path):
    path, workdir = saved(checkpoint, tmp_path), tmp_path / "run"
    line = run_mistake(*importing(path, workdir, photos, "--config.encoder=resnet14"))
    assert path in line and "config.encoder=resnet14" in line
    assert "'module.encoder_q.layer1.1.conv1.weight' is missing" in line
    assert not workdir.exists()


def test_code_in_a_checkpoint_leaves_nothing_behind(checkpoint, photos, tmp_path):
    marker, workdir = tmp_path / "executed", tmp_path / "run"
    checkpoint["state_dict"]["module.queue"] = Calls(os.system, f"touch {marker}")
    path = saved(checkpoint, tmp_path)
    line = in_process.run_mistake(*importing(path, workdir, photos))
    assert f"{path} holds more than tensors, posix.system" in line
    assert not workdir.exists() and not marker.exists()


def test_an_epoch_that_is_no_number(checkpoint, photos, tmp_path):
    """It is only compared with ours, and may be anything."""
    checkpoint["epoch"] = torch.zeros(2)
    path = saved(checkpoint, tmp_path)
    assert "step 7" in in_process.run(*importing(path, tmp_path / "run", photos))


def test_a_backbone_of_another_architecture(checkpoint, tmp_path):
    path, out = saved(checkpoint, tmp_path), tmp_path / "saved_model"
    for script in (SCRIPT, "export/saved_model.py"):
        line = in_process.run_mistake(
            script, f"--checkpoint={path}", "--encoder=resnet18", f"--out={out}"
        )
        assert path in line and "--encoder=resnet18" in line and "--stem=imagenet" in line
    assert "'module.encoder_q." in line
    assert list(tmp_path.iterdir()) == [tmp_path / "checkpoint.pth.tar"]


def import_here(path, workdir):
    fill = functools.partial(pytorch.from_checkpoint, checkpoint=pytorch_files.read(path))
    start_from(fill, small_config(), str(workdir))


def test_what_is_there_already_is_left_alone(checkpoint, tmp_path):
    path, workdir = saved(checkpoint, tmp_path), tmp_path / "run"
    import_here(path, workdir)
    before = contents(tmp_path)
    assert len(before) > 4
    assert f"the run directory {workdir} is not empty" in refusal(import_here, path, workdir)
    line = in_process.run_mistake(SCRIPT, f"--workdir={workdir}", f"--out={path}")
    assert f"the path {path} exists" in line
    assert contents(tmp_path) == before


def test_what_is_left_of_a_run_is_left_alone_too(checkpoint, tmp_path):
    """Somebody removed its config alone: its checkpoint would pass for the new one."""
    workdir = tmp_path / "run"
    import_here(saved(checkpoint, tmp_path), workdir)
    (workdir / "config.json").unlink()
    before = contents(workdir)
    line = refusal(import_here, saved(checkpoint, tmp_path), workdir)
    assert f"the run directory {workdir} is not empty" in line
    assert contents(workdir) == before


def test_a_run_or_a_saved_model_and_not_both(tmp_path):
    line = in_process.run_mistake(
        SCRIPT, "--checkpoint=x", f"--workdir={tmp_path}/a", f"--out={tmp_path}/b"
    )
    assert "--workdir" in line and "--out" in line and "give one" in line


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
