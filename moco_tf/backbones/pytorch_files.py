"""PyTorch files, read without executing any code in them, and the backbones that they hold.

Reading a file needs PyTorch, of any build; the other functions work on NumPy arrays.
"""

import re
import types
import warnings
from typing import Any

import keras
import numpy as np

from moco_tf.encoders import state_dict
from moco_tf.errors import UserError

# Prefix of the query encoder's keys in a checkpoint of facebookresearch/moco.
QUERY = "module.encoder_q."


def read(path: str) -> dict[Any, Any]:
    """Read a file that torch.save wrote, without executing any code in it.

    Args:
        path: Path of the file.

    Returns:
        The dict in the file.

    Raises:
        UserError: If PyTorch is not installed, there is no such file, or it is truncated or holds
            anything but a dict of tensors, numbers, strings and collections of them.
    """
    torch = import_torch()
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns about file formats.
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # Arbitrary bytes can cause any exception in the parsers.
        function = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(
            f"{path} holds more than tensors: {function[1]}. Nothing in it was executed. Save the "
            "state dict alone, or download the file again if it was truncated"
            if function
            else f"{path} is truncated, or not a file of torch.save in its default format"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds a {type(content).__name__} instead of a state dict: save the state dict "
            "of the network"
        )
    return content


def backbone_from_checkpoint(backbone: keras.Model, checkpoint: dict[Any, Any]) -> None:
    """Set the weights of a backbone to those in a checkpoint.

    The checkpoint holds a MoCo query encoder or a plain ResNet. Its head or classifier, `fc`, is
    ignored.

    Args:
        backbone: A `keras.Model` of `moco_tf.encoders.build` without a head.
        checkpoint: The dict that `read` returned.

    Raises:
        UserError: If a key is missing or unexpected, or its value has another shape or type.
    """
    arrays = to_arrays(checkpoint)
    prefix = _prefix(arrays)
    arrays = {
        key: array
        for key, array in arrays.items()
        if key.startswith(prefix) and not key.startswith(f"{prefix}fc.")
    }
    state_dict.write(backbone, arrays, prefix)


def channels(checkpoint: dict[Any, Any]) -> int:
    """Return the number of channels of the images that the backbone in a checkpoint takes.

    Args:
        checkpoint: The dict that `read` returned.

    Returns:
        The number that follows from the first convolution, or 3 if there is none.

    Raises:
        UserError: As for `to_arrays`.
    """
    arrays = to_arrays(checkpoint)
    kernel = arrays.get(f"{_prefix(arrays)}conv1.weight", np.empty(()))
    return kernel.shape[1] if kernel.ndim == 4 and kernel.size else 3


def to_arrays(checkpoint: dict[Any, Any]) -> dict[str, np.ndarray]:
    """Convert the state dict in a checkpoint, or a checkpoint that is a state dict, to arrays.

    Args:
        checkpoint: The dict that `read` returned.

    Returns:
        A dict from each key to its array.

    Raises:
        UserError: If there is no state dict, or a value is not a plain tensor.
    """
    tensors = checkpoint.get("state_dict", checkpoint)
    if not isinstance(tensors, dict):
        raise UserError("the key 'state_dict' holds no state dict")
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
    """Return the module `torch`, or raise a `UserError` if PyTorch is not installed."""
    try:
        import torch
    except ImportError as error:
        raise UserError("PyTorch is not installed: pip install torch") from error
    return torch


def _prefix(arrays: dict[str, np.ndarray]) -> str:
    return QUERY if any(key.startswith(QUERY) for key in arrays) else ""
