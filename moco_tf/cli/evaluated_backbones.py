"""The backbones that the protocols of moco-evaluate evaluate, and those of --compare."""

import os
from typing import Any

import keras
from absl import flags

from moco_tf import encoders, run_directory, run_pixels
from moco_tf.backbones import descriptions, network_file
from moco_tf.cli import backbone_flags
from moco_tf.config_checks import check
from moco_tf.data.pixels import Pixels, default, from_config, of_images
from moco_tf.data.sources.source import Source
from moco_tf.encoders import foreign
from moco_tf.encoders.names import is_foreign
from moco_tf.errors import UserError


def read_config(values: flags.FlagValues) -> Any:
    """Return the config of the backbone, or None for a SavedModel or a checkpoint."""
    needs_network = values.compare or values.level == "patch"
    backbone_flags.require_encoder(values, needs_saved_model_network=needs_network)
    if values.workdir:
        return run_directory.read_config(values.workdir)
    if values.random_init:
        check(values.config)
        return values.config
    return None


def load_backbone(
    values: flags.FlagValues, config: Any, source: Source, image_size: int
) -> tuple[Any, str, str, int]:
    """Return the backbone, its name, the directory of its results and its input channels."""
    if values.random_init:
        network = (config.encoder, config.stem)
        backbone = _random_backbone(values, config, network, source, image_size, config.seed)
        return backbone, f"random {config.encoder}", ".", backbone.input_shape[-1]
    kind = backbone_flags.selected(values)
    head = values.features == "head"
    backbone, channels = backbone_flags.load_with_normalization(values, kind, source, head)
    path: Any = values[kind].value
    return backbone, path, "." if kind == "checkpoint" else path, channels


def load_network(values: flags.FlagValues, config: Any, source: Source) -> keras.Model:
    """Return the backbone as `moco_tf.encoders.build` returns it, for normalized images."""
    if values.random_init:
        pixels = _pixels(config, source)
        network = (config.encoder, config.stem, source.channels, config.seed)
        return encoders.random_network(*network, pixels=pixels)
    kind = backbone_flags.selected(values)
    network = backbone_flags.load(values, kind)
    if kind == "checkpoint":
        network.pixels = of_images(network.pixels, source)
    return network


def backbones_to_compare(
    values: flags.FlagValues,
    config: Any,
    source: Source,
    image_size: int,
    backbone: Any,
    seed: int,
) -> dict[str, Any]:
    """Return the backbones of --compare by their names in the legend."""
    encoder, stem = _network(values, config, backbone)
    pixels = getattr(backbone, "pixels", None)
    random = _random_backbone(values, config, (encoder, stem), source, image_size, seed, pixels)
    if _shapes(backbone) != _shapes(random):
        kind = backbone_flags.selected(values)
        path: Any = values[kind].value
        if config is None and values.encoder:
            raise UserError(
                f"--encoder={encoder} --stem={stem} is not the network in --{kind}={path}: name "
                "the right one"
            )
        raise UserError(
            f"the network in --{kind}={path} is not a {encoder} with the stem {stem}, as its name "
            "says, so --compare cannot build it with random weights: leave out --compare"
        )
    backbones = {f"random initialization, {encoder}": random}
    if own := values.workdir or values.saved_model:
        backbones[f"pre-trained, {os.path.basename(own.rstrip('/'))}"] = backbone
    if values.checkpoint:
        imported = backbone
        if values.workdir:
            name = values.checkpoint
            imported, channels = backbone_flags.load_with_normalization(
                values, "checkpoint", source
            )
            backbone_flags.require_images(values, imported, name, source, channels, image_size)
            if _shapes(imported) != _shapes(backbone):
                raise UserError(
                    f"--checkpoint={name} holds another network than --workdir={values.workdir}, a "
                    f"{encoder} with the stem {stem}: compare the same network"
                )
        backbones[f"imported, {os.path.basename(values.checkpoint)}"] = imported
    return backbones


def _shapes(network: Any) -> list[tuple[int, ...]]:
    return sorted(tuple(weight.shape) for weight in network.weights)


def _network(values: flags.FlagValues, config: Any, backbone: Any) -> tuple[str, str]:
    """Return the encoder of a backbone and its stem."""
    if config:
        return config.encoder, config.stem
    if values.encoder:
        return values.encoder, values.stem
    if values.saved_model:
        network = network_file.require(values.saved_model).network
    else:
        network = encoders.network_of(backbone)
    return network.encoder, network.stem


def _random_backbone(
    values: flags.FlagValues,
    config: Any,
    network: tuple[str, str],
    source: Source,
    image_size: int,
    seed: int,
    pixels: Pixels | None = None,
) -> Any:
    """Return a network, an encoder and its stem, without training."""
    encoder, stem = network
    description = None
    if is_foreign(encoder):
        directory = values.workdir or values.saved_model
        description = descriptions.read(directory) if directory else None
        description = description or foreign.describe(encoder, source.channels, image_size)
    pixels = _pixels(config, source, pixels)
    return encoders.random_backbone(encoder, stem, source.channels, seed, description, pixels)


def _pixels(config: Any, source: Source, pixels: Pixels | None = None) -> Pixels:
    """Return the pixel values of a random network: those of the images.

    Args:
        config: Config of the backbone that it is compared with, or None without one.
        source: The images.
        pixels: The pixel values of that backbone, which count without a config.
    """
    if config is None:
        return of_images(pixels or default(source.channels), source)
    measured = run_pixels.resolve(config)
    return of_images(from_config(measured, source.channels), source)
