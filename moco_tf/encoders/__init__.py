"""Encoders: a convolutional backbone, and a projection head on its features."""

import keras
from keras import layers

from moco_tf.data.normalization import mean_and_std
from moco_tf.encoders.heads import head as build_head
from moco_tf.encoders.resnet import Network, network_of, resnet

__all__ = ["Network", "build", "network_of", "with_normalization"]


def build(name, head=None, dim=128, stem="imagenet", bn_groups=1, channels=3):
    """Builds a backbone, or with `head` a whole encoder of queries or keys.

    Args:
        name: str, such as "resnet50" or "resnet50w2"; see `moco_tf.encoders.resnet`.
        head: None for the backbone alone, "linear" (MoCo v1) or "mlp" (MoCo v2).
        dim: int C, length of queries and keys; read with a head only.
        stem: "imagenet", or "small" for images of about 32 pixels.
        bn_groups: int, BatchNormalization groups of the batch that one replica sees.
        channels: int, of the images; 3 is RGB.

    Returns:
        A `keras.Model` from images `[N, H, W, channels]`, normalised by
        `moco_tf.data.normalization.mean_and_std`, to features `[N, D]` or projections
        `[N, C]`. An encoder
        with a head has the two as `encoder.backbone` and `encoder.head`.

    Raises:
        UserError: an unknown name, head or stem.

    Example:
        >>> encoder = moco_tf.encoders.build("resnet50", head="mlp", bn_groups=8)
        >>> encoder.output_shape, encoder.backbone.output_shape
        ((None, 128), (None, 2048))
    """
    backbone = resnet(name, stem=stem, bn_groups=bn_groups, channels=channels)
    if head is None:
        return backbone
    images = keras.Input((None, None, channels), name="images")
    projection = build_head(head, backbone.output_shape[-1], dim)
    encoder = keras.Model(images, projection(backbone(images)), name=f"{name}_encoder")
    encoder.backbone, encoder.head = backbone, projection
    return encoder


def with_normalization(backbone):
    """A backbone that takes images as they are on disk.

    Args:
        backbone: a `keras.Model` from normalised images to features `[N, D]`.

    Returns:
        A `keras.Model` that shares its weights, from images `[N, H, W, C]` of 0 to 255, of as many
        channels as the backbone takes, to features `[N, D]` in float32.
    """
    channels = backbone.input_shape[-1]
    mean, std = mean_and_std(channels)
    normalize = layers.Normalization(
        mean=[255.0 * value for value in mean],
        variance=[(255.0 * value) ** 2 for value in std],
        dtype="float32",
        name="normalization",
    )
    images = keras.Input((None, None, channels), name="images")
    features = backbone(normalize(images))
    features = layers.Activation("linear", dtype="float32", name="float32")(features)
    return keras.Model(images, features, name=f"{backbone.name}_from_images")
