"""Conversion of an encoder's weights to torchvision's names and torch's axis order, and back.

The reference implementation, torchvision, timm and Detectron2 all use these names for the
parameters of a residual network. This module works on NumPy arrays and does not need PyTorch.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from moco_tf.encoders.names import encoder_name, require_resnet
from moco_tf.errors import UserError


class MismatchError(UserError):
    """A state dict belongs to another network: a key or a shape is not that of this network."""


class Entry(NamedTuple):
    """A variable of an encoder and its place in a state dict.

    Attributes:
        key: Key in the state dict.
        variable: The variable of the encoder.
        axes: Permutation that transposes an array of the state dict to the shape of the variable.
    """

    key: str
    variable: keras.Variable
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the state dict."""
        return tuple(self.variable.shape[axis] for axis in np.argsort(self.axes))

    def read(self) -> np.ndarray:
        """Return the value of the variable as an array of the state dict."""
        return np.array(np.transpose(self.variable.numpy(), np.argsort(self.axes)), order="C")

    def write(self, array: np.ndarray) -> None:
        """Assign an array of the state dict to the variable."""
        self.variable.assign(np.transpose(array, self.axes))


KERNEL = (2, 3, 1, 0)  # [out, in, height, width] to [height, width, in, out]
MATRIX = (1, 0)  # [out, in] to [in, out]
VECTOR = (0,)


def entries(encoder: keras.Model, prefix: str = "") -> list[Entry]:
    """Return the entries of an encoder in a state dict.

    Args:
        encoder: A model of `moco_tf.encoders.build`, with or without a head.
        prefix: Prefix of every key.

    Returns:
        The entries in the order of torchvision's state dict, without the counters
        `num_batches_tracked` of BatchNormalization. The head takes the place of torchvision's
        classifier: a "linear" head has the keys of `fc`, an "mlp" head those of `fc.0` and `fc.2`.

    Raises:
        UserError: If the encoder is not one of our ResNets.
    """
    backbone = getattr(encoder, "backbone", encoder)
    if name := encoder_name(backbone.name):
        require_resnet(name, "the format of PyTorch and Detectron2")
    named_layers = [
        (_torchvision_name(layer.name), layer) for layer in backbone.layers if layer.weights
    ]
    result = []
    for name, layer in sorted(named_layers, key=lambda item: _sort_key(item[0])):
        if isinstance(layer, keras.layers.Conv2D):
            result.append(Entry(f"{prefix}{name}.weight", layer.kernel, KERNEL))
        else:
            result += [
                Entry(f"{prefix}{name}.weight", layer.gamma, VECTOR),
                Entry(f"{prefix}{name}.bias", layer.beta, VECTOR),
                Entry(f"{prefix}{name}.running_mean", layer.moving_mean, VECTOR),
                Entry(f"{prefix}{name}.running_var", layer.moving_variance, VECTOR),
            ]
    if backbone is not encoder:
        dense = [layer for layer in encoder.head.layers if layer.weights]
        for name, layer in zip(["fc"] if len(dense) == 1 else ["fc.0", "fc.2"], dense, strict=True):
            result += [
                Entry(f"{prefix}{name}.weight", layer.kernel, MATRIX),
                Entry(f"{prefix}{name}.bias", layer.bias, VECTOR),
            ]
    return result


def read(encoder: keras.Model, prefix: str = "", steps: int = 0) -> dict[str, np.ndarray]:
    """Return an encoder as a state dict.

    Args:
        encoder: A model of `moco_tf.encoders.build`, with or without a head.
        prefix: Prefix of every key.
        steps: Number of training steps, the value of the counters of BatchNormalization.

    Returns:
        The arrays by key, in torchvision's order and with the counters.

    Example:
        >>> arrays = read(moco_tf.encoders.build("resnet18"))
        >>> list(arrays)[:2], arrays["conv1.weight"].shape
        (['conv1.weight', 'bn1.weight'], (64, 3, 7, 7))
    """
    arrays = {}
    for entry in entries(encoder, prefix):
        arrays[entry.key] = entry.read()
        if entry.key.endswith("running_var"):
            arrays[_counter_key(entry.key)] = np.array(steps, np.int64)
    return arrays


def write(encoder: keras.Model, arrays: Mapping[str, np.ndarray], prefix: str = "") -> None:
    """Assign all arrays of a state dict to an encoder.

    If the state dict does not fit, the encoder stays unchanged.

    Args:
        encoder: A model of `moco_tf.encoders.build`, with or without a head.
        arrays: The arrays by key, in floating point and of any precision; they are cast to the
            dtype of the encoder. The counters of BatchNormalization are optional.
        prefix: Prefix of every key.

    Raises:
        MismatchError: If a key is missing or unexpected, or an array has another shape.
        UserError: If an array is not floating point, or holds NaN or infinity.
    """
    expected = entries(encoder, prefix)
    known_keys = {entry.key for entry in expected}
    known_keys |= {_counter_key(key) for key in known_keys if key.endswith("running_var")}
    for key in arrays:
        if key not in known_keys:
            raise MismatchError(f"the key {key!r} does not belong to this encoder")
    for entry in expected:
        require(arrays, entry.key, entry.shape, np.floating)
    for entry in expected:
        entry.write(arrays[entry.key])


def require(
    arrays: Mapping[str, np.ndarray], key: str, shape: tuple[int, ...], dtype: type[Any]
) -> np.ndarray:
    """Return the array of a key after checking its shape and its type.

    Args:
        arrays: The arrays by key.
        key: The key.
        shape: The expected shape.
        dtype: The expected type or abstract type, such as `np.floating`.

    Raises:
        MismatchError: If the key is missing, or its array has another shape.
        UserError: If its array has another type, or holds NaN or infinity.
    """
    if key not in arrays:
        raise MismatchError(f"the key {key!r} is missing")
    array = arrays[key]
    if array.shape != shape:
        raise MismatchError(f"the key {key!r} has shape {array.shape}, expected {shape}")
    if not np.issubdtype(array.dtype, dtype):
        raise UserError(f"the key {key!r} has dtype {array.dtype}, expected {dtype.__name__}")
    if not are_finite(array):
        raise UserError(f"the key {key!r} holds NaN or infinity: use another file")
    return array


def are_finite(array: np.ndarray) -> bool:
    """Return whether no number in an array is NaN or infinite, as float32 represents it."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(array.astype(np.float32, copy=False)).all())


def _counter_key(key: str) -> str:
    return f"{key.rpartition('.')[0]}.num_batches_tracked"


def _torchvision_name(layer_name: str) -> str:
    """Return torchvision's name of a layer, such as `layer2.0.conv3` for `stage2_block1_3_conv`."""
    if layer_name.startswith("stem_"):
        return layer_name.removeprefix("stem_") + "1"
    stage, block, index, operation = _match(
        r"stage(\d+)_block(\d+)_(\d|shortcut)_(conv|bn)", layer_name
    )
    block_name = f"layer{stage}.{int(block) - 1}"
    if index == "shortcut":
        return f"{block_name}.downsample.{0 if operation == 'conv' else 1}"
    return f"{block_name}.{operation}{index}"


def _sort_key(name: str) -> tuple[Any, ...]:
    """Return a key that sorts torchvision's names: conv1, bn1, conv2, bn2, ..., downsample."""
    stage, block, operation, number = _match(
        r"(?:layer(\d+)\.(\d+)\.)?(conv|bn|downsample\.)(\d)", name
    )
    return (
        int(stage or 0),
        int(block or 0),
        operation == "downsample.",
        int(number),
        operation == "bn",
    )


def _match(pattern: str, name: str) -> tuple[str, ...]:
    match = re.fullmatch(pattern, name)
    if match is None:
        raise ValueError(f"{name} is not the name of a layer of a residual network")
    return match.groups()
