"""Encoders: convolutional backbones, with or without a projection head."""

import os
from typing import NamedTuple

import keras

from moco_tf import seeds
from moco_tf.data import pixels as pixel_values
from moco_tf.data.pixels import Pixels
from moco_tf.encoders import foreign
from moco_tf.encoders.cloning import for_pretraining
from moco_tf.encoders.heads import head as build_head
from moco_tf.encoders.names import check_name, encoder_argument, encoder_name, is_foreign
from moco_tf.encoders.preprocessing import (
    STEM,
    pixels_of,
    with_normalization,
    without_normalization,
)
from moco_tf.encoders.resnet import resnet
from moco_tf.errors import UserError
from moco_tf.ranges import COUNT, checked

__all__ = [
    "Network",
    "build",
    "for_pretraining",
    "network_of",
    "pixels_of",
    "random_backbone",
    "random_network",
    "with_normalization",
    "without_normalization",
]


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
    name: str | os.PathLike[str],
    head: str | None = None,
    dim: int = 128,
    stem: str = "imagenet",
    bn_groups: int = 1,
    channels: int = 3,
    description: str | None = None,
    pixels: Pixels | None = None,
) -> keras.Model:
    """Build a backbone, or with `head` an encoder of queries or keys.

    The weights are random, except for those of a .keras file or of a preset of KerasHub, which are
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
        bn_groups: Number of groups that BatchNormalization splits the batch of one replica into, 1
            or greater.
        channels: Number of channels of the images, 1 or greater; 3 is RGB.
        description: What `moco_tf.encoders.foreign.describe` returned for a backbone that is not
            one of our ResNets. It is built from that, with random weights, and the name is only a
            name.
        pixels: The pixel values of the images before the normalization; by default those of images
            with 8 bits per channel. The model keeps them for `with_normalization`.

    Returns:
        A model from images `[N, H, W, channels]`, normalized with the mean and the standard
        deviation of `pixels`, to features `[N, D]`, or with a head to projections `[N, C]`. It has
        the attribute `pixels`, and with a head the attributes `backbone` and `head`.

    Raises:
        UserError: If the name, the head or the stem is unknown, a number is out of range, or the
            network cannot be used.

    Example:
        >>> import moco_tf
        >>> encoder = moco_tf.encoders.build("resnet18", head="mlp", bn_groups=8)
        >>> encoder.output_shape
        (None, 128)
        >>> encoder.backbone.output_shape
        (None, 512)
    """
    name = encoder_argument(name)
    check_name(name, stem)
    bn_groups = checked("bn_groups", bn_groups, COUNT)
    channels = checked("channels", channels, COUNT)
    if keras.config.image_data_format() != "channels_last":
        raise UserError(
            "keras.config.image_data_format() is 'channels_first', but images have their channels "
            "last here: call keras.config.set_image_data_format('channels_last')"
        )
    if not is_foreign(name):
        backbone = resnet(name, stem=stem, bn_groups=bn_groups, channels=channels)
    elif description is None:
        backbone = foreign.load(name, bn_groups, channels)
    else:
        backbone = foreign.build(description, bn_groups)
    channels = backbone.input_shape[-1]  # A description has its own.
    if pixels is not None and (not isinstance(pixels, Pixels) or len(pixels.mean) != channels):
        raise UserError(
            f"pixels={pixels!r:.100}: pass a moco_tf.data.pixels.Pixels with a mean and a standard "
            f"deviation for each of the {channels} channels, or None for images with 8 bits per "
            "channel"
        )
    backbone.pixels = pixels or pixel_values.default(channels)
    if head is None:
        return backbone
    dim = checked("dim", dim, COUNT)
    images = keras.Input(backbone.input_shape[1:], name="images")
    projection = build_head(head, backbone.output_shape[-1], dim)
    encoder = keras.Model(images, projection(backbone(images)), name=f"{backbone.name}_encoder")
    encoder.backbone, encoder.head, encoder.pixels = backbone, projection, backbone.pixels
    return encoder


def network_of(backbone: keras.Model) -> Network:
    """Return the name, the stem and the channels that a backbone was built with.

    Args:
        backbone: A model of `build` without a head, or of `with_normalization`.

    Raises:
        UserError: If it is another model.

    Example:
        >>> import moco_tf
        >>> network_of(moco_tf.encoders.build("resnet8", stem="small"))
        Network(encoder='resnet8', stem='small', channels=3)
    """
    backbone = without_normalization(backbone)
    channels = backbone.input_shape[-1]
    if name := encoder_name(backbone.name):
        return Network(name, "imagenet", channels)
    stems = [layer for layer in backbone.layers if layer.name == STEM]
    if not stems:
        raise UserError(
            f"the model {backbone.name} is not a backbone of this project: use a result of "
            "moco_tf.load_backbone, or of moco_tf.encoders.build without a head"
        )
    is_imagenet = stems[0].kernel_size == (7, 7)
    return Network(backbone.name, "imagenet" if is_imagenet else "small", channels)


def foreign_part(backbone: keras.Model) -> keras.Model | None:
    """Return a backbone without the normalization if it is not one of our ResNets, or None.

    Args:
        backbone: A model of `build` without a head, or of `with_normalization`.
    """
    backbone = without_normalization(backbone)
    return backbone if encoder_name(backbone.name) else None


def random_network(
    name: str | os.PathLike[str],
    stem: str = "imagenet",
    channels: int = 3,
    seed: int = 0,
    description: str | None = None,
    pixels: Pixels | None = None,
) -> keras.Model:
    """Build a backbone with random weights that takes normalized images.

    Sets the random seed of TensorFlow. Those of Python and NumPy do not change.

    Args:
        name: Name of the backbone, as for `build`. Weights that it brings along are not used.
        stem: `"imagenet"` or `"small"`, as for `build`.
        channels: Number of channels of the images.
        seed: Random seed of the weights.
        description: As for `build`.
        pixels: As for `build`.

    Returns:
        A model from normalized images `[N, H, W, channels]` to features `[N, D]`.

    Raises:
        UserError: If the name or the stem is unknown.
    """
    name = encoder_argument(name)
    if is_foreign(name) and description is None:
        description = foreign.describe(name, channels)
    with seeds.restored_generators():
        keras.utils.set_random_seed(seed)
        return build(name, stem=stem, channels=channels, description=description, pixels=pixels)


def random_backbone(
    name: str | os.PathLike[str],
    stem: str = "imagenet",
    channels: int = 3,
    seed: int = 0,
    description: str | None = None,
    pixels: Pixels | None = None,
) -> keras.Model:
    """Build a backbone with random weights, the baseline for the features of a trained one.

    Sets the random seed of TensorFlow. Those of Python and NumPy do not change.

    Args:
        name: Name of the backbone, as for `build`.
        stem: `"imagenet"` or `"small"`, as for `build`.
        channels: Number of channels of the images.
        seed: Random seed of the weights.
        description: As for `build`.
        pixels: As for `build`.

    Returns:
        A model as `with_normalization` returns: from images `[N, H, W, channels]` to features
        `[N, D]` in float32.

    Raises:
        UserError: If the name or the stem is unknown.

    Example:
        >>> import moco_tf
        >>> backbone = moco_tf.encoders.random_backbone("resnet8", stem="small", seed=1)
        >>> backbone.output_shape
        (None, 64)
    """
    return with_normalization(random_network(name, stem, channels, seed, description, pixels))
