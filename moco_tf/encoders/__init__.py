"""Encoders: convolutional backbones, with or without a projection head."""

import dataclasses
import os
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from moco_tf.data import pixels as pixel_values
from moco_tf.data.pixels import Pixels
from moco_tf.encoders import foreign
from moco_tf.encoders.heads import head as build_head
from moco_tf.encoders.names import check_name, encoder_argument, encoder_name, is_foreign
from moco_tf.encoders.resnet import resnet
from moco_tf.errors import UserError
from moco_tf.ranges import COUNT, checked

__all__ = [
    "Network",
    "build",
    "network_of",
    "pixels_of",
    "random_backbone",
    "random_network",
    "with_normalization",
    "without_normalization",
]


NORMALIZATION = "normalization"  # The name of the layer that normalizes.
RANGE = "value_range"  # The name of the layer that maps the value range to [0, 1].
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
    if not is_foreign(name):
        backbone = resnet(name, stem=stem, bn_groups=bn_groups, channels=channels)
    elif description is None:
        backbone = foreign.load(name, bn_groups, channels)
    else:
        backbone = foreign.build(description, bn_groups)
    backbone.pixels = pixels or pixel_values.default(channels)
    if head is None:
        return backbone
    dim = checked("dim", dim, COUNT)
    images = keras.Input(backbone.input_shape[1:], name="images")
    projection = build_head(head, backbone.output_shape[-1], dim)
    encoder = keras.Model(images, projection(backbone(images)), name=f"{backbone.name}_encoder")
    encoder.backbone, encoder.head, encoder.pixels = backbone, projection, backbone.pixels
    return encoder


def with_normalization(backbone: keras.Model, pixels: Pixels | None = None) -> keras.Model:
    """Return a model that normalizes its images before it applies a backbone.

    Args:
        backbone: A model from normalized images `[N, H, W, C]` to features `[N, D]`. A model that
            this function returned is returned as it is.
        pixels: The pixel values of the images, and their mean and deviation; by default those that
            `pixels_of` returns for the backbone.

    Returns:
        A model that shares the weights of the backbone, from images `[N, H, W, C]` with values in
        the value range of `pixels`, which is by default 0 to 255, to features `[N, D]` in float32.
        Values outside of the range are clipped to it, but for those of images with 8 bits per
        channel, which are never outside. It has the attribute `pixels`, and `checkpoint` if the
        backbone has it.

    Raises:
        UserError: If the backbone normalizes its images already, and as other values than `pixels`.

    Example:
        >>> import numpy as np
        >>> import moco_tf
        >>> backbone = moco_tf.encoders.build("resnet8", stem="small")
        >>> model = moco_tf.encoders.with_normalization(backbone)
        >>> images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3))
        >>> model.predict(images, verbose=0).shape
        (2, 64)
    """
    if has_normalization(backbone):
        own = pixels_of(backbone)
        # The file of a model does not say in which type its images were stored.
        if pixels and pixels != dataclasses.replace(own, dtype=pixels.dtype):
            raise UserError(
                f"the model {backbone.name} already normalizes its images, for other pixel values "
                "than the given ones: pass its network, encoders.without_normalization(model)"
            )
        return backbone
    pixels = pixels or pixels_of(backbone)
    # The mean and the deviation are for values in [0, unit].
    unit = 255.0 if pixels.are_bytes else 1.0
    normalize = layers.Normalization(
        mean=[unit * value for value in pixels.mean],
        variance=[(unit * value) ** 2 for value in pixels.std],
        dtype="float32",
        name=NORMALIZATION,
    )
    images = keras.Input(backbone.input_shape[1:], name="images")
    features = backbone(normalize(in_range(images, pixels)))
    features = layers.Activation("linear", dtype="float32", name="float32")(features)
    model = keras.Model(images, features, name=f"{backbone.name}{FROM_IMAGES}")
    model.pixels = pixels
    if checkpoint := getattr(backbone, "checkpoint", ""):
        model.checkpoint = checkpoint
    return model


def for_images(backbone: Any) -> Any:
    """Return a backbone that takes images as they are, with normalization if it needs it.

    Args:
        backbone: A model of `build`, which gets the normalization, or any other callable from
            images to features, such as a result of `with_normalization`, which stays as it is.

    Example:
        >>> import moco_tf
        >>> for_images(moco_tf.encoders.build("resnet8", stem="small")).name
        'resnet8_from_images'
    """
    is_built = isinstance(backbone, keras.Model) and isinstance(
        getattr(backbone, "pixels", None), Pixels
    )
    return with_normalization(backbone) if is_built else backbone


def has_normalization(model: keras.Model) -> bool:
    """Return whether a model is a result of `with_normalization`, or was loaded from its file."""
    # The name of a backbone from a .keras file is that of the file, which may end in the same way.
    networks = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    names = [layer.name for layer in model.layers]
    return model.name.endswith(FROM_IMAGES) and NORMALIZATION in names and len(networks) == 1


def without_normalization(backbone: keras.Model) -> keras.Model:
    """Return the network of a model of `with_normalization`, or any other model as it is.

    Args:
        backbone: A model of `build` or of `with_normalization`. `pixels_of` returns the pixel
            values of the latter; the network of a model that was loaded from a file does not know
            them.

    Returns:
        A model that shares the weights, from normalized images `[N, H, W, C]` to features `[N, D]`.

    Example:
        >>> import moco_tf
        >>> backbone = moco_tf.encoders.random_backbone("resnet8", stem="small")
        >>> without_normalization(backbone).name
        'resnet8'
    """
    if not has_normalization(backbone):
        return backbone
    [network] = [layer for layer in backbone.layers if isinstance(layer, keras.Model)]
    return network


def rescaled(images: keras.KerasTensor, pixels: Pixels) -> keras.KerasTensor:
    """Normalize images as `with_normalization` does, by layers without tensors of their own.

    Args:
        images: An input, `[N, H, W, C]` with values in the value range.
        pixels: The pixel values of the images, and their mean and deviation.
    """
    if pixels.are_bytes:
        return layers.Rescaling(*pixels.scale_and_offset())(images)
    fractions = dataclasses.replace(pixels, value_range=(0.0, 1.0))
    return layers.Rescaling(*fractions.scale_and_offset())(in_range(images, pixels))


def in_range(images: keras.KerasTensor, pixels: Pixels) -> keras.KerasTensor:
    """Return images with values in [0, 1], or bytes as they are."""
    if pixels.are_bytes:
        return images
    low, high = pixels.value_range
    scale = layers.Rescaling(1 / (high - low), -low / (high - low), dtype="float32", name=RANGE)
    return layers.ReLU(max_value=1.0, dtype="float32", name="clip")(scale(images))


def pixels_of(model: keras.Model) -> Pixels:
    """Return the pixel values that a model takes, or that are normalized for it.

    Args:
        model: A model of `build` or of `with_normalization`, or one that was loaded from a file of
            the latter. Other models are taken to be for images with 8 bits per channel.

    Example:
        >>> import moco_tf
        >>> pixels_of(moco_tf.encoders.build("resnet8", stem="small")).value_range
        (0.0, 255.0)
    """
    if isinstance(pixels := getattr(model, "pixels", None), Pixels):
        return pixels
    pixels = pixel_values.default(model.input_shape[-1])
    found = {layer.name: layer for layer in getattr(model, "layers", [])}
    if NORMALIZATION not in found:
        return pixels
    config, unit = found[NORMALIZATION].get_config(), 255.0
    if RANGE in found:
        scale, offset, unit = found[RANGE].scale, found[RANGE].offset, 1.0
        low = pixel_values.rounded(-offset / scale)
        pixels = dataclasses.replace(
            pixels, dtype="float32", value_range=(low, pixel_values.rounded(low + 1 / scale))
        )
    mean, variance = np.reshape(config["mean"], -1), np.reshape(config["variance"], -1)
    return dataclasses.replace(
        pixels,
        mean=tuple(pixel_values.rounded(value / unit) for value in mean),
        std=tuple(pixel_values.rounded(np.sqrt(value) / unit) for value in variance),
    )


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
    stems = [layer for layer in backbone.layers if layer.name == "stem_conv"]
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

    Sets the random seed of Python, NumPy and TensorFlow.

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

    Sets the random seed of Python, NumPy and TensorFlow.

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
