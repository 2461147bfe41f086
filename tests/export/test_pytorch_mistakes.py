"""Files that are no checkpoint, or another model's: each ends in one line that names the key."""

import builtins
import contextlib
import functools
import io
import os
import pickle
import sys
import warnings

import numpy as np
import PIL.Image
import pytest

from export import pytorch
from moco_tf import training
from moco_tf.errors import UserError
from tests.command import run, run_mistake
from tests.export.test_pytorch import (
    BATCH,
    DIM,
    KEYS,
    SCRIPT,
    saved,
    settings,
    small_config,
    small_model,
)
from tests.images import patch, write_folder
from tests.pytorch import torch

Q, K = "module.encoder_q.", "module.encoder_k."
COUNTER = f"{Q}bn1.num_batches_tracked"


@pytest.fixture(scope="module")
def moco():
    return small_model()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    checkpoint = pytorch.to_checkpoint(small_model(), "resnet8", 5)
    return saved(checkpoint, tmp_path_factory.mktemp("good"))


@pytest.fixture
def checkpoint(good):
    """One that fits, for each test to spoil."""
    return pytorch.read(good)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "photos", each=BATCH, side=32)


def refusal(function, *arguments):
    """The line that a call ends in."""
    with pytest.raises(UserError) as error:
        function(*arguments)
    return str(error.value)


# Checkpoints that can be read, and do not fit.


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "module.queue",
            torch.zeros(DIM, 25),
            f"shape ({DIM}, 25), and here it is ({DIM}, {KEYS})",
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
    content = pytorch.read(saved(checkpoint, tmp_path))
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
    content = pytorch.read(saved(checkpoint, tmp_path))
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
    content = pytorch.read(saved(checkpoint, tmp_path))
    line = refusal(pytorch.from_checkpoint, moco, content)
    assert f"optimizer state {index}" in line and words in line, line


@pytest.mark.parametrize("value", [["module.queue"], None, torch.zeros(3)])
def test_a_state_dict_that_is_no_dictionary(moco, checkpoint, tmp_path, value):
    checkpoint["state_dict"] = value
    content = pytorch.read(saved(checkpoint, tmp_path))
    line = "the key 'state_dict' holds no state dict"
    assert refusal(pytorch.from_checkpoint, moco, content) == line
    assert refusal(pytorch.backbone_from_checkpoint, moco.query_encoder.backbone, content) == line


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
    content = pytorch.read(saved(tensors, tmp_path))
    line = refusal(pytorch.backbone_from_checkpoint, moco.query_encoder.backbone, content)
    assert f"'{prefix + key}'" in line and words in line, line


def test_a_key_that_would_move_the_cursor_is_printed_harmlessly(moco, checkpoint, tmp_path):
    checkpoint["state_dict"]["\x1b[2Jmodule.queue"] = torch.zeros(1)
    content = pytorch.read(saved(checkpoint, tmp_path))
    assert refusal(pytorch.from_checkpoint, moco, content).isprintable()


def test_a_run_has_one_step_for_queries_and_keys(moco, checkpoint, tmp_path):
    key = f"{K}layer1.0.bn1.num_batches_tracked"
    checkpoint["state_dict"][key] = torch.tensor(8)
    content = pytorch.read(saved(checkpoint, tmp_path))
    assert f"'{key}'" in refusal(pytorch.from_checkpoint, moco, content)


# Files that cannot be read.


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), None, "words", 3])
def test_a_file_that_holds_something_else(tmp_path, content):
    path = saved(content, tmp_path)
    kind = type(content).__name__
    assert refusal(pytorch.read, path) == f"{path} holds a {kind}, not a state dict"


@pytest.mark.parametrize("kind", ["empty", "text", "JPEG", "NumPy's", "pickle", "TorchScript"])
def test_a_file_of_another_kind(tmp_path, kind):
    path = tmp_path / "file"
    if kind == "JPEG":
        PIL.Image.fromarray(patch()).save(path, format="jpeg")
    elif kind == "NumPy's":
        with open(path, "wb") as file:
            np.savez(file, queue=np.zeros(3))  # a zip file too
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": {}}))
    elif kind == "TorchScript":
        path.write_bytes(script())
    else:
        path.write_text("no checkpoint\n" if kind == "text" else "")
    with warnings.catch_warnings(record=True) as further_lines:
        warnings.simplefilter("always")
        line = refusal(pytorch.read, str(path))
    assert line == f"{path} is truncated, or no file of torch.save as it writes them by default"
    assert [str(warning.message) for warning in further_lines] == []


def script():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    return file.getvalue()


def test_a_path_without_a_file(tmp_path):
    path = f"{tmp_path}/none"
    assert refusal(pytorch.read, path) == f"{path} cannot be read: No such file or directory"
    assert refusal(pytorch.read, str(tmp_path)) == f"{tmp_path} cannot be read: Is a directory"


def bytes_of(content, **kwargs):
    file = io.BytesIO()
    torch.save(content, file, **kwargs)
    return file.getvalue()


FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@FORMATS
def test_a_truncated_file_is_called_so(checkpoint, tmp_path, zipped):
    whole = bytes_of(checkpoint, _use_new_zipfile_serialization=zipped)
    path = tmp_path / "file"
    # Within the first bytes, within words such as torch.FloatStorage, within the numbers.
    lengths = [1, 10, 100, *range(400, 900, 7), *range(2000, len(whole), 99991), len(whole) - 1]
    for length in lengths:
        path.write_bytes(whole[:length])
        assert "truncated" in refusal(pytorch.read, str(path)), length
    path.write_bytes(whole)
    assert pytorch.read(str(path)).keys() == checkpoint.keys()


@FORMATS
def test_whatever_a_few_wrong_bits_make_of_a_file(moco, tmp_path, zipped):
    """It is read, and refused for what it lacks, or it is not; there is no third."""
    small = {
        "epoch": 3,
        "state_dict": {
            "module.queue": torch.zeros(DIM, KEYS),
            "module.queue_ptr": torch.tensor([3]),
            f"{Q}conv1.weight": torch.nn.Parameter(torch.zeros(16, 3, 3, 3, dtype=torch.half)),
        },
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []},
    }
    whole = bytes_of(small, _use_new_zipfile_serialization=zipped)
    # Most of the file is zeros, none of which matters.
    places = [place for place, byte in enumerate(whole) if byte]
    path, numbers, read = tmp_path / "file", np.random.default_rng(0), 0
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(numbers.integers(1, 4)):
            damaged[numbers.choice(places)] ^= 1 << numbers.integers(8)
        if numbers.random() < 0.2:
            del damaged[numbers.integers(len(damaged)) :]
        path.write_bytes(damaged)
        with contextlib.suppress(UserError), warnings.catch_warnings(action="ignore"):
            content = pytorch.read(str(path))
            read += 1
            pytorch.from_checkpoint(moco, content)
            raise AssertionError("an encoder of one kernel was taken over")
    assert 10 < read < 190


class Calls:
    """An object that a pickle holds as a function to call, and its arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "posix.system"), (builtins.exec, "exec"), (io.open, "io.open")],
)
def test_code_in_a_file_is_named_and_not_executed(tmp_path, function, name, form):
    marker, path = tmp_path / "executed", tmp_path / "file"
    arguments = {
        os.system: [f"touch {marker}"],
        builtins.exec: [f"open({str(marker)!r}, 'w')"],
        io.open: [str(marker), "w"],
    }[function]
    content = {"state_dict": {"module.queue": Calls(function, *arguments)}}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        path.write_bytes(bytes_of(content, _use_new_zipfile_serialization=form == "zip"))
    line = refusal(pytorch.read, str(path))
    assert str(path) in line and f"{name}, and nothing in it was executed" in line, line
    assert not marker.exists()
    # It was in earnest.
    if form == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()


def test_pytorch_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    line = "PyTorch is not installed: pip install torch"
    assert refusal(pytorch.read, str(tmp_path)) == line


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
    line = run_mistake(*importing(path, workdir, photos))
    assert f"{path} holds more than tensors, posix.system" in line
    assert not workdir.exists() and not marker.exists()


def test_an_epoch_that_is_no_number(checkpoint, photos, tmp_path):
    """It is only compared with ours, and may be anything."""
    checkpoint["epoch"] = torch.zeros(2)
    path = saved(checkpoint, tmp_path)
    assert "step 7" in run(*importing(path, tmp_path / "run", photos))


def test_a_backbone_of_another_architecture(checkpoint, tmp_path):
    path, out = saved(checkpoint, tmp_path), tmp_path / "saved_model"
    line = run_mistake(SCRIPT, f"--checkpoint={path}", "--encoder=resnet18", f"--out={out}")
    assert path in line and "--encoder=resnet18" in line and "--stem=imagenet" in line
    assert "'module.encoder_q." in line
    assert list(tmp_path.iterdir()) == [tmp_path / "checkpoint.pth.tar"]


def import_here(path, workdir):
    fill = functools.partial(pytorch.from_checkpoint, checkpoint=pytorch.read(path))
    training.start_from(fill, small_config(), str(workdir))


def test_what_is_there_already_is_left_alone(checkpoint, tmp_path):
    path, workdir = saved(checkpoint, tmp_path), tmp_path / "run"
    import_here(path, workdir)
    before = contents(tmp_path)
    assert len(before) > 4
    assert f"--workdir={workdir} holds something already" in refusal(import_here, path, workdir)
    line = run_mistake(SCRIPT, f"--workdir={workdir}", f"--out={path}")
    assert f"--out={path} exists" in line
    assert contents(tmp_path) == before


def test_what_is_left_of_a_run_is_left_alone_too(checkpoint, tmp_path):
    """Somebody removed its config alone: its checkpoint would pass for the new one."""
    workdir = tmp_path / "run"
    import_here(saved(checkpoint, tmp_path), workdir)
    (workdir / "config.json").unlink()
    before = contents(workdir)
    line = refusal(import_here, saved(checkpoint, tmp_path), workdir)
    assert f"--workdir={workdir} holds something already" in line
    assert contents(workdir) == before


def test_a_run_or_a_saved_model_and_not_both(tmp_path):
    line = run_mistake(SCRIPT, "--checkpoint=x", f"--workdir={tmp_path}/a", f"--out={tmp_path}/b")
    assert "--workdir" in line and "--out" in line and "give one" in line


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
