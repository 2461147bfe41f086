"""Files of PyTorch, read without executing anything in them, and the backbones that they hold.

Reading one needs PyTorch, of any build; the rest knows arrays only.
"""

import re
import warnings

import numpy as np

from moco_tf.encoders import state_dict
from moco_tf.errors import UserError

QUERY = "module.encoder_q."  # before the query encoder's keys, in a file of facebookresearch/moco


def read(path):
    """Reads a file of torch.save without executing anything in it.

    Args:
        path: str.

    Returns:
        A dict.

    Raises:
        UserError: PyTorch is not installed, there is no such file, or it is truncated or holds
            anything but tensors, numbers, words and collections of them.
    """
    torch = import_torch()
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about formats
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever a parser makes of arbitrary bytes
        more = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(
            f"{path} holds more than tensors, {more[1]}, and nothing in it was executed: save the "
            "state dict alone, or fetch the file again if it was truncated"
            if more
            else f"{path} is truncated, or no file of torch.save as it writes them by default"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content


def backbone_from_checkpoint(backbone, checkpoint):
    """Takes over the backbone in a checkpoint: a MoCo query encoder's, or a plain ResNet.

    Args:
        backbone: a `keras.Model` of `moco_tf.encoders.build`, without a head.
        checkpoint: what `read` returns. The head or classifier in it, `fc`, is left out.

    Raises:
        UserError: a key is missing, surplus, of another shape or type.
    """
    arrays = to_arrays(checkpoint)
    prefix = _prefix(arrays)
    arrays = {
        key: array
        for key, array in arrays.items()
        if key.startswith(prefix) and not key.startswith(f"{prefix}fc.")
    }
    state_dict.write(backbone, arrays, prefix)


def channels(checkpoint):
    """How many channels the images have that a backbone in a checkpoint takes.

    Args:
        checkpoint: what `read` returns.

    Returns:
        int: what the first convolution says, and 3 where there is none.

    Raises:
        UserError: as `to_arrays`.
    """
    arrays = to_arrays(checkpoint)
    kernel = arrays.get(f"{_prefix(arrays)}conv1.weight", np.empty(()))
    return kernel.shape[1] if kernel.ndim == 4 and kernel.size else 3


def to_arrays(checkpoint):
    """The state dict in a checkpoint, or that it is by itself.

    Args:
        checkpoint: what `read` returns.

    Returns:
        `{key: array}`.

    Raises:
        UserError: it is none, or a value is no plain tensor.
    """
    tensors = checkpoint.get("state_dict", checkpoint)
    if not isinstance(tensors, dict):
        raise UserError("the key 'state_dict' holds no state dict")
    return {str(key): to_array(key, tensor) for key, tensor in tensors.items()}


def to_array(key, tensor):
    """A tensor as an array; a `UserError` that names its key where it is no plain tensor."""
    try:
        tensor = tensor.detach()
        # Larger than its file, a tensor is one number many times over, and so no weight.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise TypeError("expanded")
        # NumPy has no bfloat16; float32 holds its numbers exactly.
        small_float = tensor.is_floating_point() and tensor.element_size() < 4
        return (tensor.float() if small_float else tensor).numpy()
    except (AttributeError, RuntimeError, TypeError) as error:  # sparse, quantized, no tensor
        raise UserError(f"the key {key!r} holds no plain tensor") from error


def import_torch():
    """The module `torch`, or a `UserError` where there is none."""
    try:
        import torch
    except ImportError as error:
        raise UserError("PyTorch is not installed: pip install torch") from error
    return torch


def _prefix(arrays):
    return QUERY if any(key.startswith(QUERY) for key in arrays) else ""
