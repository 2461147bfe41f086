"""Initial weights of encoders that are not our ResNets: read, compared and assigned in order.

The names of their layers are not fixed, as Keras numbers layers of one kind. The order of the
weights is: it follows from the graph of the network.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from moco_tf import encoders
from moco_tf.backbones import loading
from moco_tf.backbones.finite import require_finite
from moco_tf.encoders import keras_files, originals
from moco_tf.encoders.state_dict import MismatchError
from moco_tf.errors import UserError
from moco_tf.keras_internals import all_layers, has_graph

SIZE = 64  # Side in pixels of the images that networks of any size are compared on.


def start(encoder: keras.Model, init: str) -> bool:
    """Set an encoder to the weights that a setting `init` names.

    Args:
        encoder: A model of `moco_tf.encoders.build` with a head.
        init: `run:DIR`, `saved_model:DIR`, `keras:FILE` or `keras_hub:PRESET`.

    Returns:
        Whether the head has been set too.

    Raises:
        UserError: If the weights cannot be read.
        MismatchError: If they are those of another network.
    """
    weights, head, images = _read(init, encoder.backbone)
    own_images = _normalized_inputs(encoder.backbone)
    if images is not None and own_images is not None and not _are_close(images, own_images):
        raise MismatchError(
            "there, the first layer with weights gets other values from the same image, such as "
            "values from -1 to 1 instead of 0 to 1"
        )
    assign(weights, encoder.backbone)
    if head is None or [w.shape for w in head] != [w.shape for w in encoder.head.weights]:
        return False
    assign(head, encoder.head)
    return True


def assign(weights: Sequence[keras.Variable], network: keras.Model) -> None:
    """Assign weights to a network in their order.

    Raises:
        MismatchError: If one of them has another shape or another kind, or their number differs.
            The network then stays unchanged.
    """
    own_weights = keras_files.weights_of(network)
    pairs = list(zip(weights, own_weights, strict=False))
    for number, (weight, own) in enumerate(pairs, start=1):
        if weight.shape != own.shape or keras_files.kind(weight) != keras_files.kind(own):
            raise MismatchError(
                f"weight {number} is '{weight.path}' with the shape {tuple(weight.shape)} there, "
                f"but '{own.path}' with {tuple(own.shape)} in the encoder"
            )
    if len(weights) != len(own_weights):
        more = (list(weights) + own_weights[len(pairs) :])[len(pairs)]
        raise MismatchError(
            f"there are {len(weights)} weights there, but the encoder has {len(own_weights)}; "
            f"the first one that only one of them has is '{more.path}'"
        )
    for weight, own in pairs:
        own.assign(np.asarray(weight))


class _Weights(NamedTuple):
    """Weights that were read.

    Attributes:
        backbone: The weights for a backbone.
        head: Those of a head if there is one.
        images: What `_first_inputs` returns for the network that they are from; None if it is not
            known, or if the network has the images as they are, since nothing prepares them.
    """

    backbone: list[keras.Variable]
    head: list[keras.Variable] | None = None
    images: np.ndarray | None = None


def _read(init: str, backbone: keras.Model) -> _Weights:
    """Return the weights for a backbone."""
    scheme, _, path = init.partition(":")
    if scheme == "run":
        encoder = loading.load_query_encoder(path)
        taken = _normalized_inputs(encoder.backbone)
        return _Weights(keras_files.weights_of(encoder.backbone), encoder.head.weights, taken)
    if scheme == "saved_model":
        network = loading.load_network(path)
        return _Weights(keras_files.weights_of(network), images=_normalized_inputs(network))
    if scheme == "keras_hub":
        network, images = originals.read(init, channels=3)
        assert images is not None
        values = 255 * _colors(3) * np.array(images.scale) + np.array(images.offset)
        taken = _first_inputs(network, values[:, ::-1] if images.reverse else values)
        weights = _Weights(network.weights, images=taken)
    else:
        model = _keras_file(path, backbone)
        low, high = encoders.pixels_of(model).value_range
        colors = low + (high - low) * _colors(model.input_shape[-1])
        taken = _first_inputs(model, colors)
        prepares = taken is not None and not _are_close(taken, colors)
        weights = _Weights(keras_files.weights_of(model), images=taken if prepares else None)
    require_finite(weights.backbone, path, "use other weights")
    return weights


def _colors(channels: int) -> np.ndarray:
    """Return colors in [0, 1] that differ in all channels, `[3, channels]`."""
    return np.random.default_rng(0).uniform(0.1, 0.9, (3, channels))


def _normalized_inputs(backbone: keras.Model) -> np.ndarray | None:
    """Return `_first_inputs` of a model of `moco_tf.encoders.build` without a head."""
    scale, offset = dataclasses.replace(
        encoders.pixels_of(backbone), value_range=(0.0, 1.0)
    ).scale_and_offset()
    return _first_inputs(backbone, _colors(backbone.input_shape[-1]) * scale + offset)


def _first_inputs(network: keras.Model, colors: np.ndarray) -> np.ndarray | None:
    """Return what the first layer with weights gets from images of one color.

    Args:
        network: A functional model.
        colors: The values of the pixels, `[N, C]`.

    Returns:
        The values of the center, `[N, C]`; None if they cannot be found out.
    """
    height, width = (side or SIZE for side in network.input_shape[1:3])
    images = np.broadcast_to(colors[:, None, None], (len(colors), height, width, colors.shape[1]))
    inputs: list[np.ndarray] = []

    def recorded(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def record(*args: Any, **kwargs: Any) -> Any:
            inputs.append(keras.ops.convert_to_numpy(args[0]))
            return call(*args, **kwargs)

        return record

    weighted = [
        layer
        for layer in all_layers(network)
        if layer.weights
        and not has_graph(layer)
        and not isinstance(layer, keras.layers.Normalization)
    ]
    with contextlib.ExitStack() as patches:
        for layer in weighted:
            layer.call = recorded(layer.call)
            patches.callback(delattr, layer, "call")
        network(images.astype(np.float32), training=False)
    if not inputs or inputs[0].ndim != 4:
        return None
    _, height, width, _ = inputs[0].shape
    return inputs[0][:, height // 2, width // 2]


def _are_close(first: np.ndarray, second: np.ndarray) -> bool:
    scale = np.abs(second).max()
    return first.shape == second.shape and np.allclose(first, second, 1e-3, 1e-3 * scale)


def _keras_file(path: str, backbone: keras.Model) -> keras.Model:
    """Return the model in a .keras file: of our own export, or one of the user's own.

    What an export adds to a network, and what an encoder adds, has no weights.
    """
    if not path.endswith(".keras"):
        raise UserError(f"{path} does not end in .keras, as the files that Keras writes do")
    try:
        model = keras_files.load(path)
    except UserError as error:
        raise UserError(f"config.init=keras:{path}: {error}") from error
    constants = [_factor_and_summand(layer) for layer in all_layers(backbone) if _rescales(layer)]
    for layer in keras_files.adapted(model):
        own = _factor_and_summand(layer)
        if not any(own.shape == c.shape and np.allclose(own, c, 1e-4) for c in constants):
            raise MismatchError(
                f"the Normalization '{layer.path}' in the file has another mean or variance than "
                f"those of the encoder: use config.encoder={path} without config.init"
            )
    return model


def _rescales(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization)


def _factor_and_summand(layer: keras.layers.Layer) -> np.ndarray:
    """Return what a layer multiplies with, and what it then adds, `[2, number of values]`."""
    if isinstance(layer, keras.layers.Rescaling):
        factor, summand = layer.scale, layer.offset
    else:
        mean, variance = (keras.ops.convert_to_numpy(x) for x in (layer.mean, layer.variance))
        std = np.maximum(np.sqrt(variance), keras.config.epsilon())
        factor, summand = (std, mean) if layer.invert else (1 / std, -mean / std)
    return np.stack(np.broadcast_arrays(np.ravel(factor), np.ravel(summand)))
