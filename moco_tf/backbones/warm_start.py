"""The start of a run from weights that exist already: the setting `init`.

The weights are those of a backbone, and of the projection head if the source is a MoCo encoder with
a head that fits. A run reads them once, before its first step.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping

import keras
import ml_collections
import numpy as np
import tensorflow as tf

from moco_tf import encoders, run_data, run_directory
from moco_tf.backbones import foreign_weights, loading, network_file, pytorch_files, state_dicts
from moco_tf.config import INIT_SCHEMES
from moco_tf.data import pixels
from moco_tf.data.pixels import Pixels
from moco_tf.encoders import keras_files, originals, state_dict
from moco_tf.encoders.names import encoder_name, initial_weights, is_foreign
from moco_tf.errors import UserError
from moco_tf.files import error_reason
from moco_tf.mechanisms.base import Mechanism
from moco_tf.mechanisms.building import copy_weights

HEAD = "fc."  # The beginning of the keys of a projection head.
CHUNK_BYTES = 2**24


def resolve(config: ml_collections.ConfigDict, workdir: str | None) -> ml_collections.ConfigDict:
    """Return the config of a run with the weights that it starts from, and their checksum.

    A .keras file or a preset of KerasHub as the encoder brings weights along. The run starts from
    them if `config.init` is empty.

    Args:
        config: Config of the run to start or to resume.
        workdir: Path of the run directory, or None without one. If it holds a run with a
            checkpoint, the weights are not needed any more, and the checksum is that of the run.

    Returns:
        The config, with `init_checksum` if the run starts from weights.

    Raises:
        UserError: If the weights cannot be read, or are not those of the checksum.
    """
    if not config.init and not initial_weights(config.encoder):
        return config
    resolved = config.copy_and_resolve_references()
    if not config.init:
        config = resolved
        config.init = initial_weights(config.encoder)
    if workdir is not None and run_directory.exists(workdir):
        saved = run_directory.read_config(workdir)
        if saved.init == config.init:
            resolved.init_checksum = config.init_checksum or saved.init_checksum
            if run_directory.checkpoints(workdir):
                return resolved
    try:
        current = checksum(config.init)
    except UserError as error:
        if config.init != initial_weights(config.encoder):
            raise
        raise UserError(f"config.encoder={config.encoder}: {error}") from error
    if resolved.init_checksum not in ("", current):
        raise UserError(
            f"config.init={config.init} has the checksum {current[:12]}..., not "
            f"{resolved.init_checksum[:12]}...: restore the weights that the run was started with, "
            "or use another directory"
        )
    resolved.init_checksum = current
    return resolved


def may_be_download(config: ml_collections.ConfigDict) -> bool:
    """Return whether the weights that a run starts from are those of KerasHub, if there are any."""
    return (config.init or initial_weights(config.encoder)).startswith("keras_hub:")


def checksum(init: str) -> str:
    """Return the SHA-256 checksum of the weights that `init` names, as hexadecimal digits.

    Args:
        init: The setting, such as `"checkpoint:FILE"`.

    Raises:
        UserError: If there are no such files, or they cannot be read.
    """
    digest = hashlib.sha256()
    if init.startswith("keras_hub:"):  # Whose files may lie in the cache of KerasHub.
        for weight in originals.read(init, channels=3).network.weights:
            digest.update(np.ascontiguousarray(weight).data)
        return digest.hexdigest()
    try:
        for path in _files(init):
            with tf.io.gfile.GFile(path, "rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"config.init={init} cannot be read ({error_reason(error)}): give the path of weights "
            "that exist"
        ) from error
    return digest.hexdigest()


def start(model: Mechanism, config: ml_collections.ConfigDict) -> str:
    """Set the encoders of a new model to the weights that `config.init` names.

    The key encoder, if there is one, becomes a copy of the query encoder.

    Args:
        model: The model, built from the config.
        config: Config of the run.

    Returns:
        A line that says what was read, and whether the head is new. If the weights were trained on
        inputs that were scaled in another way, a second line warns of it.

    Raises:
        UserError: If the weights cannot be read, or are those of another network.
    """
    encoder = model.query_encoder
    channels = encoder.input_shape[-1]
    try:
        if is_foreign(config.encoder):
            has_head = foreign_weights.start(encoder, config.init)
        else:
            arrays = _read(config, encoder.backbone)
            backbone = {key: array for key, array in arrays.items() if not key.startswith(HEAD)}
            state_dict.write(encoder.backbone, backbone)
            has_head = _write_head(encoder, arrays)
    except state_dict.MismatchError as error:
        raise UserError(
            f"config.init={config.init} does not fit config.encoder={config.encoder}, "
            f"stem={config.stem} and images with {channels} channels: {error}"
        ) from error
    if hasattr(model, "key_encoder"):
        copy_weights(encoder, model.key_encoder)
    head = "the backbone and the head" if has_head else "the backbone; the head is new"
    line = f"starting from {config.init}: {head}"
    warning = _warning(config, encoder.pixels)
    return f"{line}\n{warning}" if warning else line


def _warning(config: ml_collections.ConfigDict, own: Pixels) -> str:
    """Return a line about pixel values that were scaled in another way; "" if there are none."""
    theirs = _pixels_of(config)
    if theirs is None:
        return ""
    # Ranges of different types, such as 0 to 255 and 0 to 65535, have different units.
    names = ("mean", "std") if theirs.dtype != own.dtype else pixels.MEASURABLE
    differing = [
        name
        for name in names
        if not np.allclose(getattr(theirs, name), getattr(own, name), rtol=1e-5, atol=1e-7)
    ]
    there, here = (
        [
            f"config.data.{name}={','.join(map(pixels.number_text, getattr(values, name)))}"
            for name in differing
        ]
        for values in (theirs, own)
    )
    if not differing:
        return ""
    return (
        f"warning: {config.init} was trained with {' '.join(there)}, but this run has "
        f"{' '.join(here)}: unless that is intended, set --{' --'.join(there)}"
    )


def _pixels_of(config: ml_collections.ConfigDict) -> Pixels | None:
    """Return the pixel values that the weights were trained on; None if they are not known."""
    scheme, _, path = config.init.partition(":")
    if scheme == "run":
        return pixels.from_config(run_directory.read_config(path), run_data.read_channels(path))
    if scheme == "saved_model":
        content = network_file.read(path)
        return None if content is None else content.pixels
    if scheme == "keras" and not is_foreign(config.encoder):
        found = encoders.pixels_of(keras_files.load(path))
        # The file has the range, but not the type, unless it is that of bytes.
        is_same_type = found.are_bytes or config.data.pixels == "uint8"
        return found if is_same_type else dataclasses.replace(found, dtype=config.data.pixels)
    return None


def _read(config: ml_collections.ConfigDict, backbone: keras.Model) -> Mapping[str, np.ndarray]:
    """Return the weights with torchvision's names, those of the head included if there is one."""
    scheme, _, path = config.init.partition(":")
    if scheme == "run":
        return _as_resnet(loading.load_query_encoder(path))
    if scheme == "saved_model":
        return _as_resnet(loading.load_network(path))
    if scheme == "keras":
        return _as_resnet(loading.load_keras(path))
    candidate = state_dicts.find(pytorch_files.read(path), backbone)
    tensors = candidate.network()
    if candidate.prefix.endswith(state_dicts.QUERY):
        # In any other file, `fc` is a classifier.
        head = candidate.prefix + HEAD
        tensors |= {k: tensor for k, tensor in candidate.tensors.items() if k.startswith(head)}
    return {
        key.removeprefix(candidate.prefix): pytorch_files.to_array(key, tensor)
        for key, tensor in tensors.items()
    }


def _as_resnet(encoder: keras.Model) -> Mapping[str, np.ndarray]:
    name = encoder_name(getattr(encoder, "backbone", encoder).name)
    if name is not None:
        raise state_dict.MismatchError(f"the weights are those of {name}")
    return state_dict.read(encoder)


def _write_head(encoder: keras.Model, arrays: Mapping[str, np.ndarray]) -> bool:
    """Set the head of an encoder if its weights are there in the right shapes."""
    entries = [entry for entry in state_dict.entries(encoder) if entry.key.startswith(HEAD)]
    shapes = {key: array.shape for key, array in arrays.items() if key.startswith(HEAD)}
    if shapes != {entry.key: entry.shape for entry in entries}:
        return False
    for entry in entries:
        entry.write(state_dict.require(arrays, entry.key, entry.shape, np.floating))
    return True


def _files(init: str) -> list[str]:
    """Return the paths of the files with the weights."""
    scheme, _, path = init.partition(":")
    assert scheme in INIT_SCHEMES  # `moco_tf.config_checks.check` has looked at it.
    if scheme == "run":
        # Not by a pattern, in which a path may have characters with a meaning.
        folder, name = os.path.split(run_directory.require_checkpoint(path))
        files = [file for file in tf.io.gfile.listdir(folder) if file.startswith(f"{name}.")]
        return [os.path.join(folder, file) for file in sorted(files)]
    if scheme == "saved_model":
        variables = os.path.join(path, "variables")
        names = sorted(tf.io.gfile.listdir(variables))
        return [os.path.join(variables, name) for name in names]
    return [path]
