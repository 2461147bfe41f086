"""An encoder's numbers under torchvision's names and in torch's axes, and back.

The reference implementation, torchvision, timm and Detectron2 all name a residual network's
parameters so. This module knows arrays only; PyTorch is not needed.
"""

import re
import typing

import keras
import numpy as np

from moco_tf.errors import UserError


class Entry(typing.NamedTuple):
    """One number, vector or kernel of an encoder.

    Attributes:
        key: str, its name in the state dict.
        variable: the `keras.Variable`.
        axes: torch's axes in Keras' order.
    """

    key: str
    variable: keras.Variable
    axes: tuple

    @property
    def shape(self):
        """The shape in the state dict."""
        return tuple(self.variable.shape[axis] for axis in np.argsort(self.axes))

    def read(self):
        """The array as the state dict has it."""
        return np.array(np.transpose(self.variable.numpy(), np.argsort(self.axes)), order="C")

    def write(self, array):
        """Takes over an array of the state dict."""
        self.variable.assign(np.transpose(array, self.axes))


KERNEL = (2, 3, 1, 0)  # [out, in, height, width] to [height, width, in, out]
MATRIX = (1, 0)  # [out, in] to [in, out]
VECTOR = (0,)


def entries(encoder, prefix=""):
    """Where everything of an encoder stands in a state dict.

    Args:
        encoder: a `keras.Model` of `moco_tf.encoders.build`, with a head or without.
        prefix: str, put before every key.

    Returns:
        A list of `Entry`, in the order of torchvision's state dict, without the counters
        `num_batches_tracked` of BatchNormalization. The head stands where torchvision has its
        classifier: "linear" as `fc`, "mlp" as `fc.0` and `fc.2`.
    """
    backbone = getattr(encoder, "backbone", encoder)
    named = [(_torchvision_name(layer.name), layer) for layer in backbone.layers if layer.weights]
    found = []
    for name, layer in sorted(named, key=lambda item: _position(item[0])):
        if isinstance(layer, keras.layers.Conv2D):
            found.append(Entry(f"{prefix}{name}.weight", layer.kernel, KERNEL))
        else:
            found += [
                Entry(f"{prefix}{name}.weight", layer.gamma, VECTOR),
                Entry(f"{prefix}{name}.bias", layer.beta, VECTOR),
                Entry(f"{prefix}{name}.running_mean", layer.moving_mean, VECTOR),
                Entry(f"{prefix}{name}.running_var", layer.moving_variance, VECTOR),
            ]
    if backbone is not encoder:
        dense = [layer for layer in encoder.head.layers if layer.weights]
        for name, layer in zip(["fc"] if len(dense) == 1 else ["fc.0", "fc.2"], dense, strict=True):
            found += [
                Entry(f"{prefix}{name}.weight", layer.kernel, MATRIX),
                Entry(f"{prefix}{name}.bias", layer.bias, VECTOR),
            ]
    return found


def read(encoder, prefix="", steps=0):
    """An encoder as a state dict.

    Args:
        encoder, prefix: as for `entries`.
        steps: int, the training steps that BatchNormalization has counted.

    Returns:
        `{key: array}` in torchvision's order, with the counters.
    """
    arrays = {}
    for entry in entries(encoder, prefix):
        arrays[entry.key] = entry.read()
        if entry.key.endswith("running_var"):
            arrays[_counter(entry.key)] = np.array(steps, np.int64)
    return arrays


def write(encoder, arrays, prefix=""):
    """Takes over a state dict: everything in it, or with an error nothing.

    Args:
        encoder, prefix: as for `entries`.
        arrays: `{key: array}`; the counters may be missing. Numbers are rounded to the
            encoder's own type, float32 as a rule.

    Raises:
        UserError: a key is missing, surplus, of another shape, or does not hold floats.
    """
    wanted = entries(encoder, prefix)
    known = {entry.key for entry in wanted}
    known |= {_counter(key) for key in known if key.endswith("running_var")}
    for key in arrays:
        if key not in known:
            raise UserError(f"the key {key!r} has no place in this encoder")
    for entry in wanted:
        require(arrays, entry.key, entry.shape, np.floating)
    for entry in wanted:
        entry.write(arrays[entry.key])


def require(arrays, key, shape, kind):
    """The array of that key, of that shape and kind.

    Args:
        arrays: `{key: array}`.
        key: str.
        shape: tuple.
        kind: a NumPy type such as `np.floating`.

    Raises:
        UserError: it is missing or something else.
    """
    if key not in arrays:
        raise UserError(f"the key {key!r} is missing")
    array = arrays[key]
    if array.shape != shape:
        raise UserError(f"the key {key!r} has shape {array.shape}, and here it is {shape}")
    if not np.issubdtype(array.dtype, kind):
        raise UserError(f"the key {key!r} holds {array.dtype}, and here it is {kind.__name__}")
    return array


def _counter(key):
    return f"{key.rpartition('.')[0]}.num_batches_tracked"


def _torchvision_name(layer):
    """The name of stem_bn is bn1, of stage2_block1_3_conv layer2.0.conv3, and so on."""
    if layer.startswith("stem_"):
        return layer.removeprefix("stem_") + "1"
    stage, block, index, kind = re.fullmatch(
        r"stage(\d+)_block(\d+)_(\d|shortcut)_(conv|bn)", layer
    ).groups()
    place = f"layer{stage}.{int(block) - 1}"
    if index == "shortcut":
        return f"{place}.downsample.{0 if kind == 'conv' else 1}"
    return f"{place}.{kind}{index}"


def _position(name):
    """What sorts names in torchvision's order: conv1, bn1, conv2, bn2, ..., downsample."""
    stage, block, kind, number = re.fullmatch(
        r"(?:layer(\d+)\.(\d+)\.)?(conv|bn|downsample\.)(\d)", name
    ).groups()
    return int(stage or 0), int(block or 0), kind == "downsample.", int(number), kind == "bn"
