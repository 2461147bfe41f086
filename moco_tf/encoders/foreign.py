"""Encoders from elsewhere: networks of keras.applications, presets of KerasHub, and .keras files.

Such a network is wrapped so that it keeps the contract of our own: normalized images in, features
`[N, D]` out. A layer in front of it converts our normalization to the images that the network
takes, and feature maps are averaged over height and width. The description of the wrapped network,
in Keras' own JSON, is all that it takes to build the encoder again.
"""

import contextlib
import json
import random
from collections.abc import Iterator

import keras
import numpy as np

from moco_tf.data.normalization import mean_and_std
from moco_tf.encoders import cloning, keras_files, originals
from moco_tf.encoders.applications import Images
from moco_tf.encoders.names import NETWORK, check_name, encoder_name, model_name, split
from moco_tf.errors import UserError
from moco_tf.files import error_reason
from moco_tf.keras_internals import all_layers

POOLING = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
LARGEST_SIZE = 512


def describe(name: str, channels: int = 3, image_size: int | None = None) -> str:
    """Return the description of a network from elsewhere, as the JSON text of a Keras model.

    Args:
        name: Name of the encoder, such as `"keras:MobileNetV2"`.
        channels: Number of channels of the images.
        image_size: Side of the images in pixels, which the network then has to take. NASNet takes
            no other size.

    Returns:
        The text, without weights, for `build`.

    Raises:
        UserError: If there is no such network, or it does not fit.

    Example:
        >>> build(describe("keras:MobileNetV3Small", channels=1)).output_shape
        (None, 576)
    """
    with _as_if_nothing_was_built():
        network = _wrapped(name, channels, load_weights=False, image_size=image_size)
        if image_size is not None:
            require_image_size(network, image_size, name)
        return network.to_json()


def description_of(backbone: keras.Model) -> str:
    """Return the description of a backbone that `build` has built."""
    with _as_if_nothing_was_built():
        return cloning.with_keras_layers(backbone).to_json()


def build(description: str, bn_groups: int = 1) -> keras.Model:
    """Build an encoder with random weights from its description.

    Args:
        description: A result of `describe`.
        bn_groups: Number of groups that BatchNormalization splits the batch of one replica into.

    Returns:
        A model from normalized images `[N, H, W, channels]` to features `[N, D]`.

    Raises:
        UserError: If the description has a layer that is unknown or cannot be trained by MoCo.
    """
    network = read(description)
    return _for_pretraining(network, bn_groups, encoder_name(network.name) or network.name)


def load(name: str, bn_groups: int = 1, channels: int = 3) -> keras.Model:
    """Build an encoder with the weights that it brings along, or random ones if it brings none.

    Args:
        name: Name of the encoder.
        bn_groups: As for `build`.
        channels: Number of channels of the images.

    Raises:
        UserError: As `describe` and `build`.
    """
    if split(name)[0] == "keras:":
        return build(describe(name, channels), bn_groups)
    return _for_pretraining(_wrapped(name, channels, load_weights=True), bn_groups, name)


def read(description: str) -> keras.Model:
    """Return the network of a description, with Keras' own layers and random weights.

    Args:
        description: A result of `describe`.

    Raises:
        UserError: If it has a layer that is unknown.
    """
    if '"keras_hub' in description:
        # Its layers are found by their registered names, once they are imported.
        with contextlib.suppress(ImportError):
            import keras_hub  # noqa: F401
    with _float32():
        try:
            model = keras.saving.deserialize_keras_object(json.loads(description), safe_mode=True)
        except Exception as error:
            raise UserError(
                f"the description of the encoder cannot be read{keras_files.why_not_read(error)}"
            ) from error
    assert isinstance(model, keras.Model)
    return model


def notes(name: str, description: str) -> list[str]:
    """Return what a run does differently because of its encoder, one line each.

    Args:
        name: Name of the encoder.
        description: A result of `describe`.
    """
    with _as_if_nothing_was_built():
        network = read(description)
    lines = []
    if random_layers := cloning.random_layers(network):
        lines.append(
            f"note: {', '.join(random_layers)} in {name} is switched off, since MoCo needs "
            "encoders that compute the same from the same images"
        )
    if not cloning.has_batch_normalization(network):
        lines.append(
            f"note: {name} has no BatchNormalization, so keys are not shuffled, and "
            "config.shuffle_bn and config.bn_groups have no effect"
        )
    return lines


def require_image_size(
    encoder: keras.Model, image_size: int, name: str, setting: str = "config.image_size"
) -> None:
    """Raise a `UserError` unless an encoder takes square images of a size.

    Args:
        encoder: A model of `moco_tf.encoders.build` or of `read`, or one that contains it.
        image_size: Side of the images in pixels.
        name: What the encoder is called in the message.
        setting: What the size is called there.
    """
    height, width, channels = encoder.input_shape[1:]
    if height not in (None, image_size) or width not in (None, image_size):
        remedy = f"set it to {height}" if height == width else "use another encoder"
        if not name.startswith("keras:"):
            remedy += f", or save the network with the input shape (None, None, {channels})"
        raise UserError(
            f"{setting}={image_size} does not fit {name}, which takes images of {height}x{width} "
            f"pixels only: {remedy}"
        )
    for network in (layer for layer in all_layers(encoder) if layer.name == NETWORK):
        if problem := _problem(network, image_size):
            larger = range(32 * (image_size // 32 + 1), LARGEST_SIZE + 1, 32)
            fitting = next((size for size in larger if not _problem(network, size)), None)
            raise UserError(
                f"{setting}={image_size} does not fit {name}, {problem}: "
                + (f"set it to {fitting}, for example" if fitting else "use another encoder")
            )


def _for_pretraining(network: keras.Model, bn_groups: int, name: str) -> keras.Model:
    try:
        return cloning.for_pretraining(network, bn_groups)
    except UserError as error:
        raise UserError(f"encoder '{name}': {error}") from error


def _problem(network: keras.Model, size: int) -> str:
    """Return why a network cannot take square images of a size; "" if it can."""
    pooled = [layer.input for layer in network.layers if isinstance(layer, POOLING)]
    maps = keras.Model(network.inputs[0], [*pooled, network.outputs[0]])
    try:
        shapes = maps.compute_output_shape((1, size, size, network.input_shape[-1]))
    except ValueError as error:
        if "zero or negative" not in str(error):
            return f"whose layers do not fit together at that size ({error_reason(error)})"
        shapes = [(0,)]
    # A mean over no pixels would be NaN.
    return "whose feature maps would become empty" if any(0 in shape for shape in shapes) else ""


def _wrapped(
    name: str, channels: int, load_weights: bool, image_size: int | None = None
) -> keras.Model:
    """Return a network from normalized images to features, with Keras' own layers."""
    check_name(name)
    # The description is the same for every precision; `cloning` sets that of a run.
    with _float32():
        network, images_taken = originals.read(name, channels, load_weights, image_size)
        if network.input_shape[-1] != channels:
            raise UserError(
                f"encoder '{name}' takes images with {network.input_shape[-1]} channels, but these "
                f"have {channels}: choose images with {network.input_shape[-1]} channels, or "
                "another encoder"
            )
        network = keras.Model(network.inputs[0], network.outputs[0], name=NETWORK)
        images = keras.Input(network.input_shape[1:], name="images")
        x = images
        if images_taken is not None:
            scale, offset = _from_normalized(images_taken, channels)
            x = keras.layers.Rescaling(scale, offset, dtype="float32", name="preprocessing")(x)
            if images_taken.reverse:
                x = keras.ops.flip(x, axis=-1)
        x = network(x)
        if len(x.shape) == 4:
            x = keras.layers.GlobalAveragePooling2D(name="features")(x)
        return keras.Model(images, x, name=model_name(name))


def _from_normalized(images: Images, channels: int) -> tuple[list[float], list[float]]:
    """Return the scales and the offsets that turn normalized images into these."""
    mean, std = (255 * np.array(values) for values in mean_and_std(channels))
    scale, offset = np.array(images.scale), np.array(images.offset)
    return (std * scale).tolist(), (mean * scale + offset).tolist()


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    """Build layers in float32, whatever the dtype policy."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


@contextlib.contextmanager
def _as_if_nothing_was_built() -> Iterator[None]:
    """Keep the weights of networks that are built later independent of those in the block.

    Keras draws the seeds of initializers from Python's random numbers.
    """
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
