"""The protocols of moco-evaluate that classify images, and its report."""

import dataclasses
import os
import time
from typing import Any

import keras
import numpy as np
from absl import flags

from moco_tf import encoders, run_data, run_directory, run_pixels, workers
from moco_tf.backbones import descriptions, network_file
from moco_tf.cli import backbone_flags
from moco_tf.config_checks import check
from moco_tf.data.pixels import Pixels, default, from_config, of_images, range_text
from moco_tf.data.sources.folder import require_outside
from moco_tf.data.sources.mixture import shared_file
from moco_tf.data.sources.source import Source
from moco_tf.encoders import foreign
from moco_tf.encoders.names import is_foreign
from moco_tf.errors import UserError
from moco_tf.evaluation import comparison, few_shot, galleries, patches, protocols, unreadable
from moco_tf.evaluation.settings import (
    AnomalySettings,
    ClusterSettings,
    FewShotSettings,
    FinetuneSettings,
    LinearSettings,
    RetrievalSettings,
    Settings,
)
from moco_tf.plots import features as feature_plots
from moco_tf.report.findings import TITLES
from moco_tf.report.report import write_report


def report(values: flags.FlagValues) -> None:
    """Write the report on a run."""
    config = _read_config(values)
    source, image_size = backbone_flags.open_source(values, config)
    backbone, name, directory, channels = _load_backbone(values, config, source, image_size)
    backbone_flags.require_images(values, backbone, name, source, channels, image_size)
    directory = values.output_dir or directory
    if workers.is_chief():
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
    source, image_size = backbone_flags.open_source(values, config)
    backbone, name, directory, channels = _load_backbone(values, config, source, image_size)
    backbone_flags.require_images(values, backbone, name, source, channels, image_size)
    gallery = _open_gallery(values, config, source)
    _require_labels(protocol, source, gallery, settings)
    if isinstance(settings, FewShotSettings):
        assert source.labels is not None
        assert source.class_names is not None
        try:
            few_shot.require_enough(source.labels[source.train], source.class_names, settings.shots)
        except UserError as error:
            raise UserError(f"--{error}") from error
    if workers.several_workers():
        _require_identical_workers(protocol, settings, backbone, source, gallery, image_size)
    directory = values.output_dir or directory
    if workers.is_chief():
        protocols.require_writable(directory)
    description = backbone_flags.describe(backbone, name, source.name, image_size)
    if gallery is not None:
        description["gallery_data"] = gallery.name
        if isinstance(settings, RetrievalSettings):
            settings = dataclasses.replace(settings, gallery="train")
    if isinstance(settings, AnomalySettings) and settings.level == "patch":
        protocol = "anomaly_patch"  # The name of its files.
    picture = _picture(values, protocol, directory)
    if picture:
        require_outside(values.data or config.data.source, picture)
        if values.gallery_data:
            require_outside(values.gallery_data, picture)
    backbones = {}
    if isinstance(settings, FinetuneSettings) and values.compare:
        backbones = _backbones_to_compare(
            values, config, source, image_size, backbone, settings.seed
        )
        comparison.read(directory, comparison.PROTOCOL, "curves")  # Refuses a damaged file early.
    _print_summary(source, gallery)
    heat: np.ndarray | None = None

    # Every process computes; the chief alone writes.
    if isinstance(settings, LinearSettings):
        result = protocols.evaluate_linear(backbone, source, image_size, settings)
    elif isinstance(settings, FinetuneSettings) and backbones:
        result = comparison.compare(backbones, source, image_size, directory, description, settings)
        if workers.is_chief():
            feature_plots.plot_comparison(picture, {**result, **description})
    elif isinstance(settings, FinetuneSettings):
        result = protocols.evaluate_finetune(backbone, source, image_size, settings)
    elif isinstance(settings, AnomalySettings) and settings.level == "patch":
        shared = shared_file([source, gallery]) if gallery is not None else None
        if shared and workers.is_chief():
            print(
                f"warning: --data and --gallery_data both have {shared[-1]}, whose patches "
                "count as normal then: name other images by --gallery_data"
            )
        network = _load_network(values, config, source)
        result, heat = patches.evaluate(network, gallery, source, image_size, settings)
    else:
        start = time.perf_counter()
        if gallery is not None:
            train, test = galleries.extract_gallery(backbone, gallery, source, image_size)
        elif protocol == "cluster" and not source.has_labels:
            train, test = galleries.extract_unlabeled(backbone, source, image_size)
        else:
            train, test = protocols.extract_both(backbone, source, image_size)
        seconds = round(time.perf_counter() - start, 3)
        if not workers.is_chief():
            return
        result = protocols.evaluate(protocol, train, test, settings)
        result["feature_seconds"] = seconds
        if gallery is not None:
            result["num_copies"] = galleries.count_copies(train, test)
            if result["num_copies"]:
                print(
                    f"warning: {result['num_copies']} of {len(test.indices)} query images have a "
                    "copy in the gallery, which they find first: name other images by "
                    "--gallery_data"
                )
        if train is test:
            result["num_images_used"] = len(test.indices) + len(test.unreadable)
    if not workers.is_chief():
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
    elif values.protocol == "cluster":
        feature_plots.plot_clusters(picture, source, image_size, result)
    elif values.protocol == "anomaly":
        feature_plots.plot_anomalies(picture, source, image_size, result, heat)
    print(f"{summary}; wrote {' and '.join(written)}")


def _print_unreadable(directory: str, result: dict[str, Any]) -> None:
    for line in unreadable.report(directory, result):
        print(line)


def _picture(values: flags.FlagValues, protocol: str, directory: str) -> str:
    """Return the path of the picture that a protocol writes; "" if it writes none."""
    if values.protocol == "knn":
        return os.path.join(directory, f"{protocol.replace('knn', 'neighbours')}.png")
    if values.compare or values.protocol in ("cluster", "anomaly"):
        return os.path.join(directory, "eval", f"{protocol}.png")
    return ""


def _open_gallery(values: flags.FlagValues, config: Any, source: Source) -> Source | None:
    """Return the source of --gallery_data, or None."""
    if values.gallery_data is None:
        return None
    gallery = backbone_flags.load_source(values, config, values.gallery_data)
    if gallery.channels != source.channels:
        raise UserError(
            f"the images of '{gallery.name}' have {gallery.channels} channels, but those of "
            f"'{source.name}' have {source.channels}: choose others by --gallery_data"
        )
    if gallery.value_range != source.value_range:
        raise UserError(
            f"the pixel values of '{gallery.name}' are in {range_text(gallery)}, but those of "
            f"'{source.name}' in {range_text(source)}: choose others by --gallery_data"
        )
    return gallery


def _require_labels(
    protocol: str, source: Source, gallery: Source | None, settings: Settings | None
) -> None:
    """Raise a `UserError` unless the images have the labels that a protocol needs."""
    if gallery is not None:
        protocols.require_labels(source)
        if protocol == "retrieval":
            protocols.require_labels(gallery)
    elif protocol == "anomaly" and not source.has_labels:
        raise UserError(
            f"data source '{source.name}' has no labels"
            f"{f', because {source.no_labels}' if source.no_labels else ''}: name normal images by "
            "--gallery_data, such as folder:PATH/train/good, and labeled test images by --data, "
            "such as folder:PATH/test"
        )
    elif isinstance(settings, ClusterSettings) and not source.has_labels:
        if not settings.clusters:
            raise UserError(
                f"data source '{source.name}' has no labels, from which the number of clusters "
                "would follow: give the number by --clusters, such as --clusters=20"
            )
    else:
        protocols.require_two_labeled_parts(source)


def _print_summary(source: Source, gallery: Source | None = None) -> None:
    if not workers.is_chief():
        return
    if gallery is None:
        print(source.summary, flush=True)
        return
    # The other lines are about training and test images, which are not distinguished here.
    for searched in (gallery, source):
        print(searched.summary.partition("\n")[0], flush=True)


def _read_config(values: flags.FlagValues) -> Any:
    """Return the config of the backbone, or None for a SavedModel or a checkpoint."""
    backbone_flags.require_encoder(values, needs_saved_model_network=values.compare)
    if values.workdir:
        return run_directory.read_config(values.workdir)
    if values.random_init:
        check(values.config)
        return values.config
    return None


def _load_backbone(
    values: flags.FlagValues, config: Any, source: Source, image_size: int
) -> tuple[Any, str, str, int]:
    """Return the backbone, its name, the directory of its results and its input channels."""
    if values.random_init:
        network = (config.encoder, config.stem)
        backbone = _random_backbone(values, network, source, image_size, config.seed)
        return backbone, f"random {config.encoder}", ".", backbone.input_shape[-1]
    # With --compare, the backbone of --checkpoint may be given beside that of --workdir.
    kind = next(name for name in backbone_flags.NAMES if values[name].value)
    head = values.features == "head"
    backbone, channels = backbone_flags.load_with_normalization(values, kind, source, head)
    path: Any = values[kind].value
    return backbone, path, "." if kind == "checkpoint" else path, channels


def _require_identical_workers(
    protocol: str,
    settings: Settings | None,
    backbone: Any,
    source: Source,
    gallery: Source | None,
    image_size: int,
) -> None:
    """Raise a `UserError` unless all workers evaluate the same backbone on the same images.

    A run that goes on may have a newer checkpoint on one of them.
    """
    identity = comparison.identify(backbone, source, image_size)
    facts = {
        "the protocol and its settings": [protocol, settings and dataclasses.asdict(settings)],
        "the backbone": [identity.pop("weights"), identity.pop("network")],
        "the images of the evaluation": identity,
        "the images of the gallery": None
        if gallery is None
        else [gallery.name, gallery.size, run_data.of_source(gallery).checksum],
    }
    workers.require_same(facts)


def _load_network(values: flags.FlagValues, config: Any, source: Source) -> keras.Model:
    """Return the backbone as `moco_tf.encoders.build` returns it, for normalized images."""
    if values.random_init:
        pixels = _pixels(config, source)
        network = (config.encoder, config.stem, source.channels, config.seed)
        return encoders.random_network(*network, pixels=pixels)
    kind = next(name for name in backbone_flags.NAMES if values[name].value)
    network = backbone_flags.load(values, kind)
    if kind == "checkpoint":
        network.pixels = of_images(network.pixels, source)
    return network


def _pixels(config: Any, source: Source) -> Pixels:
    """Return the pixel values of a random network: those of the images."""
    if config is None:
        return of_images(default(source.channels), source)
    measured = run_pixels.resolve(config)
    return of_images(from_config(measured, source.channels), source)


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
    values: flags.FlagValues, network: tuple[str, str], source: Source, image_size: int, seed: int
) -> Any:
    """Return a network, an encoder and its stem, without training."""
    encoder, stem = network
    description = None
    if is_foreign(encoder):
        directory = values.workdir or values.saved_model
        description = descriptions.read(directory) if directory else None
        description = description or foreign.describe(encoder, source.channels, image_size)
    config = run_directory.read_config(values.workdir) if values.workdir else None
    config = values.config if values.random_init else config
    pixels = _pixels(config, source)
    return encoders.random_backbone(encoder, stem, source.channels, seed, description, pixels)


def _backbones_to_compare(
    values: flags.FlagValues,
    config: Any,
    source: Source,
    image_size: int,
    backbone: Any,
    seed: int,
) -> dict[str, Any]:
    """Return the backbones of --compare by their names in the legend."""
    encoder, stem = _network(values, config, backbone)
    random = _random_backbone(values, (encoder, stem), source, image_size, seed)
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
        imported = backbone
        if values.workdir:
            imported, _ = backbone_flags.load_with_normalization(values, "checkpoint", source)
        backbones[f"imported, {os.path.basename(values.checkpoint)}"] = imported
    return backbones
