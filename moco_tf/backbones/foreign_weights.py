"""Initial weights of encoders that are not our ResNets: read, compared and assigned in order.

The names of their layers are not fixed, as Keras numbers layers of one kind. The order of the
weights is: it follows from the graph of the network.
"""

from collections.abc import Sequence

import keras
import numpy as np

from moco_tf.backbones import loading
from moco_tf.backbones.finite import require_finite
from moco_tf.encoders import keras_files, originals
from moco_tf.encoders.state_dict import MismatchError
from moco_tf.errors import UserError
from moco_tf.keras_internals import all_layers


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
    weights, head = _read(init, encoder.backbone)
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


def _read(
    init: str, backbone: keras.Model
) -> tuple[list[keras.Variable], list[keras.Variable] | None]:
    """Return the weights for a backbone, and those of a head if there is one."""
    scheme, _, path = init.partition(":")
    if scheme == "run":
        encoder = loading.load_query_encoder(path)
        return keras_files.weights_of(encoder.backbone), encoder.head.weights
    if scheme == "saved_model":
        return keras_files.weights_of(loading.load_network(path)), None
    if scheme == "keras_hub":
        weights = originals.read(init, channels=3).network.weights
    else:
        weights = _of_keras_file(path, backbone)
    require_finite(weights, path, "use other weights")
    return weights, None


def _of_keras_file(path: str, backbone: keras.Model) -> list[keras.Variable]:
    """Return the weights in a .keras file: of our own export, or a model of the user's own.

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
    return keras_files.weights_of(model)


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
