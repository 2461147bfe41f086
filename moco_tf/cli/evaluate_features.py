"""The protocols of moco-evaluate that classify images, and its report."""

import os
import time
from typing import Any

from absl import flags

from moco_tf import distribution, encoders, run_directory
from moco_tf.backbones import descriptions, loading
from moco_tf.cli import backbone_flags
from moco_tf.config import check
from moco_tf.data import sources
from moco_tf.data.sources.folder import require_outside
from moco_tf.data.sources.source import Source
from moco_tf.encoders import foreign
from moco_tf.encoders.names import is_foreign
from moco_tf.errors import UserError
from moco_tf.evaluation import comparison, few_shot, protocols, unreadable
from moco_tf.evaluation.settings import (
    FewShotSettings,
    FinetuneSettings,
    LinearSettings,
    Settings,
)
from moco_tf.plots import features as feature_plots
from moco_tf.report.findings import TITLES
from moco_tf.report.report import write_report


def report(values: flags.FlagValues) -> None:
    """Write the report on a run."""
    config = _read_config(values)
    source, image_size = _open_source(values, config)
    backbone, name, directory, channels = _load_backbone(values, config, source, image_size)
    _require_images(values, backbone, name, source, channels, image_size)
    directory = values.output_dir or directory
    if distribution.is_chief():
        protocols.require_writable(directory)
    _print_summary(source)
    if result := write_report(values.workdir, source, image_size, directory):
        _print_unreadable(directory, result)
        titles = [TITLES[warning][0] for warning in result["warnings"]]
        print(
            f"report of {name} on {source.name}: warnings: {'; '.join(titles) or 'none'}; wrote "
            f"{directory}/report.html, which you can open in a browser"
        )


def run(values: flags.FlagValues, protocol: str, settings: Settings | None) -> None:
    """Evaluate a backbone by a protocol, write the result and print it.

    Args:
        values: The parsed flags.
        protocol: The name that the result goes by.
        settings: Settings of the protocol.
    """
    config = _read_config(values)
    source, image_size = _open_source(values, config)
    backbone, name, directory, channels = _load_backbone(values, config, source, image_size)
    _require_images(values, backbone, name, source, channels, image_size)
    protocols.require_two_labeled_parts(source)
    if isinstance(settings, FewShotSettings):
        assert source.labels is not None
        assert source.class_names is not None
        try:
            few_shot.require_enough(source.labels[source.train], source.class_names, settings.shots)
        except UserError as error:
            raise UserError(f"--{error}") from error
    directory = values.output_dir or directory
    if distribution.is_chief():
        protocols.require_writable(directory)
    description = {"backbone": name, "data": source.name, "image_size": image_size}
    picture = _picture(values, protocol, directory)
    if picture:
        require_outside(values.data or config.data.source, picture)
    backbones = {}
    if isinstance(settings, FinetuneSettings) and values.compare:
        backbones = _backbones_to_compare(
            values, config, source, image_size, backbone, settings.seed
        )
        comparison.read(directory, comparison.PROTOCOL, "curves")  # Refuses a damaged file early.
    _print_summary(source)

    # Every process computes; the chief alone writes.
    if isinstance(settings, LinearSettings):
        result = protocols.evaluate_linear(backbone, source, image_size, settings)
    elif isinstance(settings, FinetuneSettings) and backbones:
        result = comparison.compare(backbones, source, image_size, directory, description, settings)
        if distribution.is_chief():
            feature_plots.plot_comparison(picture, {**result, **description})
    elif isinstance(settings, FinetuneSettings):
        result = protocols.evaluate_finetune(backbone, source, image_size, settings)
    else:
        start = time.perf_counter()
        train, test = protocols.extract_both(backbone, source, image_size)
        seconds = round(time.perf_counter() - start, 3)
        if not distribution.is_chief():
            return
        result = protocols.evaluate(protocol, train, test, settings)
        result["feature_seconds"] = seconds
    if not distribution.is_chief():
        return
    result |= description
    summary = f"{protocol} of {name} on {source.name}: {protocols.summarize(result)}"
    try:
        written = [protocols.write_result(directory, result), *filter(None, [picture])]
    except UserError:
        print(summary)  # A disk that has become full does not cost the result.
        raise
    _print_unreadable(directory, result)
    if values.protocol == "knn":
        # After the result, so that a picture that cannot be written does not cost it.
        feature_plots.plot_neighbors(picture, source, image_size, train, test)
    print(f"{summary}; wrote {' and '.join(written)}")


def _print_unreadable(directory: str, result: dict[str, Any]) -> None:
    for line in unreadable.report(directory, result):
        print(line)


def _picture(values: flags.FlagValues, protocol: str, directory: str) -> str:
    """Return the path of the picture that a protocol writes; "" if it writes none."""
    if values.protocol == "knn":
        return os.path.join(directory, f"{protocol.replace('knn', 'neighbours')}.png")
    return os.path.join(directory, "eval", f"{protocol}.png") if values.compare else ""


def _print_summary(source: Source) -> None:
    if distribution.is_chief():
        print(source.summary, flush=True)


def _read_config(values: flags.FlagValues) -> Any:
    """Return the config of the backbone, or None for a SavedModel or a checkpoint."""
    backbone_flags.require_encoder(values, needs_saved_model_network=values.compare)
    if values.workdir:
        return run_directory.read_config(values.workdir)
    if values.random_init:
        check(values.config)
        return values.config
    return None


def _open_source(values: flags.FlagValues, config: Any) -> tuple[Source, int]:
    """Return the data source and the side of the views in pixels."""
    data = values.data or config.data.source
    options = sources.options(config) if config else {}
    for name in ("image_feature", "label_feature", "tfds_dir"):
        if values[name].value is not None:
            options[name] = str(values[name].value)
    return sources.load(data, **options), values.image_size or config.image_size


def _load_backbone(
    values: flags.FlagValues, config: Any, source: Source, image_size: int
) -> tuple[Any, str, str, int]:
    """Return the backbone, its name, the directory of its results and its input channels."""
    if values.saved_model:
        backbone, channels = loading.load_saved_model(values.saved_model)
        return backbone, values.saved_model, values.saved_model, channels
    if values.workdir:
        load = loading.load_encoder if values.features == "head" else loading.load_backbone
        backbone, name, directory = load(values.workdir), values.workdir, values.workdir
    elif values.checkpoint:
        backbone, name, directory = _load_checkpoint(values), values.checkpoint, "."
    else:
        backbone = _random_backbone(values, config, source, image_size, config.seed)
        name, directory = f"random {config.encoder}", "."
    return backbone, name, directory, backbone.input_shape[-1]


def _load_checkpoint(values: flags.FlagValues) -> Any:
    return encoders.with_normalization(backbone_flags.load(values, "checkpoint"))


def _require_images(
    values: flags.FlagValues,
    backbone: Any,
    name: str,
    source: Source,
    channels: int,
    image_size: int,
) -> None:
    """Raise a `UserError` unless a backbone takes views of this size of these images."""
    if channels != source.channels:
        raise UserError(
            f"the images of '{source.name}' have {source.channels} channels, but {name} takes "
            f"{channels}: choose images with {channels} channels by --data"
        )
    if values.saved_model:
        description = descriptions.read(values.saved_model)
        backbone = foreign.read(description) if description else None
    if backbone is not None:
        foreign.require_image_size(backbone, image_size, name, "--image_size")


def _network(values: flags.FlagValues, config: Any) -> tuple[str, str]:
    """Return the encoder and its stem."""
    if config:
        return config.encoder, config.stem
    if values.encoder:
        return values.encoder, values.stem
    network = loading.read_network(values.saved_model)
    return network.encoder, network.stem


def _random_backbone(
    values: flags.FlagValues, config: Any, source: Source, image_size: int, seed: int
) -> Any:
    """Return the same network without training."""
    encoder, stem = _network(values, config)
    description = None
    if is_foreign(encoder):
        directory = values.workdir or values.saved_model
        description = descriptions.read(directory) if directory else None
        description = description or foreign.describe(encoder, source.channels, image_size)
    return encoders.random_backbone(encoder, stem, source.channels, seed, description)


def _backbones_to_compare(
    values: flags.FlagValues,
    config: Any,
    source: Source,
    image_size: int,
    backbone: Any,
    seed: int,
) -> dict[str, Any]:
    """Return the backbones of --compare by their names in the legend."""
    encoder, stem = _network(values, config)
    random = _random_backbone(values, config, source, image_size, seed)
    shapes = [sorted(tuple(w.shape) for w in network.weights) for network in (backbone, random)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"--encoder={encoder} --stem={stem} is not the network in "
            f"--saved_model={values.saved_model}: name the right one"
        )
    backbones = {f"random initialization, {encoder}": random}
    if own := values.workdir or values.saved_model:
        backbones[f"pre-trained, {os.path.basename(own.rstrip('/'))}"] = backbone
    if values.checkpoint:
        imported = _load_checkpoint(values) if values.workdir else backbone
        backbones[f"imported, {os.path.basename(values.checkpoint)}"] = imported
    return backbones
