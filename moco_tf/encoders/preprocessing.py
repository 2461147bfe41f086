"""Models that take images as they are: the normalization in front of a backbone."""

import dataclasses
import warnings
from typing import Any

import keras
import numpy as np
from keras import layers

from moco_tf.data import pixels as pixel_values
from moco_tf.data.pixels import Pixels
from moco_tf.encoders.names import NETWORK, encoder_name
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.errors import UserError
from moco_tf.keras_internals import all_layers

NORMALIZATION = "normalization"  # The name of the layer that normalizes.
RANGE = "value_range"  # The name of the layer that maps the value range to [0, 1].
FEATURES = "float32"  # The name of the layer that returns the features.
STEM = "stem_conv"  # The name of the first layer of our ResNets.
FROM_IMAGES = "_from_images"  # The end of the name of a model of `with_normalization`.


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
        Values outside of the range are clipped to it, except for images with 8 bits per channel,
        whose values are never outside. It has the attribute `pixels`, and `checkpoint` if the
        backbone has it.

    Raises:
        UserError: If the backbone is not a built model, or already normalizes its images, for
            other values than `pixels`.

    Example:
        >>> import numpy as np
        >>> import moco_tf
        >>> backbone = moco_tf.encoders.build("resnet8", stem="small")
        >>> model = moco_tf.encoders.with_normalization(backbone)
        >>> images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3))
        >>> model.predict(images, verbose=0).shape
        (2, 64)
    """
    if not isinstance(backbone, keras.Model) or not backbone.built:
        raise UserError(
            f"backbone={backbone!r:.100}: pass a model from normalized images to features, such as "
            "one of moco_tf.encoders.build"
        )
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
    features = layers.Activation("linear", dtype="float32", name=FEATURES)(features)
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
            One that Keras has cloned or saved and loaded, without a head, is recognized.
            Warns if a model contains such a network, but no layer that normalizes its images.

    Example:
        >>> import moco_tf
        >>> for_images(moco_tf.encoders.build("resnet8", stem="small")).name
        'resnet8_from_images'
    """
    if not isinstance(backbone, keras.Model) or has_normalization(backbone):
        return backbone
    if isinstance(getattr(backbone, "pixels", None), Pixels) or _is_network(backbone):
        return with_normalization(backbone)
    _warn_of_missing_normalization(backbone)
    return backbone


def _warn_of_missing_normalization(model: keras.Model) -> None:
    """Warn if a model contains a network of `build`, but no layer that normalizes its images.

    Its features of images in [0, 255] would say nothing about the network.
    """
    every = all_layers(model)
    for network in every:
        if network is model or not isinstance(network, keras.Model) or not _is_network(network):
            continue
        inside = {id(layer) for layer in all_layers(network)}
        outside = [layer for layer in every if id(layer) not in inside]
        if not any(isinstance(layer, layers.Normalization | layers.Rescaling) for layer in outside):
            warnings.warn(
                f"the model {model.name} contains {network.name}, which takes normalized images, "
                "but no Normalization or Rescaling layer: unless it normalizes them in another "
                "way, pass moco_tf.encoders.with_normalization(model)",
                stacklevel=3,
            )


def require_images(backbone: Any, source: Any, image_size: int) -> None:
    """Raise a `UserError` if a backbone takes other images than views of those of a source.

    Args:
        backbone: A backbone. The channels are known from its `pixels` or `input_shape`, and the
            pixel values from its `pixels`, or from the layers of a file that this project wrote.
        source: A `moco_tf.data.sources.source.Source`.
        image_size: Side of the views in pixels.
    """
    shape = getattr(backbone, "input_shape", None)
    pixels = getattr(backbone, "pixels", None)
    pixels = pixels if isinstance(pixels, Pixels) else None
    parts = backbone.layers if isinstance(backbone, keras.Model) else []
    names = {layer.name for layer in parts}
    if pixels is None and {NORMALIZATION, FEATURES} <= names:
        pixels = pixels_of(backbone)
    channels = len(pixels.mean) if pixels else None
    if isinstance(shape, tuple) and len(shape) == 4:
        _, height, width, channels = shape
        if height not in (None, image_size) or width not in (None, image_size):
            raise UserError(
                f"image_size={image_size} does not fit the backbone, which takes images of "
                f"{height}x{width} pixels only: use that size"
            )
    remedy = (
        "use images that the backbone takes, by the arguments of moco_tf.load_source or with the "
        "Run.source of its run"
    )
    if channels not in (None, source.channels):
        raise UserError(
            f"the images of '{source.name}' have {source.channels} channels, but the backbone "
            f"takes {channels}: {remedy}"
        )
    if pixels and not pixel_values.same_range(pixels.value_range, source.value_range):
        raise UserError(
            f"the pixel values of '{source.name}' are in [{pixel_values.range_text(source)}], but "
            f"the backbone takes [{pixel_values.range_text(pixels)}]: {remedy}"
        )


def _is_network(model: keras.Model) -> bool:
    """Return whether a model is a backbone of `build`, or Keras' copy without its attributes."""
    names = [layer.name for layer in model.layers]
    if encoder_name(model.name):
        return NETWORK in names
    # Other networks have a layer of this name, too, but not this project's BatchNormalization.
    return STEM in names and any(isinstance(layer, BatchNormalization) for layer in model.layers)


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
