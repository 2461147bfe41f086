"""Files without a checkpoint, truncated files and files with code are refused and not executed."""

import builtins
import contextlib
import gzip
import io
import os
import pickle
import sys
import warnings

import keras
import numpy as np
import PIL.Image
import pytest

from moco_tf.backbones import pytorch_files
from moco_tf.backbones.reference_checkpoint import from_checkpoint, to_checkpoint
from moco_tf.errors import UserError
from tests.export.checkpoints import DIM, KEYS, Calls, refusal, saved, small_model
from tests.images import patch
from tests.pytorch import torch

pytestmark = pytest.mark.torch

UNKNOWN = "is truncated or damaged, or not a file of torch.save: download it again"


@pytest.fixture(scope="module")
def moco():
    return small_model()


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), None, "words", 3])
def test_file_without_a_dict_is_refused(tmp_path, content):
    path = saved(content, tmp_path)
    message = refusal(pytorch_files.read, path)
    assert message.startswith(f"{path} holds a {type(content).__name__} ")


def write_jpeg(path):
    PIL.Image.fromarray(patch()).save(path, format="jpeg")


def write_keras(path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)


def write_numpy(path):
    with open(path, "wb") as file:
        np.savez(file, queue=np.zeros(3))  # A zip file, as those of torch.save are.


@pytest.mark.parametrize(
    ("name", "write", "fact"),
    [
        ("empty", lambda path: path.write_bytes(b""), "is empty: download"),
        (
            "lfs",
            lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
            "LFS",
        ),
        ("page", lambda path: path.write_text("<!DOCTYPE html><p>Not found"), "is a web page"),
        ("gzip", lambda path: path.write_bytes(gzip.compress(b"weights")), "with gzip: decompress"),
        ("NumPy", write_numpy, "is a file of NumPy: save a state dict"),
        ("TorchScript", lambda path: path.write_bytes(torch_script()), "is a TorchScript archive"),
        ("model.keras", write_keras, "is a Keras file: save a state dict"),
        ("HDF5", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "is an HDF5 file"),
        ("text", lambda path: path.write_text("no checkpoint\n"), UNKNOWN),
        ("JPEG", write_jpeg, UNKNOWN),
        ("pickle", lambda path: path.write_bytes(pickle.dumps({"state_dict": {}})), UNKNOWN),
    ],
)
def test_file_of_another_format_is_named_without_warnings(tmp_path, name, write, fact):
    path = tmp_path / name
    write(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        message = refusal(pytorch_files.read, str(path))
    assert message.startswith(f"{path} is ")
    assert fact in message
    assert [str(warning.message) for warning in caught] == []


def torch_script():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It is deprecated.
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    return file.getvalue()


def test_missing_file_and_directory_are_refused(tmp_path):
    path = f"{tmp_path}/none"
    assert refusal(pytorch_files.read, path) == f"{path} cannot be read: No such file or directory"
    assert (
        refusal(pytorch_files.read, str(tmp_path)) == f"{tmp_path} cannot be read: Is a directory"
    )


def to_bytes(content, **kwargs):
    file = io.BytesIO()
    torch.save(content, file, **kwargs)
    return file.getvalue()


FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@FORMATS
def test_truncated_file_is_refused_at_every_length(moco, tmp_path, zipped):
    checkpoint = to_checkpoint(moco, "resnet8", 5)
    whole = to_bytes(checkpoint, _use_new_zipfile_serialization=zipped)
    path = tmp_path / "file"
    # Within the first bytes, within names such as torch.FloatStorage, and within the numbers.
    lengths = [1, 10, 100, *range(400, 900, 7), *range(2000, len(whole), 99991), len(whole) - 1]
    for length in lengths:
        path.write_bytes(whole[:length])
        assert "truncated" in refusal(pytorch_files.read, str(path)), length
    path.write_bytes(whole)
    assert pytorch_files.read(str(path)).keys() == checkpoint.keys()


@FORMATS
def test_file_with_flipped_bits_is_refused(moco, tmp_path, zipped):
    """The file cannot be read, or it is read and refused because keys are missing."""
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
    whole = to_bytes(small, _use_new_zipfile_serialization=zipped)
    # Most of the file is zeros, which do not matter.
    offsets = [offset for offset, byte in enumerate(whole) if byte]
    path, generator, num_read = tmp_path / "file", np.random.default_rng(0), 0
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(generator.integers(1, 4)):
            damaged[generator.choice(offsets)] ^= 1 << generator.integers(8)
        if generator.random() < 0.2:
            del damaged[generator.integers(len(damaged)) :]
        path.write_bytes(damaged)
        with contextlib.suppress(UserError), warnings.catch_warnings(action="ignore"):
            content = pytorch_files.read(str(path))
            num_read += 1
            from_checkpoint(moco, content)
            raise AssertionError("an encoder with a single kernel was accepted")
    assert 10 < num_read < 190


@pytest.mark.parametrize("file_format", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "posix.system"), (builtins.exec, "exec"), (io.open, "io.open")],
)
def test_code_in_a_file_is_named_and_not_executed(tmp_path, function, name, file_format):
    marker, path = tmp_path / "executed", tmp_path / "file"
    arguments = {
        os.system: [f"touch {marker}"],
        builtins.exec: [f"open({str(marker)!r}, 'w')"],
        io.open: [str(marker), "w"],
    }[function]
    content = {"state_dict": {"module.queue": Calls(function, *arguments)}}
    if file_format == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        path.write_bytes(to_bytes(content, _use_new_zipfile_serialization=file_format == "zip"))
    message = refusal(pytorch_files.read, str(path))
    assert str(path) in message
    assert f"{name}. Nothing in it was executed" in message
    assert not marker.exists()
    # An unsafe reader does execute it.
    if file_format == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.fixture
def safetensors_file(tmp_path):
    """A file with tensors of several types, and what they are in PyTorch."""
    torch_files = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    tensors = {
        "conv1.weight": torch.arange(6.0).reshape(2, 3),
        "half": torch.tensor([1.5, -0.25], dtype=torch.float16),
        "bfloat": torch.tensor([3.0, 1e30], dtype=torch.bfloat16),
        "bn1.num_batches_tracked": torch.tensor(7),
    }
    path = tmp_path / "model.pth"  # The content counts, not the name.
    torch_files.save_file(tensors, path, metadata={"format": "pt"})
    return path, tensors


def test_safetensors_file_holds_the_same_as_one_of_torch_save(safetensors_file, tmp_path):
    path, tensors = safetensors_file
    content = pytorch_files.read(str(path))
    expected = pytorch_files.read(saved(tensors, tmp_path))
    assert content.keys() == expected.keys()
    for key, array in pytorch_files.to_arrays(content).items():
        np.testing.assert_array_equal(array, pytorch_files.to_array(key, expected[key]))
        assert array.dtype == (np.int64 if key.endswith("tracked") else np.float32)


@pytest.mark.parametrize("length", [9, 20, 100, 300, -1])
def test_truncated_safetensors_file_is_refused(safetensors_file, length):
    path, _ = safetensors_file
    path.write_bytes(path.read_bytes()[:length])
    message = refusal(pytorch_files.read, str(path))
    assert message.startswith(f"{path} is a safetensors file that is truncated or damaged (")
    assert message.isprintable()


def test_safetensors_file_needs_its_package(safetensors_file, monkeypatch):
    path, _ = safetensors_file
    monkeypatch.setitem(sys.modules, "safetensors", None)
    message = refusal(pytorch_files.read, str(path))
    assert message == (
        f"{path} is a safetensors file, which needs a package: pip install safetensors"
    )


def test_missing_pytorch_is_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install torch" in refusal(pytorch_files.read, str(tmp_path))
