"""Networks of keras.applications: built, and recognized in files without their preprocessing."""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

from moco_tf.encoders import keras_files
from moco_tf.encoders.names import APPLICATIONS
from moco_tf.errors import UserError
from moco_tf.files import error_reason

# The means that `preprocess_input` subtracts in the mode "caffe", for RGB.
CAFFE_MEAN = (123.68, 116.779, 103.939)
NASNET_SIZES = {"NASNetMobile": 224, "NASNetLarge": 331}
# The number of weights of each network that can be built without its preprocessing. By it the
# networks are found that a file could hold. It cannot change, since Keras' ImageNet weights have to
# fit.
NUMBERS_OF_WEIGHTS = {
    "DenseNet121": 604,
    "DenseNet169": 844,
    "DenseNet201": 1004,
    "ConvNeXtTiny": 180,
    "ConvNeXtSmall": 342,
    "ConvNeXtBase": 342,
    "ConvNeXtLarge": 342,
    "ConvNeXtXLarge": 342,
    "InceptionV3": 376,
    "InceptionResNetV2": 896,
    "Xception": 234,
    "MobileNet": 135,
    "MobileNetV2": 260,
    "NASNetMobile": 1124,
    "NASNetLarge": 1544,
    "ResNet50V2": 270,
    "ResNet101V2": 542,
    "ResNet152V2": 814,
    "ResNet50": 318,
    "ResNet101": 624,
    "ResNet152": 930,
    "VGG16": 26,
    "VGG19": 32,
    "EfficientNetV2B0": 359,
    "EfficientNetV2B1": 441,
    "EfficientNetV2B2": 460,
    "EfficientNetV2B3": 536,
    "EfficientNetV2S": 670,
    "EfficientNetV2M": 961,
    "EfficientNetV2L": 1329,
    "MobileNetV3Small": 206,
    "MobileNetV3Large": 262,
}
LARGEST_HEAD = 8  # Weights that people add to such a network.
# The widths of these networks are an argument.
OF_ANY_WIDTH = ("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large")
# Layers in front of the first convolution that do not change the values of the pixels.
NO_PREPROCESSING = (
    keras.layers.InputLayer,
    keras.layers.CenterCrop,
    keras.layers.Cropping2D,
    keras.layers.Resizing,
    keras.layers.UpSampling2D,
    keras.layers.ZeroPadding2D,
    *keras_files.PASSING,
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


def build(name: str, channels: int, image_size: int | None = None) -> Original:
    """Build a network of `keras.applications` without its classifier.

    Args:
        name: Its name there, such as `"MobileNetV2"`.
        channels: Number of channels of the images.
        image_size: As for `moco_tf.encoders.originals.read`.

    Raises:
        UserError: If the images are too small for the network.
    """
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
    network = keras_files.with_constants(network)
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


def require_preprocessing(network: keras.Model, path: str) -> None:
    """Refuse a network of `keras.applications` that does not take values in [0, 255].

    Args:
        network: A functional model that takes the images as they are.
        path: Path of its file.

    Raises:
        UserError: If nothing prepares the images in front of a network that needs it.
    """
    if any(not isinstance(part, NO_PREPROCESSING) for part in _before_weights(network)):
        return
    weights = network.weights
    for name, number in NUMBERS_OF_WEIGHTS.items():
        if not number <= len(weights) <= number + LARGEST_HEAD:
            continue
        known = build(name, network.input_shape[-1]).network.weights
        if _shapes(known) == _shapes(weights) and APPLICATIONS[name] != "raw":
            remedy = f"use config.encoder=keras:{name} with config.init=keras:{path}"
        elif _kinds(known, name) == _kinds(weights[:number], name):
            remedy = f"put {_preprocessing(name)} in front of it"
        else:
            continue
        raise UserError(
            f"it is {name} of keras.applications, which takes preprocessed images and not values "
            f"in [0, 255]: {remedy}"
        )


def _before_weights(network: keras.Model) -> Iterator[Any]:
    """Yield the operations in front of the first layer with weights, also in nested models."""
    for operation in network.operations:
        if isinstance(operation, keras.Model) and hasattr(operation, "operations"):
            yield from _before_weights(keras.Model(operation.inputs, operation.outputs))
        if getattr(operation, "weights", None):
            return
        yield operation


def _shapes(weights: list[keras.Variable]) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in weights]


def _kinds(weights: list[keras.Variable], name: str) -> list[tuple[str, tuple[int, ...]]]:
    """Return what tells the network `name` from others: no widths where they are an argument."""
    shapes = _shapes(weights)
    if name in OF_ANY_WIDTH:
        shapes = [(len(shape), *shape[:2]) if len(shape) == 4 else (1,) for shape in shapes]
    return list(zip(map(keras_files.kind, weights), shapes, strict=True))


def _preprocessing(name: str) -> str:
    """Return the layer that prepares images for a network."""
    if APPLICATIONS[name] == "tf" or name.startswith("MobileNetV3"):
        return "a Rescaling layer, keras.layers.Rescaling(1 / 127.5, -1),"
    if APPLICATIONS[name] == "caffe":
        return "the preprocess_input of its module"
    return "its Rescaling or Normalization layer"
