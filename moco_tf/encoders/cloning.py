"""Copies of Keras networks with other layers for BatchNormalization."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.errors import UserError
from moco_tf.files import error_reason
from moco_tf.keras_internals import all_layers, draws, has_graph, random_parts, replace_inside
from moco_tf.ranges import COUNT, checked

BATCH_NORMALIZATION = (BatchNormalization, keras.layers.BatchNormalization)
# Layers that only draw random numbers: in inference they return their inputs. Keras' and KerasHub's
# layers for a random depth are not public, so they are known by their names.
RANDOM_LAYERS = (
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.AlphaDropout,
)
RANDOM_DEPTH = ("StochasticDepth", "DropPath")
# What the code of a layer can raise when it is copied and called.
COPY_ERRORS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
# Layers that prepare images. They compute in float32, since [0, 255] has more than 8 bits.
PREPROCESSING = (keras.layers.Rescaling, keras.layers.Normalization, keras.layers.InputLayer)


def clone(
    network: keras.Model,
    batch_normalization: Callable[[keras.layers.Layer], keras.layers.Layer],
    copy: Callable[[keras.layers.Layer], keras.layers.Layer] | None = None,
) -> keras.Model:
    """Return a copy of a network with the same values, and with other BatchNormalization layers.

    Args:
        network: A functional `keras.Model`. It may contain other models, and layers that have
            layers as attributes. Those of them that draw random numbers are switched off, since
            the config of the outer layer does not say whether they are.
        batch_normalization: Function that returns the new layer for each BatchNormalization, ours
            or Keras' own. It has the same weights in the same order.
        copy: Function that returns the copy of any other layer; by default one with the same
            config.

    Returns:
        A `keras.Model` in variables of its own.

    Raises:
        UserError: If a layer cannot be copied.
    """
    replaced: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []

    def replacement(layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if isinstance(layer, BATCH_NORMALIZATION):
            new = batch_normalization(layer)
        elif has_graph(layer):
            new = copy_model(layer, copy_inside)
        elif draws(layer):
            new = type(layer).from_config(_without_rates(layer.get_config()))
        else:
            return None
        if not layer.built:
            replaced.append((layer, new))
        return new

    def copy_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not isinstance(layer, keras.layers.Layer):  # An operation of keras.ops.
            return type(layer).from_config(layer.get_config())
        if isinstance(layer, BATCH_NORMALIZATION):
            return batch_normalization(layer)
        with _errors_named(layer):
            if has_graph(layer):
                # Keras 3.12 does not copy a model in a model in a model, even with recursive=True.
                return copy_model(layer)
            new = copy(layer) if copy else type(layer).from_config(layer.get_config())
            replace_inside(new, replacement)
            return new

    def copy_inside(layer: keras.layers.Layer) -> keras.layers.Layer:
        new = replacement(layer) if isinstance(layer, keras.layers.Layer) else None
        return copy_layer(layer) if new is None else new

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        # The mode is not fixed: people fix it to False where they fine-tune. Keras' own
        # BatchNormalization takes masks, which images do not have.
        if kwargs.get("mask") is None:
            kwargs.pop("mask", None)
        kwargs.pop("training", None)
        with _errors_named(layer):
            return layer(*args, **kwargs)

    def copy_model(model: keras.Model, copy_part: Any = copy_layer) -> keras.Model:
        # The layers of a Sequential are called with nothing but their inputs.
        calls = {} if isinstance(model, keras.Sequential) else {"call_function": call}
        return keras.models.clone_model(model, clone_function=copy_part, **calls)

    copied = copy_model(network)
    for old, new in replaced:
        if old.built and not new.built:  # The layer around it has called the old one.
            raise UserError(
                f"the layer '{_path(old)}' cannot be replaced in the layer that contains it: keep "
                "it there in an attribute, or in a list, dict or tuple of one"
            )
    _require_same_weights(network, copied)
    copied.set_weights(network.get_weights())
    return copied


def for_pretraining(network: keras.Model, bn_groups: int) -> keras.Model:
    """Return a copy of a network from elsewhere that MoCo can train.

    Its BatchNormalization is ours, with the momentum and the epsilon of each layer and with groups.
    Layers that draw random numbers are switched off: Shuffling BN and the exact resumption of a
    run need an encoder that computes the same from the same images. All layers can be trained, and
    they compute in the current dtype policy, except for those that prepare the images.

    Args:
        network: A functional `keras.Model`.
        bn_groups: Number of groups that BatchNormalization splits the batch of one replica into, 1
            or greater.

    Returns:
        A `keras.Model` with the same values in variables of its own.

    Raises:
        UserError: If the network is not a functional model, or a layer cannot be replaced or
            switched off.
    """
    bn_groups = checked("bn_groups", bn_groups, COUNT)
    if not has_graph(network) or not network.built:
        raise UserError(
            f"network={network!r:.100}: pass a functional keras.Model, or a keras.Sequential that "
            "begins with a keras.Input"
        )
    for layer in all_layers(network):
        _require_trainable(layer)
    copied = clone(network, lambda layer: _with_groups(layer, bn_groups), _deterministic)
    train_all_layers(copied)
    random = random_parts(copied)
    for layer in all_layers(copied):
        if isinstance(layer, keras.layers.BatchNormalization):
            raise UserError(
                f"the layer '{layer.path}' is a BatchNormalization that cannot be split into "
                "groups, because the layer that contains it creates it when it is built: create "
                "it in __init__"
            )
        if layer in random:
            is_late = isinstance(layer, RANDOM_LAYERS) or type(layer).__name__ in RANDOM_DEPTH
            problem, remedy = "has no rate to set to 0", "remove it from the encoder"
            if is_late:
                problem = "is created when the layer that contains it is built"
                remedy = "create it in __init__"
            raise UserError(
                f"the layer '{_path(layer, copied)}' ({type(layer).__name__}) draws random numbers "
                f"and {problem}, so a run could not be resumed exactly: {remedy}"
            )
    return copied


def train_all_layers(network: keras.Model) -> None:
    """Make all layers of a network trainable, including those that were frozen before.

    `network.trainable = True` alone does not reach the layers if the network itself is trainable
    already, because Keras skips an assignment that does not change an attribute.
    """
    for layer in all_layers(network):
        layer.trainable = True


def trainable_copy(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return a new layer with the same config, but trainable."""
    return type(layer).from_config(_trainable(layer.get_config()))


def with_keras_layers(network: keras.Model) -> keras.Model:
    """Return a copy of a network with Keras' own BatchNormalization in place of ours.

    In training it normalizes in the same way as ours with one group. Its moving variance follows
    the biased variance of a batch, and that of ours the unbiased one.

    Args:
        network: A functional `keras.Model`.

    Returns:
        A `keras.Model` with the same values in variables of its own.
    """

    def of_keras(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        config.pop("groups", None)
        return keras.layers.BatchNormalization.from_config(config)

    return clone(network, of_keras)


def has_batch_normalization(encoder: keras.Model) -> bool:
    """Return whether an encoder normalizes with the statistics of groups of the batch."""
    return any(isinstance(layer, BATCH_NORMALIZATION) for layer in all_layers(encoder))


def random_layers(network: keras.Model) -> list[str]:
    """Return the classes of the layers of a network that draw random numbers in training."""
    return sorted({type(layer).__name__ for layer in random_parts(network)})


def _require_trainable(layer: keras.layers.Layer) -> None:
    """Raise a `UserError` if MoCo cannot train a layer of a network from elsewhere."""
    where = f"the layer '{_path(layer)}'"
    if isinstance(layer.dtype_policy, keras.dtype_policies.QuantizedDTypePolicy):
        raise UserError(
            f"{where} is quantized ({layer.dtype_policy.name}), so it cannot be trained: save the "
            "network before you quantize it"
        )
    if not isinstance(layer, BATCH_NORMALIZATION):
        return
    config = layer.get_config()
    if type(layer) not in (keras.layers.BatchNormalization, BatchNormalization):
        raise UserError(
            f"{where} is a {type(layer).__name__}, which cannot be split into groups: use "
            "keras.layers.BatchNormalization"
        )
    if config.get("renorm"):
        raise UserError(
            f"{where} uses batch renormalization, which cannot be split into groups: set its "
            "renorm to False"
        )
    axis = config.get("axis", -1)
    rank = len((layer.get_build_config() or {}).get("input_shape", (0,) * 4))
    if axis not in (-1, rank - 1):
        raise UserError(
            f"{where} normalizes axis {axis}, but the channels have to be the last axis: build the "
            "network with data_format='channels_last'"
        )


def _require_same_weights(network: keras.Model, copied: keras.Model) -> None:
    """Raise a `UserError` that names the first weight that a copy does not have."""
    for old, new in itertools.zip_longest(network.weights, copied.weights):
        if old is None or new is None or old.shape != new.shape:
            weight = old if old is not None else new
            shapes = [tuple(w.shape) if w is not None else "missing" for w in (old, new)]
            raise UserError(
                f"the layer '{weight.path.rpartition('/')[0]}' cannot be copied, since its weight "
                f"'{weight.name}' is {shapes[0]}, and {shapes[1]} in the copy: create its parts in "
                "__init__, once each, from arguments that get_config returns"
            )


@contextlib.contextmanager
def _errors_named(layer: keras.layers.Layer) -> Iterator[None]:
    """Turn what the code of a layer raises into a `UserError` that names it."""
    try:
        yield
    except COPY_ERRORS as error:
        raise UserError(
            f"the layer '{_path(layer)}' ({type(layer).__name__}) cannot be copied "
            f"({error_reason(error)}): its get_config has to return what its __init__ takes, and "
            "the new layer has to take the same inputs"
        ) from error


def _path(layer: keras.layers.Layer, network: keras.Model | None = None) -> str:
    """Return where a layer is in a network. Dropout, for example, has no path of its own."""
    if layer.path or network is None:
        return layer.path or layer.name
    outer = [o for o in all_layers(network) if o not in (network, layer) and layer in all_layers(o)]
    innermost = min(outer, key=lambda o: len(all_layers(o)), default=None)
    return layer.name if innermost is None else f"{_path(innermost, network)}/{layer.name}"


def _with_groups(layer: keras.layers.Layer, groups: int) -> BatchNormalization:
    config = layer.get_config()
    return BatchNormalization(
        groups,
        config["momentum"],
        config["epsilon"],
        config["scale"],
        config["center"],
        name=layer.name,
    )


def _without_rates(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a layer that draws random numbers, with rates of 0."""
    return {
        key: 0.0
        if isinstance(value, float) and (key in ("rate", "stddev") or "drop" in key)
        else value
        for key, value in config.items()
    }


def _deterministic(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return a copy of a layer in the current dtype policy, trained and not random."""
    config: dict[str, Any] = layer.get_config()
    if isinstance(layer, PREPROCESSING):
        return _preprocessing(layer, config)
    if isinstance(layer, RANDOM_LAYERS) or type(layer).__name__ in RANDOM_DEPTH:
        return keras.layers.Identity(name=layer.name)
    if random_parts(layer):
        config = _without_rates(config)
    config.pop("dtype", None)
    return type(layer).from_config(_trainable(config))


def _trainable(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a layer that can be trained."""
    # Keras would create weights that cannot be trained later either.
    return {**config, "trainable": True} if "trainable" in config else config


def _preprocessing(layer: keras.layers.Layer, config: dict[str, Any]) -> keras.layers.Layer:
    """Return a copy of a layer that prepares images, in float32."""
    config["dtype"] = "float32"
    if isinstance(layer, keras.layers.Normalization) and not layer.weights and not layer.invert:
        mean, variance = (keras.ops.convert_to_numpy(x) for x in (layer.mean, layer.variance))
        if mean.size == mean.shape[-1]:
            # A Normalization holds its mean in a tensor, which an export to ONNX would turn into an
            # input. A Rescaling computes the same.
            std = np.maximum(np.sqrt(variance), keras.config.epsilon())
            scale, offset = (1 / std).ravel().tolist(), (-mean / std).ravel().tolist()
            return keras.layers.Rescaling(scale, offset, dtype="float32", name=layer.name)
    return type(layer).from_config(config)
