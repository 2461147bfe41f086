"""Encoders: convolutional backbones, with or without a projection head."""

from typing import NamedTuple

import keras
from keras import layers

from moco_tf.data.normalization import mean_and_std
from moco_tf.encoders import foreign
from moco_tf.encoders.heads import head as build_head
from moco_tf.encoders.names import check_name, encoder_name, is_foreign
from moco_tf.encoders.resnet import resnet

__all__ = [
    "Network",
    "build",
    "network_of",
    "random_backbone",
    "random_network",
    "with_normalization",
]


FROM_IMAGES = "_from_images"  # The end of the name of a model of `with_normalization`.


class Network(NamedTuple):
    """The arguments of `build` that build a backbone again.

    Attributes:
        encoder: Name of the backbone. That of a .keras file or a preset is without its folder.
        stem: `"imagenet"` or `"small"`.
        channels: Number of channels of the images.
    """

    encoder: str
    stem: str
    channels: int


def build(
    name: str,
    head: str | None = None,
    dim: int = 128,
    stem: str = "imagenet",
    bn_groups: int = 1,
    channels: int = 3,
    description: str | None = None,
) -> keras.Model:
    """Build a backbone, or with `head` an encoder of queries or keys.

    The weights are random, but for those of a .keras file or of a preset of KerasHub, which are
    read with it.

    Args:
        name: Name of the backbone: a ResNet such as `"resnet50"` or `"resnet50w2"`, all of which
            are in `moco_tf.encoders.resnet.ARCHITECTURES`; `"keras:NAME"`, a network of
            `keras.applications`; `"keras_hub:PRESET"`, with the name or the directory of a preset;
            or the path of a .keras file, a model from images in [0, 255] to feature maps or
            features.
        head: `None` for the backbone alone, `"linear"` for the head of MoCo v1, or `"mlp"` for
            the head of MoCo v2.
        dim: Length C of queries and keys; ignored without a head.
        stem: `"imagenet"`, or `"small"` for images of about 32 pixels (our ResNets only).
        bn_groups: Number of groups that BatchNormalization splits the batch of one replica into.
        channels: Number of channels of the images; 3 is RGB.
        description: What `moco_tf.encoders.foreign.describe` returned for a backbone that is not
            one of our ResNets. It is built from that, with random weights, and the name is only a
            name.

    Returns:
        A model from images `[N, H, W, channels]`, normalized with the mean and the standard
        deviation of `moco_tf.data.normalization.mean_and_std`, to features `[N, D]`, or with a
        head to projections `[N, C]`. A model with a head has the attributes `backbone` and `head`.

    Raises:
        UserError: If the name, the head or the stem is unknown, or the network cannot be used.

    Example:
        >>> import moco_tf
        >>> encoder = moco_tf.encoders.build("resnet18", head="mlp", bn_groups=8)
        >>> encoder.output_shape
        (None, 128)
        >>> encoder.backbone.output_shape
        (None, 512)
    """
    check_name(name, stem)
    if not is_foreign(name):
        backbone = resnet(name, stem=stem, bn_groups=bn_groups, channels=channels)
    elif description is None:
        backbone = foreign.load(name, bn_groups, channels)
    else:
        backbone = foreign.build(description, bn_groups)
    if head is None:
        return backbone
    images = keras.Input(backbone.input_shape[1:], name="images")
    projection = build_head(head, backbone.output_shape[-1], dim)
    encoder = keras.Model(images, projection(backbone(images)), name=f"{backbone.name}_encoder")
    encoder.backbone, encoder.head = backbone, projection
    return encoder


def with_normalization(backbone: keras.Model) -> keras.Model:
    """Return a model that normalizes its images before it applies a backbone.

    Args:
        backbone: A model from normalized images `[N, H, W, C]` to features `[N, D]`.

    Returns:
        A model that shares the weights of the backbone, from images `[N, H, W, C]` with values
        between 0 and 255 to features `[N, D]` in float32.

    Example:
        >>> import numpy as np
        >>> import moco_tf
        >>> backbone = moco_tf.encoders.build("resnet8", stem="small")
        >>> model = moco_tf.encoders.with_normalization(backbone)
        >>> images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3))
        >>> model.predict(images, verbose=0).shape
        (2, 64)
    """
    channels = backbone.input_shape[-1]
    mean, std = mean_and_std(channels)
    normalize = layers.Normalization(
        mean=[255.0 * value for value in mean],
        variance=[(255.0 * value) ** 2 for value in std],
        dtype="float32",
        name="normalization",
    )
    images = keras.Input(backbone.input_shape[1:], name="images")
    features = backbone(normalize(images))
    features = layers.Activation("linear", dtype="float32", name="float32")(features)
    return keras.Model(images, features, name=f"{backbone.name}{FROM_IMAGES}")


def network_of(backbone: keras.Model) -> Network:
    """Return the name, the stem and the channels that a backbone was built with.

    Args:
        backbone: A model of `build` without a head, or of `with_normalization`.

    Example:
        >>> import moco_tf
        >>> network_of(moco_tf.encoders.build("resnet8", stem="small"))
        Network(encoder='resnet8', stem='small', channels=3)
    """
    backbone = _without_normalization(backbone)
    channels = backbone.input_shape[-1]
    if name := encoder_name(backbone.name):
        return Network(name, "imagenet", channels)
    is_imagenet = backbone.get_layer("stem_conv").kernel_size == (7, 7)
    return Network(backbone.name, "imagenet" if is_imagenet else "small", channels)


def foreign_part(backbone: keras.Model) -> keras.Model | None:
    """Return a backbone without the normalization if it is not one of our ResNets, or None.

    Args:
        backbone: A model of `build` without a head, or of `with_normalization`.
    """
    backbone = _without_normalization(backbone)
    return backbone if encoder_name(backbone.name) else None


def _without_normalization(backbone: keras.Model) -> keras.Model:
    if not backbone.name.endswith(FROM_IMAGES):
        return backbone
    [inner] = [layer for layer in backbone.layers if isinstance(layer, keras.Model)]
    return inner


def random_network(
    name: str,
    stem: str = "imagenet",
    channels: int = 3,
    seed: int = 0,
    description: str | None = None,
) -> keras.Model:
    """Build a backbone with random weights that takes normalized images.

    Sets the random seed of Python, NumPy and TensorFlow.

    Args:
        name: Name of the backbone, as for `build`. Weights that it brings along are not used.
        stem: `"imagenet"` or `"small"`, as for `build`.
        channels: Number of channels of the images.
        seed: Random seed of the weights.
        description: As for `build`.

    Returns:
        A model from normalized images `[N, H, W, channels]` to features `[N, D]`.

    Raises:
        UserError: If the name or the stem is unknown.
    """
    if is_foreign(name) and description is None:
        description = foreign.describe(name, channels)
    keras.utils.set_random_seed(seed)
    return build(name, stem=stem, channels=channels, description=description)


def random_backbone(
    name: str,
    stem: str = "imagenet",
    channels: int = 3,
    seed: int = 0,
    description: str | None = None,
) -> keras.Model:
    """Build a backbone with random weights, the baseline for the features of a trained one.

    Sets the random seed of Python, NumPy and TensorFlow.

    Args:
        name: Name of the backbone, as for `build`.
        stem: `"imagenet"` or `"small"`, as for `build`.
        channels: Number of channels of the images.
        seed: Random seed of the weights.
        description: As for `build`.

    Returns:
        A model from images `[N, H, W, channels]` with values between 0 and 255 to features
        `[N, D]` in float32.

    Raises:
        UserError: If the name or the stem is unknown.

    Example:
        >>> import moco_tf
        >>> backbone = moco_tf.encoders.random_backbone("resnet8", stem="small", seed=1)
        >>> backbone.output_shape
        (None, 64)
    """
    return with_normalization(random_network(name, stem, channels, seed, description))
