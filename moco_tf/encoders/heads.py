"""Projection heads: from the backbone's features to the space of queries and keys."""

import keras
from keras import layers

from moco_tf.errors import UserError

HEADS = ("linear", "mlp")


def head(name, features, dim):
    """Builds a projection head.

    Args:
        name: "linear", one layer (MoCo v1), or "mlp", a hidden layer as wide as the features and a
            ReLU before it (MoCo v2: 2048-2048-128 on a ResNet-50).
        features: int D, length of the backbone's features.
        dim: int C, length of queries and keys, 128 in the papers.

    Returns:
        A `keras.Model`, `[N, D]` to `[N, C]`. It does not normalise; the model does.

    Raises:
        UserError: the name is neither of the two.
    """
    if name not in HEADS:
        raise UserError(f"unknown head '{name}': choose linear (MoCo v1) or mlp (MoCo v2)")
    inputs = keras.Input((features,), name="features")
    x = inputs
    if name == "mlp":
        x = _dense(features, fan_in=features, activation="relu", name="hidden")(x)
    outputs = _dense(dim, fan_in=features, name="projection")(x)
    return keras.Model(inputs, outputs, name=f"{name}_head")


def _dense(units, fan_in, **kwargs):
    """A dense layer with torch.nn.Linear's initialisation, uniform within 1/sqrt(fan_in)."""
    limit = fan_in**-0.5
    return layers.Dense(
        units,
        kernel_initializer=keras.initializers.RandomUniform(-limit, limit),
        bias_initializer=keras.initializers.RandomUniform(-limit, limit),
        **kwargs,
    )
