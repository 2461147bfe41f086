"""Files of PyTorch and safetensors, read without executing any code in them, and their backbones.

Reading a file needs PyTorch, of any build; the other functions work on NumPy arrays.
"""

import re
import types
import warnings
import zipfile
from typing import Any

import keras
import numpy as np

from moco_tf.backbones import state_dicts
from moco_tf.encoders import state_dict
from moco_tf.errors import UserError

# First bytes of files that are mistaken for files of torch.save, and what they are.
SIGNATURES = {
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself with `git lfs pull`",
    b"\x89HDF": "an HDF5 file: save a state dict with torch.save",
    b"<!DOCTYPE": "a web page: download the file itself",
    b"<html": "a web page: download the file itself",
    b"\x1f\x8b": "compressed with gzip: decompress it",
}
# Members of zip files that are mistaken for files of torch.save, and what the files are.
MEMBERS = {
    r".*/constants\.pkl": "a TorchScript archive: save its state_dict() with torch.save",
    r"model\.weights\.h5": "a Keras file: save a state dict with torch.save",
    r".*\.npy": "a file of NumPy: save a state dict with torch.save",
}


def read(path: str) -> dict[Any, Any]:
    """Read a file that torch.save or safetensors wrote, without executing any code in it.

    Args:
        path: Path of the file.

    Returns:
        The dict in the file.

    Raises:
        UserError: If PyTorch is not installed, there is no such file, or it is damaged or holds
            anything but a dict of tensors, numbers, strings and collections of them.
    """
    torch = import_torch()
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            if _is_safetensors(file.read(9)):
                return _read_safetensors(path)
            file.seek(0)
            warnings.simplefilter("ignore")  # PyTorch warns about file formats.
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UserError:
        raise
    except Exception as error:  # Arbitrary bytes can cause any exception in the parsers.
        function = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(
            f"{path} holds more than tensors: {function[1]}. Nothing in it was executed. Save the "
            "state dict alone, or download the file again if it was truncated"
            if function
            else f"{path} is {_describe(path)}"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds a {type(content).__name__} instead of a state dict: save the state dict "
            "of the network"
        )
    return content


def _is_safetensors(start: bytes) -> bool:
    """Return whether a file with these first 9 bytes is one: the size of its header, and JSON."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000


def _read_safetensors(path: str) -> dict[str, Any]:
    try:
        import safetensors
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(
            f"{path} is a safetensors file, which needs a package: pip install safetensors"
        ) from error
    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ").splitlines()[0]
        raise UserError(
            f"{path} is a safetensors file that is truncated or damaged ({reason}): download or "
            "save it again"
        ) from error


def _describe(path: str) -> str:
    """Return what a file is that torch.load cannot read, with a remedy."""
    with open(path, "rb") as file:
        start = file.read(32)
    if not start:
        return "empty: download or save it again"
    for signature, description in SIGNATURES.items():
        if start.startswith(signature):
            return description
    members = _zip_members(path)
    for pattern, description in MEMBERS.items():
        if any(re.fullmatch(pattern, member) for member in members):
            return description
    return (
        "truncated or damaged, or not a file of torch.save: download it again, or save a state "
        "dict with torch.save"
    )


def _zip_members(path: str) -> list[str]:
    """Return the names of the members of a zip file; an empty list for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception:  # Arbitrary bytes can cause any exception here as well.
        return []


def backbone_from_checkpoint(backbone: keras.Model, checkpoint: dict[Any, Any]) -> None:
    """Set the weights of a backbone to those in a checkpoint.

    The checkpoint holds a MoCo query encoder or a plain ResNet, in any nested dict and with any
    prefix. Heads and classifiers beside it, such as `fc`, are ignored.

    Args:
        backbone: A `keras.Model` of `moco_tf.encoders.build` without a head.
        checkpoint: The dict that `read` returned.

    Raises:
        MismatchError: If a key is missing or unexpected, or its value has another shape.
        UserError: If several networks in the checkpoint fit, or a value has another type or holds
            NaN or infinity.
    """
    _require_state_dict(checkpoint)
    candidate = state_dicts.find(checkpoint, backbone)
    arrays = {key: to_array(key, tensor) for key, tensor in candidate.network().items()}
    state_dict.write(backbone, arrays, candidate.prefix)


def channels(checkpoint: dict[Any, Any], backbone: keras.Model) -> int:
    """Return the number of channels of the images that the backbone in a checkpoint takes.

    Args:
        checkpoint: The dict that `read` returned.
        backbone: A backbone of the same architecture, for any number of channels.

    Returns:
        The number that follows from the first convolution, or 3 if there is none.

    Raises:
        UserError: As for `backbone_from_checkpoint`.
    """
    _require_state_dict(checkpoint)
    return state_dicts.find(checkpoint, backbone).channels or 3


def to_arrays(checkpoint: dict[Any, Any]) -> dict[str, np.ndarray]:
    """Convert the state dict in a checkpoint, or a checkpoint that is a state dict, to arrays.

    Args:
        checkpoint: The dict that `read` returned.

    Returns:
        A dict from each key to its array.

    Raises:
        UserError: If there is no state dict, or a value is not a plain tensor.
    """
    _require_state_dict(checkpoint)
    tensors = checkpoint.get("state_dict", checkpoint)
    return {str(key): to_array(key, tensor) for key, tensor in tensors.items()}


def to_array(key: object, tensor: Any) -> np.ndarray:
    """Convert a tensor to an array.

    Args:
        key: Key of the tensor in its state dict, for the message of the error.
        tensor: The tensor, or any other value that a file may hold.

    Raises:
        UserError: If the value is not a plain tensor.
    """
    try:
        tensor = tensor.detach()
        # A tensor that stores fewer numbers than it has elements repeats them. It is not a weight,
        # and its array could fill the memory.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise TypeError("expanded")
        # NumPy has no bfloat16; float32 holds its numbers exactly.
        small_float = tensor.is_floating_point() and tensor.element_size() < 4
        return (tensor.float() if small_float else tensor).numpy()
    except (AttributeError, RuntimeError, TypeError) as error:  # Sparse, quantized, or no tensor.
        raise UserError(f"the key {key!r} holds no plain tensor") from error


def import_torch() -> types.ModuleType:
    """Return the module `torch`, or raise a `UserError` if PyTorch is missing or too old."""
    try:
        import torch
    except ImportError as error:
        raise UserError("PyTorch is not installed: pip install torch") from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        # Before it, a file could run code in spite of `weights_only` (CVE-2025-32434).
        raise UserError(f"PyTorch {torch.__version__} is too old: install 2.6 or newer")
    return torch


def _require_state_dict(checkpoint: dict[Any, Any]) -> None:
    if not isinstance(checkpoint.get("state_dict", checkpoint), dict):
        raise UserError("the key 'state_dict' holds no state dict")
