"""Networks of keras.applications, of presets of KerasHub and of .keras files, as they come."""

import os
from typing import Any

import keras
import tensorflow as tf

from moco_tf.data.pixels import Pixels, from_json, range_text
from moco_tf.encoders import applications, keras_files
from moco_tf.encoders.applications import Images, Original
from moco_tf.encoders.names import split
from moco_tf.encoders.preprocessing import pixels_of
from moco_tf.errors import UserError
from moco_tf.files import error_reason, read_json
from moco_tf.paths import expand

# The pixel values of a preset that moco-tf has exported, if they are not bytes.
PIXELS_FILE = "moco_tf_pixels.json"


def read(
    name: str, channels: int, load_weights: bool = True, image_size: int | None = None
) -> Original:
    """Return the network that a name stands for.

    Args:
        name: Name of an encoder that `moco_tf.encoders.names.is_foreign`.
        channels: Number of channels of the images; the networks of keras.applications take any.
        load_weights: Whether a preset of KerasHub is loaded with its weights.
        image_size: Side of the images in pixels. It matters to NASNet alone, which
            keras.applications builds for images of one size.

    Raises:
        UserError: If there is no such network, or it cannot be read or used.
    """
    form, rest = split(name)
    if form == "keras:":
        return applications.build(rest, channels, image_size)
    try:
        network, images = _preset(rest, load_weights) if form else (_file(rest), Images())
    except UserError as error:
        raise UserError(f"encoder '{name}': {error}") from error
    return Original(network, images)


def _file(path: str) -> keras.Model:
    network = keras_files.functional(keras_files.load(path))
    _require_bytes(pixels_of(network), f"use config.init=keras:{path} with the encoder of its run")
    applications.require_preprocessing(network, path)
    return network


def _require_bytes(pixels: Pixels, remedy: str) -> None:
    """Refuse an export of moco-tf for other pixel values than those of 8 bits per channel."""
    if not pixels.are_bytes:
        raise UserError(
            f"it takes pixel values in [{range_text(pixels)}], but as an encoder it would get "
            f"values in [0, 255]: {remedy}"
        )


def _preset(preset: str, load_weights: bool) -> tuple[keras.Model, Images]:
    try:
        import keras_hub
    except ImportError as error:
        raise UserError(
            "KerasHub is not installed: install the extra 'keras-hub': pip install '.[keras-hub]' "
            "in a checkout of moco-tf"
        ) from error
    if hasattr(keras_hub.models, preset):
        raise UserError(
            f"{preset} is a class, whose arguments are not known: build the network, save it with "
            "its save_to_preset, and give the directory, or give the name of a preset"
        )
    preset = expand(preset, "the preset")
    saved = os.path.join(preset, PIXELS_FILE)
    if tf.io.gfile.exists(saved):
        values = read_json(saved)
        try:
            pixels = from_json(values)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{saved} does not hold pixel values: export the preset again"
            ) from error
        _require_bytes(pixels, "use the encoder of its run with config.init=run:DIR")
    try:
        network = keras_hub.models.Backbone.from_preset(preset, load_weights=load_weights)
        if not load_weights and keras_files.adapted(network):
            network = keras_hub.models.Backbone.from_preset(preset)
    except Exception as error:  # A preset is read, or downloaded, by many parts.
        raise UserError(
            f"the preset cannot be loaded ({error_reason(error)}): give the directory of a "
            "preset, or the name of one, which is downloaded"
        ) from error
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except Exception as error:
        raise UserError(
            f"the preset has no image converter that can be loaded ({error_reason(error)}), so "
            "it is not known which images the network takes: save one to the same directory, "
            "with the save_to_preset of a keras_hub.layers.ImageConverter"
        ) from error
    images = Images(_values(converter.scale, 1.0), _values(converter.offset, 0.0))
    return keras_files.functional(network), images


def _values(setting: Any, default: float) -> tuple[float, ...]:
    """Return the numbers of a setting of an image converter: none, one, or one for each channel."""
    if setting is None:
        return (default,)
    return tuple(map(float, setting)) if hasattr(setting, "__len__") else (float(setting),)
