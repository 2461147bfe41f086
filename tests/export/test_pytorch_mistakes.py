"""Checkpoints that do not fit a model are refused with one line that names the key."""

import functools
import os
import resource

import pytest

from moco_tf.backbones import pytorch_files
from moco_tf.backbones.reference_checkpoint import from_checkpoint, to_checkpoint
from moco_tf.training.run_model import start_from
from tests import in_process
from tests.export.checkpoints import (
    DIM,
    KEYS,
    SCRIPT,
    Calls,
    refusal,
    run_flags,
    saved,
    small_config,
    small_model,
)
from tests.pytorch import torch

pytestmark = pytest.mark.torch

Q, K = "module.encoder_q.", "module.encoder_k."
COUNTER = f"{Q}bn1.num_batches_tracked"


@pytest.fixture(scope="module")
def moco():
    return small_model()


@pytest.fixture(scope="module")
def good_file(moco, tmp_path_factory):
    return saved(to_checkpoint(moco, "resnet8", 5), tmp_path_factory.mktemp("good"))


@pytest.fixture
def checkpoint(good_file):
    """A checkpoint that fits, which each test may change."""
    return pytorch_files.read(good_file)


def refusal_by_model(moco, checkpoint, folder):
    """Return the message with which a model refuses a checkpoint."""
    return refusal(from_checkpoint, moco, pytorch_files.read(saved(checkpoint, folder)))


def refusal_by_backbone(moco, checkpoint, folder):
    """Return the message with which a backbone refuses a checkpoint."""
    content = pytorch_files.read(saved(checkpoint, folder))
    backbone = moco.query_encoder.backbone
    return refusal(pytorch_files.backbone_from_checkpoint, backbone, content)


@pytest.mark.parametrize(
    ("key", "value", "fact"),
    [
        (
            "module.queue",
            torch.zeros(DIM, 25),
            f"shape ({DIM}, 25), expected ({DIM}, {KEYS})",
        ),
        ("module.queue", torch.zeros(16, KEYS), f"shape (16, {KEYS})"),
        ("module.queue", torch.zeros(KEYS, DIM), f"shape ({KEYS}, {DIM})"),
        ("module.queue", torch.zeros(DIM, KEYS, dtype=torch.int32), "dtype int32"),
        ("module.queue_ptr", torch.tensor([KEYS]), f"is {KEYS}"),
        ("module.queue_ptr", torch.tensor([-1]), "is -1"),
        ("module.queue_ptr", torch.tensor([1, 2]), "shape (2,)"),
        ("module.queue_ptr", torch.tensor([0.5]), "dtype float32"),
        (COUNTER, torch.tensor(-1), "is -1"),
        (COUNTER, torch.tensor([5]), "shape (1,)"),
        (COUNTER, torch.tensor(5.0), "dtype float32"),
        (f"{Q}conv1.weight", torch.zeros(64, 3, 7, 7), "shape (64, 3, 7, 7)"),
        (f"{K}layer3.0.conv2.weight", torch.zeros(64, 64, 1, 1), "expected (64, 64, 3, 3)"),
        (f"{K}bn1.running_var", torch.zeros(16, dtype=torch.int64), "dtype int64"),
        (f"{Q}fc.weight", torch.zeros(128, 64), f"expected ({DIM}, 64)"),
        (f"{Q}fc.weight", torch.zeros(DIM, 64, dtype=torch.complex64), "dtype complex64"),
        (f"{Q}fc.weight", torch.zeros(DIM, 64, dtype=torch.bool), "dtype bool"),
        (f"{Q}fc.weight", torch.zeros(DIM, 64).to_sparse(), "no plain tensor"),
        (f"{Q}fc.weight", torch.zeros(DIM, 64, device="meta"), "no plain tensor"),
        (f"{Q}fc.weight", "zeros", "no plain tensor"),
        (f"{K}fc.bias", [0.0] * DIM, "no plain tensor"),
        (f"{K}fc.bias", None, "no plain tensor"),
        # Unexpected keys: of a deeper network, of an MLP head, of a bias, of another method, of a
        # model without the prefix, and of counters in layers other than BatchNormalization.
        (f"{Q}layer4.0.conv1.weight", torch.zeros(1), "does not belong to"),
        (f"{K}fc.2.weight", torch.zeros(1), "does not belong to"),
        (f"{K}conv1.bias", torch.zeros(16), "does not belong to"),
        ("module.predictor.weight", torch.zeros(1), "does not belong to a MoCo checkpoint"),
        ("encoder_q.conv1.weight", torch.zeros(1), "does not belong to a MoCo checkpoint"),
        (f"{Q}conv1.num_batches_tracked", torch.tensor(7), "does not belong to"),
        (f"{K}fc.num_batches_tracked", torch.tensor(7), "does not belong to"),
        # A number that exceeds int64, and a tensor of 128 TiB in a file that stores two bytes.
        (COUNTER, torch.tensor(2**63, dtype=torch.uint64), f"is {2**63}"),
        (f"{Q}fc.weight", torch.zeros((), dtype=torch.half).expand(2**46), "no plain tensor"),
    ],
)
def test_value_that_does_not_fit_is_named(moco, checkpoint, tmp_path, key, value, fact):
    checkpoint["state_dict"][key] = value
    message = refusal_by_model(moco, checkpoint, tmp_path)
    assert f"'{key}'" in message
    assert fact in message


@pytest.mark.parametrize("key", [COUNTER, f"{Q}layer2.0.downsample.1.running_mean", f"{K}fc.bias"])
def test_missing_key_is_named(moco, checkpoint, tmp_path, key):
    del checkpoint["state_dict"][key]
    assert f"'{key}' is missing" in refusal_by_model(moco, checkpoint, tmp_path)


# What a checkpoint has beside the query encoder, and the names in messages.
PARTS = {
    "module.queue": "'module.queue'",
    "module.queue_ptr": "'module.queue_ptr'",
    K: f"'{K}*'",
    "optimizer": "the momentum buffers in 'optimizer'",
}


def without(checkpoint, parts):
    """Return a checkpoint without some of `PARTS`."""
    tensors = checkpoint["state_dict"]
    prefixes = tuple(part for part in parts if part != "optimizer")
    kept = {key: value for key, value in tensors.items() if not key.startswith(prefixes or "?")}
    return {
        "state_dict": kept,
        **{key: value for key, value in checkpoint.items() if key not in ("state_dict", *parts)},
    }


@pytest.mark.parametrize(
    "missing",
    [
        ["module.queue_ptr"],
        [K],
        ["optimizer"],
        ["module.queue", "module.queue_ptr"],
        ["module.queue", "module.queue_ptr", K],
        ["module.queue", "module.queue_ptr", "optimizer"],
        [K, "optimizer"],
    ],
)
def test_incomplete_checkpoint_is_refused_with_what_is_missing(moco, checkpoint, tmp_path, missing):
    parts = set(missing) | {"module.queue_ptr"} if "module.queue" in missing else set(missing)
    message = refusal_by_model(moco, without(checkpoint, parts), tmp_path)
    for part, name in PARTS.items():
        assert (f"{name}" in message) == (part in parts), part
    assert "config" not in message


@pytest.mark.parametrize("optimizer", [{}, {"state": {}}, {"state": {}, "param_groups": []}])
def test_optimizer_without_buffers_is_incomplete(moco, checkpoint, tmp_path, optimizer):
    checkpoint["optimizer"] = optimizer
    message = refusal_by_model(moco, checkpoint, tmp_path)
    assert "missing: the momentum buffers in 'optimizer'. A run continues" in message


def test_other_file_cannot_become_a_run(checkpoint, photos, tmp_path):
    """A backbone alone has no head, and other methods have other encoders."""
    tensors = {
        key.removeprefix(Q): tensor
        for key, tensor in checkpoint["state_dict"].items()
        if key.startswith(Q)
    }
    path = saved(tensors, tmp_path)
    message = in_process.run_mistake(*importing(path, tmp_path / "run", photos))
    assert f"{path} cannot become a run: no key starts with '{Q}'" in message
    assert "config" not in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "key", ["module.queue", f"{Q}conv1.weight", f"{K}bn1.running_var", "optimizer state 3"]
)
def test_number_that_is_not_finite_is_named(moco, checkpoint, tmp_path, key, value):
    if key.startswith("optimizer"):
        tensor = checkpoint["optimizer"]["state"][3]["momentum_buffer"]
    else:
        tensor = checkpoint["state_dict"][key]
    tensor.view(-1)[-1] = value
    message = refusal_by_model(moco, checkpoint, tmp_path)
    assert f"the key '{key}' holds NaN or infinity" in message


@pytest.mark.parametrize(
    ("index", "value", "fact"),
    [
        (3, None, "is missing"),
        (0, {"momentum_buffer": torch.zeros(64, 3, 7, 7)}, "shape (64, 3, 7, 7)"),
        (1, {"momentum_buffer": torch.zeros(16, dtype=torch.int64)}, "dtype int64"),
        (2, {"momentum_buffer": [0.0]}, "no plain tensor"),
        (4, {"exp_avg": torch.zeros(16)}, "not that of SGD"),
        (5, [torch.zeros(16)], "not that of SGD"),
        (29, {"momentum_buffer": torch.zeros(16)}, "no counterpart"),  # There are 29, from 0 on.
    ],
)
def test_momentum_that_does_not_fit_is_named(moco, checkpoint, tmp_path, index, value, fact):
    state = checkpoint["optimizer"]["state"]
    assert list(state) == list(range(29))
    state[index] = value
    if value is None:
        del state[index]
    message = refusal_by_model(moco, checkpoint, tmp_path)
    assert f"optimizer state {index}'" in message
    assert fact in message


@pytest.mark.parametrize("value", [["module.queue"], None, torch.zeros(3)])
def test_state_dict_that_is_not_a_dict_is_refused(moco, checkpoint, tmp_path, value):
    checkpoint["state_dict"] = value
    for refuse in (refusal_by_model, refusal_by_backbone):
        assert "'state_dict' holds no state dict" in refuse(moco, checkpoint, tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "fact"),
    [
        ("conv1.weight", None, "is missing"),
        ("conv1.weight", torch.zeros(64, 3, 7, 7), "shape (64, 3, 7, 7)"),
        ("layer1.0.downsample.0.weight", torch.zeros(16, 16, 1, 1), "does not belong to"),
        ("layer1.0.bn2.running_var", torch.zeros(16, dtype=torch.int64), "dtype int64"),
    ],
)
@pytest.mark.parametrize("prefix", ["", Q])
def test_value_that_does_not_fit_a_backbone_is_named(
    moco, checkpoint, tmp_path, prefix, key, value, fact
):
    tensors = {
        prefix + name.removeprefix(Q): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(Q)
    }
    tensors[prefix + key] = value
    if value is None:
        del tensors[prefix + key]
    message = refusal_by_backbone(moco, tensors, tmp_path)
    assert f"'{prefix + key}'" in message
    assert fact in message


def test_control_characters_in_a_key_are_escaped(moco, checkpoint, tmp_path):
    checkpoint["state_dict"]["\x1b[2Jmodule.queue"] = torch.zeros(1)
    assert refusal_by_model(moco, checkpoint, tmp_path).isprintable()


def test_counters_that_differ_are_refused(moco, checkpoint, tmp_path):
    key = f"{K}layer1.0.bn1.num_batches_tracked"
    checkpoint["state_dict"][key] = torch.tensor(8)
    assert f"'{key}' is 8" in refusal_by_model(moco, checkpoint, tmp_path)


def importing(path, workdir, photos):
    return (SCRIPT, f"--checkpoint={path}", f"--workdir={workdir}", *run_flags(photos))


def test_checkpoint_of_another_architecture_leaves_nothing(good_file, photos, tmp_path):
    command = importing(good_file, tmp_path / "run", photos)
    message = in_process.run_mistake(*command, "--config.encoder=resnet14")
    assert good_file in message
    assert "config.encoder=resnet14" in message
    assert "'module.encoder_q.layer1.1.conv1.weight' is missing" in message
    assert list(tmp_path.iterdir()) == []


def test_code_in_a_checkpoint_is_not_executed(checkpoint, photos, tmp_path):
    marker = tmp_path / "executed"
    checkpoint["state_dict"]["module.queue"] = Calls(os.system, f"touch {marker}")
    path = saved(checkpoint, tmp_path)
    message = in_process.run_mistake(*importing(path, tmp_path / "run", photos))
    assert path in message
    assert "posix.system" in message
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pth.tar"]


def test_epoch_that_is_not_a_number_is_ignored(checkpoint, photos, tmp_path):
    """The epoch is only compared with that of the run, and is not required."""
    checkpoint["epoch"] = torch.zeros(2)
    path = saved(checkpoint, tmp_path)
    assert "step 7" in in_process.run(*importing(path, tmp_path / "run", photos))


@pytest.mark.parametrize("script", [SCRIPT, "export/saved_model.py"])
def test_backbone_of_another_architecture_leaves_nothing(good_file, tmp_path, script):
    flags = (f"--checkpoint={good_file}", "--encoder=resnet14", f"--out={tmp_path / 'out'}")
    message = in_process.run_mistake(script, *flags)
    for fact in (good_file, "resnet14", "imagenet", "'module.encoder_q."):
        assert fact in message
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_left_alone(good_file, photos, tmp_path):
    workdir, out = tmp_path / "run", tmp_path / "out.pth"
    out.write_bytes(b"mine")
    checkpoint = pytorch_files.read(good_file)
    initialize = functools.partial(from_checkpoint, checkpoint=checkpoint)
    config = small_config(f"folder:{photos}")
    start_from(initialize, config, str(workdir))
    before = contents(tmp_path)
    assert len(before) > 4
    assert f"{workdir} is not empty" in refusal(start_from, initialize, config, str(workdir))
    message = in_process.run_mistake(SCRIPT, f"--out={out}", workdir=workdir)
    assert f"{out} exists" in message
    assert contents(tmp_path) == before

    # In a directory without a config, an old checkpoint would be taken for the new one.
    (workdir / "config.json").unlink()
    before = contents(tmp_path)
    assert f"{workdir} is not empty" in refusal(start_from, initialize, config, str(workdir))
    assert contents(tmp_path) == before


def test_full_disk_is_reported_and_leaves_nothing(good_file, tmp_path):
    flags = (f"--checkpoint={good_file}", "--encoder=resnet8", "--stem=small")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, limits[1]))
    try:
        message = in_process.run_mistake(SCRIPT, *flags, f"--out={tmp_path / 'out.pth'}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "out.pth cannot be written: File too large" in message
    assert list(tmp_path.iterdir()) == []


def test_run_and_state_dict_are_alternatives(tmp_path):
    flags = ("--checkpoint=x", f"--workdir={tmp_path}/a", f"--out={tmp_path}/b")
    message = in_process.run_mistake(SCRIPT, *flags)
    assert "--workdir" in message
    assert "--out" in message


def test_encoder_of_a_run_is_in_its_config(tmp_path):
    flags = ("--checkpoint=x", f"--workdir={tmp_path}/a", "--encoder=resnet8")
    message = in_process.run_mistake(SCRIPT, *flags)
    assert "--encoder=resnet8" in message
    assert "--config.encoder" in message


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
