"""Models in .keras files, as their authors saved them: read, checked and made trainable."""

import json
import re
import zipfile
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.files import error_reason
from moco_tf.keras_internals import all_layers
from moco_tf.paths import expand

REGISTER = (
    "decorate layers of your own with @keras.saving.register_keras_serializable(), and import "
    "their module: in the config file for moco-train, and in Python, before you call moco_tf, for "
    "all else"
)
SAVED = "give a model that keras.Model.save has written"
ZIP_BYTES = 22  # The size of an empty archive, and of the record at the end of any.
PROBABILITIES = ("softmax", "log_softmax", "sigmoid")
# Layers that change the shape of their inputs at most.
PASSING = (
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.Reshape,
)


def load(path: str) -> keras.Model:
    """Return the model in a .keras file, with its weights.

    Args:
        path: Path of the file, in which `~` and environment variables are expanded.

    Raises:
        UserError: If there is no such file, or it cannot be read. The message does not name it.
    """
    path = expand(path, "the path")
    if not tf.io.gfile.exists(path):
        raise UserError("there is no such file")
    if tf.io.gfile.isdir(path):
        raise UserError(f"it is a directory, not a file: {SAVED}")
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            is_complete = file.size() >= ZIP_BYTES and zipfile.is_zipfile(file)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"the file cannot be read ({error_reason(error)})") from error
    if not is_complete:
        raise UserError(f"the file cannot be read: it is not a complete Keras file: {SAVED}")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    # Arbitrary bytes can cause any exception in the parsers.
    except Exception as error:
        raise UserError(f"the file cannot be read{why_not_read(error)}") from error


def why_not_read(error: Exception) -> str:
    """Return the reason why Keras cannot read a model, and the remedy where it is known."""
    message = str(error)
    if "Could not locate" in message or "Could not deserialize" in message:
        found = re.search(r"Could not \w+ \w* ?'([^']+)'", message)
        layer = f" {found[1]}" if found else ""
        return f": Keras does not know{layer}: {REGISTER}"
    if "lambda" in message.lower():
        return (
            ": it contains a Lambda layer, whose code Keras does not run: replace it by one of "
            "Keras' layers, or by a registered one"
        )
    reason = error_reason(error)
    if reason.endswith(":"):  # The reason itself is in the next line.
        _, *following = [line.strip() for line in message.splitlines() if line.strip()]
        reason = " ".join([reason, *following[:1]])
    return f" ({reason}): {SAVED}"


def functional(model: Any) -> keras.Model:
    """Return a model as a plain functional one that can be trained.

    Args:
        model: Model with its weights. It must not be used any more.

    Returns:
        A model from one float32 image tensor to one tensor, as `with_constants` returns it.

    Raises:
        UserError: If the model has no such form, no weights, or is a classifier.
    """
    try:
        inputs, outputs = keras.tree.flatten(model.inputs), keras.tree.flatten(model.outputs)
    except (AttributeError, ValueError):
        inputs = outputs = []
    if not inputs or not outputs:
        raise UserError(
            f"it is a {type(model).__name__} without a graph of layers: save a functional or a "
            "Sequential model"
        )
    if len(inputs) > 1 or len(outputs) > 1:
        raise UserError(
            f"it has {len(inputs)} inputs and {len(outputs)} outputs: save a model with one of each"
        )
    [images], [features] = inputs, outputs
    if len(images.shape) != 4 or images.shape[-1] is None:
        raise UserError(
            f"it takes inputs of the shape {images.shape}, but images have the shape "
            "(None, height, width, channels)"
        )
    if len(features.shape) not in (2, 4) or features.shape[-1] is None:
        raise UserError(
            f"it returns outputs of the shape {features.shape}: save a model that returns feature "
            "maps (None, height, width, D) or features (None, D)"
        )
    if not weights_of(model):
        raise UserError("it has no weights that could be trained: save a model with some")
    network = keras.Model(images, features, name=model.name)
    if classifier := _classifier(network):
        name, function = classifier
        raise UserError(
            f"its last layer '{name}' returns class probabilities ({function}): save a model that "
            "ends with the features, before the classifier"
        )
    return with_constants(network)


def adapted(model: keras.Model) -> list[keras.layers.Normalization]:
    """Return the Normalization layers of a model that hold mean and variance in weights."""
    return [
        layer
        for layer in all_layers(model)
        if isinstance(layer, keras.layers.Normalization) and layer.weights
    ]


def weights_of(model: keras.Model) -> list[keras.Variable]:
    """Return the weights of a model without those that `with_constants` removes."""
    constant = {id(weight) for layer in adapted(model) for weight in layer.weights}
    return [w for w in model.weights if id(w) not in constant and not _is_lora(w)]


def kind(weight: keras.Variable) -> str:
    """Return what a weight is in its layer, such as "kernel"."""
    name = weight.path.rpartition("/")[2]
    return re.sub(r"^variable_\d+$", "variable", name)  # Keras numbers those without a name.


def with_constants(network: keras.Model) -> keras.Model:
    """Return a network whose Normalization layers have mean and variance in their config.

    Keras computes with the mean and the variance of an adapted layer as they were when the file was
    read. It would not follow weights that are assigned later, or restored from a checkpoint.

    The inputs become float32, since images are augmented and normalized in it. Weights of LoRA are
    removed: Keras adds them to the kernel when it saves a file, and does not train the kernel
    besides them.

    Args:
        network: A functional model with its weights. It must not be used any more.

    Returns:
        A network that computes the same. It is the same one if there is nothing to change.

    Raises:
        UserError: If a Normalization lies in a layer that creates it without constants.
    """
    layers = all_layers(network)
    normalizations = adapted(network)
    for layer in normalizations:
        mean, variance = (keras.ops.convert_to_numpy(w) for w in layer.weights[:2])
        layer.input_mean, layer.input_variance = mean.tolist(), variance.tolist()
    inputs = [layer for layer in layers if isinstance(layer, keras.layers.InputLayer)]
    are_float = all(layer.dtype == "float32" for layer in inputs)
    if are_float and not normalizations and not any(map(_is_lora, network.weights)):
        return network
    config = json.loads(network.to_json())
    _edit(config)
    changed = keras.saving.deserialize_keras_object(config, safe_mode=True)
    if left := adapted(changed):
        raise UserError(
            f"the layer '{left[0].path}' is an adapted Normalization inside of another layer: use "
            "it in the model itself, or create it with its mean and variance"
        )
    weights = weights_of(network)
    if [w.shape for w in weights] != [w.shape for w in changed.weights]:
        raise UserError(
            "its layers do not have the same weights when they are built again from their configs: "
            "let the get_config of your own layers return all of their arguments"
        )
    for weight, new in zip(weights, changed.weights, strict=True):
        new.assign(np.asarray(weight))
    return changed


def _edit(config: Any) -> None:
    """Make the inputs in a config float32, and remove LoRA."""
    parts = config.values() if isinstance(config, dict) else config
    if isinstance(config, dict):
        settings = config.get("config")
        if isinstance(settings, dict):
            if config.get("class_name") == "InputLayer":
                settings["dtype"] = "float32"
            for key in ("lora_rank", "lora_alpha"):
                settings.pop(key, None)
    for part in parts:
        if isinstance(part, dict | list):
            _edit(part)


def _is_lora(weight: keras.Variable) -> bool:
    return kind(weight).startswith("lora_")


def _classifier(network: keras.Model) -> tuple[str, str] | None:
    """Return the name and the function of the operation that returns probabilities at the end."""
    for operation in reversed(network.operations):
        function = getattr(operation, "activation", None)
        if isinstance(operation, keras.Model):
            try:
                return _classifier(keras.Model(operation.inputs, operation.outputs))
            except (AttributeError, ValueError):  # A model without a graph of layers.
                return None
        if (
            isinstance(operation, PASSING)
            or type(operation) is keras.layers.Activation
            and (function is keras.activations.linear)
        ):
            continue
        by_class = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
        name = by_class.get(type(operation).__name__, getattr(function, "__name__", ""))
        return (operation.name, name) if name in PROBABILITIES else None
    return None
