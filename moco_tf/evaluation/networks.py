"""A checksum of what a network computes besides its weights, to recognize it in stored results."""

import hashlib
import json
import os
import re
import warnings
from typing import Any

import keras
import tensorflow as tf

# Keys of a config whose values are names of layers, or lists with such names.
NAME_KEYS = ("name", "keras_history", "input_layers", "output_layers")
# They depend on earlier calls of a layer or on a training, and not on what the layer computes.
OTHER_KEYS = ("build_config", "compile_config", "shared_object_id")


def network_checksum(backbone: Any) -> str | None:
    """Return a SHA-256 checksum of the layers of a network, their arguments and connections.

    It also covers layers without weights, such as `Rescaling` and pooling. For a
    `keras.layers.TFSMLayer`, it covers the file `saved_model.pb`, so that a SavedModel that is
    exported again has another checksum. The numbers that Keras appends to the names of layers have
    no effect. Weights and Python code, such as the `call` of a layer, are not covered.

    Args:
        backbone: A callable from images to features.

    Returns:
        64 hexadecimal digits; None if the backbone is not a layer or model of Keras, or has no
        config.
    """
    if not isinstance(backbone, keras.layers.Layer):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of the code of lambdas.
            config = keras.saving.serialize_keras_object(backbone)
        names: dict[str, str] = {}
        _number_names(config, names)
        text = json.dumps(_essence(config, names), sort_keys=True)
    except Exception:  # The get_config of a layer of the user's own.
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def _number_names(value: Any, names: dict[str, str]) -> None:
    """Collect the names that Keras has chosen, such as "conv2d_7", and number them from 0."""
    if isinstance(value, dict):
        class_name, config = value.get("class_name"), value.get("config")
        if isinstance(class_name, str) and isinstance(config, dict):
            name = config.get("name")
            if isinstance(name, str) and _is_automatic(name, class_name):
                names.setdefault(name, f"{class_name} {len(names)}")
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            _number_names(part, names)


def _is_automatic(name: str, class_name: str) -> bool:
    """Return whether a name is that of a class, in snake case and possibly with a number."""
    words = re.sub(r"_\d+$", "", name)
    return words.replace("_", "") == class_name.replace("_", "").lower()


def _essence(value: Any, names: dict[str, str], is_name: bool = False) -> Any:
    """Return the part of a config that determines what is computed, with names by number."""
    if isinstance(value, dict):
        if value.get("class_name") == "__lambda__":  # Its code has paths and line numbers.
            return "lambda"
        parts = {
            key: _essence(part, names, key in NAME_KEYS)
            for key, part in value.items()
            if key not in OTHER_KEYS
        }
        if value.get("class_name") == "TFSMLayer":
            parts["config"] = {**parts["config"], "filepath": _file(value["config"]["filepath"])}
        return parts
    if isinstance(value, list | tuple):
        return [_essence(part, names, is_name) for part in value]
    return names.get(value, value) if is_name and isinstance(value, str) else value


def _file(path: str) -> str:
    """Return the checksum of the graph of a SavedModel."""
    with tf.io.gfile.GFile(os.path.join(path, "saved_model.pb"), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
