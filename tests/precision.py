"""Computation in float64, in which independent implementations agree to many digits."""

import contextlib

import keras


@contextlib.contextmanager
def in_float64():
    """Let Keras compute in float64 in the block."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_floatx("float32")
