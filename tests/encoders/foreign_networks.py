"""Small networks that are not ours, as people bring them along."""

import keras
import numpy as np
from keras import layers


def small_network(channels=3, size=None, dropout=0.5, seed=0):
    """Return a network from [0, 255] to feature maps `[N, h, w, 12]`, as Keras' users build one.

    It has a model in it, BatchNormalization of other settings than ours, and a random layer.
    """
    images = keras.Input((size, size, channels))
    x = layers.Rescaling(1 / 255)(images)
    x = layers.Conv2D(8, 3, 2, use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.8, epsilon=0.01, name="first_bn")(x)
    x = layers.ReLU()(x)
    block = keras.Sequential(
        [
            keras.Input((None, None, 8)),
            layers.Conv2D(12, 3, padding="same"),
            layers.BatchNormalization(scale=False, name="inner_bn"),
            layers.Activation("relu"),
        ],
        name="block",
    )
    x = layers.Dropout(dropout)(block(x))
    network = randomize(keras.Model(images, x, name="small"))
    rng = np.random.default_rng(seed)
    for weight in network.weights:
        if weight.path.endswith("kernel"):
            weight.assign(rng.normal(0, 0.2, weight.shape))
    return network


def randomize(network, variance=1.0):
    """Randomize the vectors, since a copy could leave out what is the identity, and return it.

    In the MobileNets, images vanish behind many small kernels unless `variance`, the middle of the
    moving variances, is small too.
    """
    for number, weight in enumerate(network.weights):
        kind = weight.path.rpartition("/")[2]
        rng = np.random.default_rng(number)
        if kind in ("gamma", "moving_variance"):
            middle = variance if kind == "moving_variance" else 1.0
            weight.assign(rng.uniform(0.5, 1.5, weight.shape) * middle)
        elif kind in ("beta", "bias", "moving_mean"):
            weight.assign(rng.normal(0, 0.1, weight.shape))
    return network


def images(count=4, size=32, channels=3):
    """Return random images, float32 in [0, 255]."""
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (count, size, size, channels)).astype(np.float32)


def means(feature_maps):
    """Return the means over height and width, as NumPy computes them."""
    return np.asarray(feature_maps, np.float64).mean((1, 2))
