"""Files that hold no checkpoint, half of one, or code: each ends in one line, and none is run."""

import builtins
import contextlib
import io
import os
import pickle
import sys
import warnings

import numpy as np
import PIL.Image
import pytest

from moco_tf.backbones import pytorch_files
from moco_tf.errors import UserError
from moco_tf.export import pytorch
from tests.export.checkpoints import DIM, KEYS, Calls, refusal, saved, small_model
from tests.images import patch
from tests.pytorch import torch


@pytest.fixture(scope="module")
def moco():
    return small_model()


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), None, "words", 3])
def test_a_file_that_holds_something_else(tmp_path, content):
    path = saved(content, tmp_path)
    kind = type(content).__name__
    assert refusal(pytorch_files.read, path) == f"{path} holds a {kind}, not a state dict"


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
        line = refusal(pytorch_files.read, str(path))
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
    assert refusal(pytorch_files.read, path) == f"{path} cannot be read: No such file or directory"
    assert (
        refusal(pytorch_files.read, str(tmp_path)) == f"{tmp_path} cannot be read: Is a directory"
    )


def bytes_of(content, **kwargs):
    file = io.BytesIO()
    torch.save(content, file, **kwargs)
    return file.getvalue()


FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@FORMATS
def test_a_truncated_file_is_called_so(moco, tmp_path, zipped):
    checkpoint = pytorch.to_checkpoint(moco, "resnet8", 5)
    whole = bytes_of(checkpoint, _use_new_zipfile_serialization=zipped)
    path = tmp_path / "file"
    # Within the first bytes, within words such as torch.FloatStorage, within the numbers.
    lengths = [1, 10, 100, *range(400, 900, 7), *range(2000, len(whole), 99991), len(whole) - 1]
    for length in lengths:
        path.write_bytes(whole[:length])
        assert "truncated" in refusal(pytorch_files.read, str(path)), length
    path.write_bytes(whole)
    assert pytorch_files.read(str(path)).keys() == checkpoint.keys()


@FORMATS
def test_whatever_a_few_wrong_bits_make_of_a_file(moco, tmp_path, zipped):
    """It is read, and refused for what it lacks, or it is not; there is no third."""
    small = {
        "epoch": 3,
        "state_dict": {
            "module.queue": torch.zeros(DIM, KEYS),
            "module.queue_ptr": torch.tensor([3]),
            "module.encoder_q.conv1.weight": torch.nn.Parameter(
                torch.zeros(16, 3, 3, 3, dtype=torch.half)
            ),
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
            content = pytorch_files.read(str(path))
            read += 1
            pytorch.from_checkpoint(moco, content)
            raise AssertionError("an encoder of one kernel was taken over")
    assert 10 < read < 190


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
    line = refusal(pytorch_files.read, str(path))
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
    assert refusal(pytorch_files.read, str(tmp_path)) == line
