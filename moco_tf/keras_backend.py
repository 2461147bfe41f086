"""The check that Keras uses TensorFlow."""

import json
import os
import sys

from moco_tf.errors import UserError


def require_tensorflow() -> None:
    """Check that Keras uses TensorFlow, or will when it is imported.

    Raises:
        UserError: If it uses another backend.
    """
    backend, setting = _backend()
    if backend != "tensorflow":
        raise UserError(
            f"{setting} makes Keras use the backend '{backend}', but moco-tf needs 'tensorflow': "
            "set the environment variable KERAS_BACKEND=tensorflow"
        )


def _backend() -> tuple[str, str]:
    """Return the backend of Keras, and what sets it."""
    if "keras.src.backend" in sys.modules:
        import keras

        return keras.config.backend(), "the program that imported Keras"
    # As Keras decides when it is imported. Importing it here would fail without the other backend.
    if backend := os.environ.get("KERAS_BACKEND"):
        return backend, f"the environment variable KERAS_BACKEND={backend}"
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    path = os.path.join(home, "keras.json")
    try:
        with open(path, encoding="utf-8") as file:
            return str(json.load(file)["backend"]), f"the file {path}"
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow", ""
