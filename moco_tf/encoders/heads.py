"""Projection heads, from the features of a backbone to queries and keys."""

from typing import Any

import keras
from keras import layers

from moco_tf.errors import UserError

HEADS = ("linear", "mlp")


def head(name: str, features: int, dim: int) -> keras.Model:
    """Build a projection head.

    Args:
        name: `"linear"` for a single layer (MoCo v1), or `"mlp"` for a hidden layer of `features`
            units and a ReLU before it (MoCo v2: 2048-2048-128 on a ResNet-50).
        features: Length D of the features of the backbone.
        dim: Length C of queries and keys; 128 in the papers.

    Returns:
        A model from features `[N, D]` to projections `[N, C]`, which are not L2-normalized.

    Raises:
        UserError: If the name is unknown.

    Example:
        >>> head("mlp", features=64, dim=128).output_shape
        (None, 128)
    """
    if name not in HEADS:
        raise UserError(f"unknown head '{name}': choose linear (MoCo v1) or mlp (MoCo v2)")
    inputs = keras.Input((features,), name="features")
    x = inputs
    if name == "mlp":
        x = _dense(features, fan_in=features, activation="relu", name="hidden")(x)
    outputs = _dense(dim, fan_in=features, name="projection")(x)
    return keras.Model(inputs, outputs, name=f"{name}_head")


def _dense(units: int, fan_in: int, **kwargs: Any) -> layers.Dense:
    """Return a dense layer with the initialization of torch.nn.Linear.

    Kernel and bias are uniform between -1/sqrt(fan_in) and 1/sqrt(fan_in).
    """
    limit = fan_in**-0.5
    return layers.Dense(
        units,
        kernel_initializer=keras.initializers.RandomUniform(-limit, limit),
        bias_initializer=keras.initializers.RandomUniform(-limit, limit),
        **kwargs,
    )
