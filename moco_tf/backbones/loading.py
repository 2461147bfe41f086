"""Backbones and encoders from run directories, SavedModels and PyTorch files."""

import os
from typing import Any

import keras
import tensorflow as tf

from moco_tf import encoders, run_data, run_directory
from moco_tf.backbones import descriptions, network_file, pytorch_files
from moco_tf.backbones.classifier import OUTPUT
from moco_tf.backbones.finite import require_finite
from moco_tf.data.pixels import default, from_config
from moco_tf.encoders import keras_files, preprocessing, state_dict
from moco_tf.encoders.names import encoder_name, is_foreign
from moco_tf.errors import UserError
from moco_tf.files import error_reason, require_no_pattern
from moco_tf.paths import expand_argument

SAVED_MODEL_FILE = "saved_model.pb"  # In the directory of every SavedModel.
# What TensorFlow and Keras raise when they load a damaged SavedModel.
LOAD_ERRORS = (tf.errors.OpError, AttributeError, KeyError, OSError, TypeError, ValueError)


def load_backbone(path: str | os.PathLike[str]) -> keras.Model:
    """Load the backbone of a run from its newest checkpoint, or one that was exported.

    Its BatchNormalization has one group, so the backbone can be fine-tuned with any batch size.

    Args:
        path: Path of the run directory; of a .keras file or SavedModel that `moco-export` wrote; or
            of a classifier that `moco-evaluate --save_classifier` wrote, whose backbone is loaded.
            In it, `~` and environment variables are expanded.

    Returns:
        A `keras.Model` from images `[N, H, W, C]`, with as many channels and in the same value
        range as the images of the run, which is [0, 255] for images with 8 bits per channel, to
        features `[N, D]`. Its attribute `pixels` has the range, and `checkpoint` the name of the
        checkpoint.

    Raises:
        UserError: If there is no run and no exported backbone, the run has no checkpoint yet, or
            the weights are of another architecture, or NaN or infinity.

    Example:
        >>> import moco_tf
        >>> import numpy as np
        >>> backbone = moco_tf.load_backbone("runs/mine")
        >>> backbone.output_shape
        (None, 64)
        >>> images = np.zeros([4, 32, 32, 3], np.uint8)
        >>> backbone.predict(images, verbose=0).shape
        (4, 64)
    """
    path = expand_argument(path, "path")
    if path.endswith(".keras"):
        network = load_keras(path)
    elif tf.io.gfile.exists(os.path.join(path, SAVED_MODEL_FILE)):
        network = load_network(path)
    elif tf.io.gfile.isdir(path):
        network = load_query_encoder(path).backbone
    else:
        raise UserError(
            f"{path} is not a run directory, a .keras file or a SavedModel: pass the path of one"
        )
    return encoders.with_normalization(network)


def load_encoder(workdir: str | os.PathLike[str]) -> keras.Model:
    """Load a run's query encoder, including its projection head, from its newest checkpoint.

    Args:
        workdir: As for `load_backbone`.

    Returns:
        A `keras.Model` as `load_backbone` returns, but to projections `[N, dim]`, which are not
        L2-normalized.

    Raises:
        UserError: As for `load_backbone`.
    """
    workdir = expand_argument(workdir, "workdir")
    return encoders.with_normalization(load_query_encoder(workdir))


def load_saved_model(path: str | os.PathLike[str]) -> tuple[keras.layers.Layer, int]:
    """Load a backbone that `moco_tf.export.saved_model` wrote, frozen.

    Args:
        path: Path of the SavedModel's directory.

    Returns:
        A `keras.layers.TFSMLayer` from images `[N, H, W, C]` to features `[N, D]`, and the number
        of channels C of these images. Its attribute `pixels` has their value range.

    Raises:
        UserError: If there is no such SavedModel, or it holds NaN or infinity.
    """
    path = expand_argument(path, "path")
    _require_saved_model(path)
    try:
        layer = keras.layers.TFSMLayer(path, call_endpoint="serve", trainable=False)
    except LOAD_ERRORS as error:
        raise _cannot_be_loaded(path, error) from error
    images = _input_of(layer.call_endpoint_fn, path)
    _require_finite(layer.weights, f"the SavedModel {path}")
    content = network_file.read(path)
    layer.pixels = default(images.shape[-1]) if content is None else content.pixels
    return layer, images.shape[-1]


def read_exported_network(scheme: str, path: str) -> encoders.Network | None:
    """Return the network of one of our ResNets in an export; None if that is not what it holds.

    Args:
        scheme: `"saved_model"` or `"keras"`.
        path: Path of the SavedModel's directory, or of the .keras file.

    Raises:
        UserError: If the `network.json` of a SavedModel is invalid.
    """
    if scheme == "saved_model":
        content = network_file.read(path)
        network = None if content is None else content.network
    else:
        try:
            model = keras_files.load(path)
        except UserError:  # Whoever reads the weights reports it.
            return None
        network = encoders.network_of(model) if preprocessing.has_normalization(model) else None
    return None if network is None or is_foreign(network.encoder) else network


def load_network(
    path: str | os.PathLike[str], encoder: str | None = None, stem: str = "imagenet"
) -> keras.Model:
    """Rebuild the network in a SavedModel of `moco_tf.export.saved_model`.

    Args:
        path: Path of the SavedModel's directory.
        encoder: Name of the encoder that the SavedModel holds, as for `moco_tf.encoders.build`; by
            default the one that its `network.json` names.
        stem: Stem of that encoder; ignored without `encoder`.

    Returns:
        A `keras.Model` as `moco_tf.encoders.build` returns without a head: from normalized images
        `[N, H, W, C]` to features `[N, D]`.

    Raises:
        UserError: If there is no such SavedModel, or it holds another network, or NaN or infinity.
    """
    path = expand_argument(path, "path")
    _require_saved_model(path)
    try:
        saved = tf.saved_model.load(path)
    except LOAD_ERRORS as error:
        raise _cannot_be_loaded(path, error) from error
    images = _input_of(getattr(saved, "serve", None), path)
    content = network_file.read(path)
    if encoder is None:
        network = network_file.require(path).network
    else:
        network = encoders.Network(encoder, stem, images.shape[-1])
    backbone = encoders.build(
        network.encoder,
        stem=network.stem,
        channels=network.channels,
        description=descriptions.read(path),
        pixels=None if content is None else content.pixels,
    )
    # Layers of different models in a network may have the same path. The sorting keeps the order of
    # weights with the same path, which is that of the network.
    variables = sorted(saved.variables, key=_path_of)
    weights = sorted(backbone.weights, key=lambda weight: weight.path)
    if [(weight.path, tuple(weight.shape)) for weight in weights] != [
        (_path_of(variable), tuple(variable.shape)) for variable in variables
    ]:
        raise UserError(
            f"the SavedModel {path} does not hold a {network.encoder} with the stem "
            f"{network.stem}: set encoder and stem to those of its network"
        )
    for weight, variable in zip(weights, variables, strict=True):
        weight.assign(variable)
    _require_finite(backbone.weights, f"the SavedModel {path}")
    return backbone


def load_keras(path: str | os.PathLike[str]) -> keras.Model:
    """Load the network in a file of `moco_tf.export.keras_v3`, or the backbone of a classifier.

    Args:
        path: Path of the file, which ends in .keras.

    Returns:
        A `keras.Model` from normalized images `[N, H, W, C]` to features `[N, D]`, with the layers
        of `moco_tf.encoders.build`.

    Raises:
        UserError: If there is no such file, it cannot be read, or it holds another model, or NaN
            or infinity.
    """
    path = expand_argument(path, "path")
    if not path.endswith(".keras"):
        raise UserError(f"{path} does not end in .keras, as the files of the Keras export do")
    try:
        model = keras_files.load(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    try:
        model.get_layer(preprocessing.NORMALIZATION)  # All files of this project have it.
        [network] = [layer for layer in model.layers if isinstance(layer, keras.Model)]
        if encoder_name(network.name) is None:
            state_dict.entries(network)
    except Exception as error:  # A model of any kind.
        raise state_dict.MismatchError(
            f"{path} is not a file of the Keras export: evaluate a Keras model of your own in "
            "Python, with moco_tf.extract_features or moco_tf.finetune, or pre-train it with "
            f"config.encoder={path}"
        ) from error
    _require_finite(network.weights, f"the file {path}")
    network.pixels = encoders.pixels_of(model)
    network.is_of_classifier = model.layers[-1].name == OUTPUT
    return network


def load_checkpoint(
    path: str | os.PathLike[str], encoder: str, stem: str = "imagenet"
) -> keras.Model:
    """Load the backbone in a file of facebookresearch/moco, torchvision, timm and others.

    Args:
        path: Path of a file of torch.save or safetensors.
        encoder: Name of the encoder that the file holds, as for `moco_tf.encoders.build`.
        stem: Stem of that encoder.

    Returns:
        A `keras.Model` as `load_network` returns, for images with as many channels as the first
        convolution in the file takes.

    Raises:
        UserError: If PyTorch is not installed, there is no such file, it cannot be read, it holds
            another network or several that fit, or it holds NaN or infinity.
    """
    path = expand_argument(path, "path")
    if is_foreign(encoder):
        raise UserError(
            f"the checkpoint {path} cannot be loaded as '{encoder}': files of PyTorch are read as "
            "this project's ResNets only. Set encoder to one of them, such as resnet50"
        )
    content = pytorch_files.read(path)
    try:
        backbone = encoders.build(encoder, stem=stem)
        channels = pytorch_files.channels(content, backbone)
        if channels != backbone.input_shape[-1]:
            backbone = encoders.build(encoder, stem=stem, channels=channels)
        pytorch_files.backbone_from_checkpoint(backbone, content)
    except UserError as error:
        raise UserError(
            f"the checkpoint {path} cannot be loaded as a {encoder} with the stem {stem}: {error}"
        ) from error
    return backbone


def load_query_encoder(workdir: str | os.PathLike[str]) -> keras.Model:
    """Load a run's query encoder as it was built, from its newest checkpoint.

    Args:
        workdir: Path of the run directory.

    Returns:
        A `keras.Model` as `moco_tf.encoders.build` returns, with one BatchNormalization group:
        from normalized images to projections, with the attributes `backbone` and `head`. Both the
        encoder and its backbone have the name of the checkpoint as `checkpoint`: a run that goes on
        may have a newer one soon.

    Raises:
        UserError: As for `load_backbone`.
    """
    workdir = expand_argument(workdir, "workdir")
    config = run_directory.read_config(workdir)
    path, channels = run_directory.require_checkpoint(workdir), run_data.read_channels(workdir)
    encoder = encoders.build(
        config.encoder,
        config.head,
        config.dim,
        stem=config.stem,
        channels=channels,
        description=descriptions.of_run(workdir, config, channels),
        pixels=from_config(config, channels),
    )
    checkpoint = tf.train.Checkpoint(model=tf.train.Checkpoint(query_encoder=encoder))
    try:
        checkpoint.restore(path).assert_existing_objects_matched().expect_partial()
    except run_directory.RESTORE_ERRORS as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the checkpoint {path} cannot be read: {reason}. Restore it from a backup, or "
            "resume the run, which continues from an older checkpoint"
        ) from error
    require_finite(
        encoder.weights,
        f"the checkpoint {path}",
        "move its files elsewhere to use the checkpoint before it, or train again, for example "
        "with a lower learning rate",
    )
    encoder.checkpoint = encoder.backbone.checkpoint = os.path.basename(path)
    return encoder


def _require_finite(weights: list[Any], name: str) -> None:
    require_finite(weights, name, "export another checkpoint of its run")


def _require_saved_model(path: str) -> None:
    require_no_pattern(path)
    if not tf.io.gfile.exists(path):
        raise UserError(f"there is no directory {path}, which should be a SavedModel")
    if not tf.io.gfile.isdir(path):
        raise UserError(f"{path} is a file, but a SavedModel is a directory")
    if not tf.io.gfile.exists(os.path.join(path, SAVED_MODEL_FILE)):
        is_run = run_directory.exists(path)
        remedy = ": it is a run directory, so give it as workdir" if is_run else ""
        raise UserError(f"the directory {path} holds no SavedModel, no saved_model.pb{remedy}")


def _path_of(variable: tf.Variable) -> str:
    return variable.name.partition(":")[0]


def _input_of(serve: Any, path: str) -> tf.TensorSpec:
    """Return the specification of the images that the endpoint `serve` takes."""
    signature: Any = getattr(serve, "input_signature", None) or ()
    if len(signature) != 1 or len(signature[0].shape) != 4:
        raise _no_endpoint(path)
    return signature[0]


def _no_endpoint(path: str) -> UserError:
    return UserError(
        f"the SavedModel {path} has no endpoint 'serve' that takes images alone, so it was not "
        "written by the SavedModel export: use one that was"
    )


def _cannot_be_loaded(path: str, error: Exception) -> UserError:
    reason = error_reason(error)
    if isinstance(error, ValueError) and "'serve'" in reason:  # Keras looked for it.
        return _no_endpoint(path)
    return UserError(f"the SavedModel {path} cannot be loaded: {reason}. Export the run again")
