"""Networks of keras.applications, of presets of KerasHub and of .keras files, as they come."""

import re
import warnings
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from moco_tf.encoders.names import APPLICATIONS, split
from moco_tf.errors import UserError
from moco_tf.files import error_reason
from moco_tf.paths import expand

# The means that `preprocess_input` subtracts in the mode "caffe", for RGB.
CAFFE_MEAN = (123.68, 116.779, 103.939)
NASNET_SIZES = {"NASNetMobile": 224, "NASNetLarge": 331}
REGISTER = (
    "decorate layers of your own with @keras.saving.register_keras_serializable(), and import "
    "their module, for example in the config file"
)


class Images(NamedTuple):
    """The images that a network takes, by what is done to values in [0, 255].

    Attributes:
        scale: Factors, one for each channel or one for all.
        offset: Summands that are added after it.
        reverse: Whether the order of the channels is reversed, BGR in place of RGB.
    """

    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    reverse: bool = False


class Original(NamedTuple):
    """A network from elsewhere.

    Attributes:
        network: A functional `keras.Model` with one input and one output.
        images: The images that it takes; None for normalized images, as our own encoders take them.
    """

    network: keras.Model
    images: Images | None


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
        return _application(rest, channels, image_size)
    try:
        network, images = _preset(rest, load_weights) if form else (_file(rest), Images())
    except UserError as error:
        raise UserError(f"encoder '{name}': {error}") from error
    return Original(network, images)


def _application(name: str, channels: int, image_size: int | None = None) -> Original:
    mode, size = APPLICATIONS[name], None
    if name.startswith("NASNet"):
        # For images of any size, it would build cells whose shapes do not fit together.
        size = image_size or NASNET_SIZES[name]
    options: dict[str, Any] = dict(include_top=False, weights=None, pooling="avg")
    if name.startswith("ConvNeXt"):
        options["include_preprocessing"] = False  # It would be our own normalization.
    try:
        # Keras warns of images that are not RGB.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            network = getattr(keras.applications, name)(
                input_shape=(size, size, channels), **options
            )
    except ValueError as error:  # Images that are too small for it.
        raise UserError(f"encoder 'keras:{name}': {error_reason(error)}") from error
    if mode == "torch":
        return Original(network, None)
    if mode == "tf":
        return Original(network, Images((1 / 127.5,), (-1.0,)))
    if mode == "raw":
        return Original(network, Images())
    # Other channels than RGB have no order, and get the average of these means, as in
    # `moco_tf.data.normalization`.
    mean = CAFFE_MEAN if channels == 3 else (sum(CAFFE_MEAN) / 3,)
    return Original(network, Images((1.0,), tuple(-m for m in mean), reverse=channels == 3))


def _file(path: str) -> keras.Model:
    path = expand(path, "the path")
    if not tf.io.gfile.exists(path):
        raise UserError("there is no such file")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    # Arbitrary bytes can cause any exception in the parsers.
    except Exception as error:
        raise UserError(f"the file cannot be read{why_not_read(error)}") from error
    network = _functional(model)
    _require_own_preprocessing(model, path)
    return network


def why_not_read(error: Exception) -> str:
    """Return the reason why Keras cannot read a model, and the remedy where it is known."""
    message = str(error)
    if "Could not locate" in message or "Could not deserialize" in message:
        found = re.search(r"Could not \w+ \w* ?'([^']+)'", message)
        layer = f" {found[1]}" if found else ""
        return f": Keras does not know{layer}: {REGISTER}"
    if "lambda" in message.lower():
        return (
            ": it contains a Lambda layer, whose code Keras does not run: replace it by one of "
            "Keras' layers, or by a registered one"
        )
    return f" ({error_reason(error)}): give a model that keras.Model.save has written"


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
    try:
        network = keras_hub.models.Backbone.from_preset(preset, load_weights=load_weights)
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
    return _functional(network), images


def _values(setting: Any, default: float) -> tuple[float, ...]:
    """Return the numbers of a setting of an image converter: none, one, or one for each channel."""
    if setting is None:
        return (default,)
    return tuple(map(float, setting)) if hasattr(setting, "__len__") else (float(setting),)


def _functional(model: Any) -> keras.Model:
    """Return a model as a plain functional one from one image tensor to one tensor."""
    try:
        inputs, outputs = keras.tree.flatten(model.inputs), keras.tree.flatten(model.outputs)
    except (AttributeError, ValueError):
        inputs = outputs = []
    if not inputs or not outputs:
        raise UserError(
            f"it is a {type(model).__name__} without a graph of layers: save a functional or a "
            "Sequential model"
        )
    if len(inputs) > 1 or len(outputs) > 1:
        raise UserError(
            f"it has {len(inputs)} inputs and {len(outputs)} outputs: save a model with one of each"
        )
    [images], [features] = inputs, outputs
    if len(images.shape) != 4 or images.shape[-1] is None:
        raise UserError(
            f"it takes inputs of the shape {images.shape}, but images have the shape "
            "(None, height, width, channels)"
        )
    if len(features.shape) not in (2, 4) or features.shape[-1] is None:
        raise UserError(
            f"it returns outputs of the shape {features.shape}: save a model that returns feature "
            "maps (None, height, width, D) or features (None, D)"
        )
    last = model.layers[-1]
    if getattr(last, "activation", None) is keras.activations.softmax:
        raise UserError(
            f"its last layer '{last.name}' returns class probabilities (softmax): save a model "
            "that ends with the features, before the classifier"
        )
    return keras.Model(images, features, name=model.name)


def _require_own_preprocessing(model: keras.Model, path: str) -> None:
    """Refuse a network of keras.applications that does not take values in [0, 255]."""
    plain_name = _plain(re.sub(r"_[\d.]+_\w+$", "", model.name))  # As in mobilenetv2_1.00_224.
    for name, mode in APPLICATIONS.items():
        if _plain(name) != plain_name or mode == "raw" or name.startswith("ConvNeXt"):
            continue
        shapes = [weight.shape for weight in _application(name, model.input_shape[-1])[0].weights]
        if shapes == [weight.shape for weight in model.weights[: len(shapes)]]:
            raise UserError(
                f"it is {name} of keras.applications, which takes preprocessed images and not "
                f"values in [0, 255]: use config.encoder=keras:{name} with "
                f"config.init=keras:{path}"
            )


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))
