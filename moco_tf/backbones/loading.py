"""What a run has trained: its whole model, its query encoder, or the backbone alone; and backbones
that are of no run."""

import json
import os

import keras
import tensorflow as tf

from moco_tf import encoders, run_directory
from moco_tf.backbones import pytorch_files
from moco_tf.errors import UserError

NETWORK_FILE = "network.json"  # in a SavedModel: what network it holds


def load_backbone(workdir):
    """The backbone of a run's query encoder, at its newest checkpoint.

    Args:
        workdir: str, a run directory.

    Returns:
        A `keras.Model` from images `[N, H, W, C]` of 0 to 255, of the channels of the run's, to
        features `[N, D]`; its BatchNormalization has one group, so that it fine-tunes at any batch
        size.

    Raises:
        UserError: no run there, or no checkpoint yet, or one of another architecture.
    """
    return encoders.with_normalization(load_query_encoder(workdir).backbone)


def load_encoder(workdir):
    """A run's query encoder with its projection head, at its newest checkpoint.

    Args:
        workdir: str, a run directory.

    Returns:
        As `load_backbone`, but to projections `[N, dim]`, not L2-normalised.

    Raises:
        UserError: as `load_backbone`.
    """
    return encoders.with_normalization(load_query_encoder(workdir))


def load_saved_model(path):
    """A backbone that export/saved_model.py wrote, frozen.

    Args:
        path: str, a directory.

    Returns:
        A `keras.layers.TFSMLayer` from images `[N, H, W, C]` of 0 to 255 to features `[N, D]`, and
        the channels C that it takes, int.

    Raises:
        UserError: there is none.
    """
    try:
        layer = keras.layers.TFSMLayer(path, call_endpoint="serve", trainable=False)
        [images] = layer.call_endpoint_fn.input_signature
        return layer, images.shape[-1]
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise _no_saved_model(path, error) from error


def read_network(path):
    """What network a SavedModel of export/saved_model.py holds, by its own account.

    Args:
        path: str, a directory.

    Returns:
        A `moco_tf.encoders.Network`.

    Raises:
        UserError: it does not say it, as those written before there was `network.json`.
    """
    file_path = os.path.join(path, NETWORK_FILE)
    if not tf.io.gfile.exists(file_path):
        raise UserError(
            f"--saved_model={path} does not say what network it holds: give --encoder, such as "
            "resnet50, and --stem where it is not imagenet"
        )
    with tf.io.gfile.GFile(file_path) as file:
        text = file.read()
    try:
        return encoders.Network(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{file_path} is not what export/saved_model.py wrote: delete it, and give --encoder"
        ) from error


def load_network(path, encoder=None, stem="imagenet"):
    """The network in a SavedModel of export/saved_model.py, built again.

    Args:
        path: str, a directory.
        encoder, stem: of `moco_tf.encoders.build`: what network it holds; without `encoder`, what
            the SavedModel itself says.

    Returns:
        A `keras.Model` of `moco_tf.encoders.build`, without a head: from normalised images
        `[N, H, W, C]` to features `[N, D]`.

    Raises:
        UserError: there is no such SavedModel, or it holds another network.
    """
    try:
        saved = tf.saved_model.load(path)
        [images] = saved.serve.input_signature
        variables = {variable.name.partition(":")[0]: variable for variable in saved.variables}
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise _no_saved_model(path, error) from error
    if encoder is None:
        network = read_network(path)
    else:
        network = encoders.Network(encoder, stem, images.shape[-1])
    backbone = encoders.build(network.encoder, stem=network.stem, channels=network.channels)
    wanted = {weight.path: tuple(weight.shape) for weight in backbone.weights}
    if wanted != {name: tuple(variable.shape) for name, variable in variables.items()}:
        raise UserError(
            f"--encoder={network.encoder} --stem={network.stem} is not the network of "
            f"--saved_model={path}: give the one that it is of"
        )
    for weight in backbone.weights:
        weight.assign(variables[weight.path])
    return backbone


def load_checkpoint(path, encoder, stem="imagenet"):
    """The backbone in a PyTorch file of facebookresearch/moco, torchvision or timm.

    Args:
        path: str.
        encoder, stem: of `moco_tf.encoders.build`: what network the file holds.

    Returns:
        As `load_network`, for images of as many channels as the file's first convolution takes.

    Raises:
        UserError: PyTorch is not installed, there is no such file, it cannot be read, or it holds
            another network.
    """
    content = pytorch_files.read(path)
    try:
        channels = pytorch_files.channels(content)
        backbone = encoders.build(encoder, stem=stem, channels=channels)
        pytorch_files.backbone_from_checkpoint(backbone, content)
    except UserError as error:
        raise UserError(
            f"--checkpoint={path} as --encoder={encoder} --stem={stem}: {error}"
        ) from error
    return backbone


def random_backbone(encoder, stem, channels, seed):
    """A backbone that nothing has trained.

    Args:
        encoder, stem, channels: of `moco_tf.encoders.build`.
        seed: int, which Keras' own generators start from as well.

    Returns:
        As `load_backbone`.

    Raises:
        UserError: an unknown encoder or stem.
    """
    return encoders.with_normalization(random_network(encoder, stem, channels, seed))


def random_network(encoder, stem, channels, seed):
    """As `random_backbone`, and its images are normalised ones."""
    keras.utils.set_random_seed(seed)
    return encoders.build(encoder, stem=stem, channels=channels)


def load_query_encoder(workdir):
    """A run's query encoder as it was built, at its newest checkpoint.

    Args:
        workdir: str, a run directory.

    Returns:
        A `keras.Model` of `moco_tf.encoders.build`, with one group of BatchNormalization: from
        normalised images to projections, with `backbone` and `head`.

    Raises:
        UserError: as `load_backbone`.
    """
    config = run_directory.read_config(workdir)
    path = run_directory.require_checkpoint(workdir)
    encoder = encoders.build(
        config.encoder,
        config.head,
        config.dim,
        stem=config.stem,
        channels=run_directory.read_channels(workdir),
    )
    wanted = tf.train.Checkpoint(model=tf.train.Checkpoint(query_encoder=encoder))
    try:
        wanted.restore(path).assert_existing_objects_matched().expect_partial()
    except (tf.errors.OpError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the checkpoint {path} cannot be read: {reason}") from error
    return encoder


def _no_saved_model(path, error):
    return UserError(f"--saved_model={path} is not a SavedModel of export/saved_model.py: {error}")
