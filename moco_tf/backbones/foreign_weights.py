"""Initial weights of encoders that are not our ResNets: read, compared and assigned in order.

The names of their layers are not fixed, as Keras numbers layers of one kind. The order of the
weights is: it follows from the graph of the network.
"""

from collections.abc import Sequence

import keras
import numpy as np

from moco_tf.backbones import loading
from moco_tf.backbones.finite import require_finite
from moco_tf.encoders import originals
from moco_tf.encoders.originals import why_not_read
from moco_tf.encoders.state_dict import MismatchError
from moco_tf.errors import UserError


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
    weights, head = _read(init)
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
    pairs = list(zip(weights, network.weights, strict=False))
    for number, (weight, own) in enumerate(pairs, start=1):
        if weight.shape != own.shape or _kind(weight) != _kind(own):
            raise MismatchError(
                f"weight {number} is '{weight.path}' with the shape {tuple(weight.shape)} there, "
                f"but '{own.path}' with {tuple(own.shape)} in the encoder"
            )
    if len(weights) != len(network.weights):
        more = (list(weights) + network.weights[len(pairs) :])[len(pairs)]
        raise MismatchError(
            f"there are {len(weights)} weights there, but the encoder has {len(network.weights)}; "
            f"the first one that only one of them has is '{more.path}'"
        )
    for weight, own in pairs:
        own.assign(np.asarray(weight))


def _kind(weight: keras.Variable) -> str:
    """Return what a weight is in its layer, such as "kernel"."""
    return weight.path.rpartition("/")[2]


def _read(init: str) -> tuple[list[keras.Variable], list[keras.Variable] | None]:
    """Return the weights of a backbone, and those of a head if there is one."""
    scheme, _, path = init.partition(":")
    if scheme == "run":
        encoder = loading.load_query_encoder(path)
        return encoder.backbone.weights, encoder.head.weights
    if scheme == "saved_model":
        return loading.load_network(path).weights, None
    if scheme == "keras_hub":
        weights = originals.read(init, channels=3).network.weights
    else:
        weights = _of_keras_file(path)
    require_finite(weights, path, "use other weights")
    return weights, None


def _of_keras_file(path: str) -> list[keras.Variable]:
    """Return the weights in a .keras file: of our own export, or a model of the user's own.

    What an export adds to a network, and what an encoder adds, has no weights.
    """
    if not path.endswith(".keras"):
        raise UserError(f"{path} does not end in .keras, as the files that Keras writes do")
    try:
        return keras.saving.load_model(path, compile=False).weights
    # Arbitrary bytes can cause any exception in the parsers.
    except Exception as error:
        raise UserError(f"{path} cannot be read{why_not_read(error)}") from error
