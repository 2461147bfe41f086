"""The protocols of moco-evaluate that classify or compare images."""

import dataclasses
import os
import time
from typing import Any

import keras
import numpy as np
from absl import flags

from moco_tf import run_data, workers
from moco_tf.backbones import classifier, history
from moco_tf.cli import backbone_flags, evaluated_backbones
from moco_tf.data.pixels import range_text
from moco_tf.data.sources.folder import require_outside
from moco_tf.data.sources.mixture import shared_file
from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError
from moco_tf.evaluation import comparison, few_shot, galleries, patches, protocols
from moco_tf.evaluation.identity import identify, identify_training
from moco_tf.evaluation.results import require_writable, summarize, write_result
from moco_tf.evaluation.settings import (
    AnomalySettings,
    ClusterSettings,
    FewShotSettings,
    FinetuneSettings,
    LinearSettings,
    RetrievalSettings,
    Settings,
)
from moco_tf.evaluation.training_state import TrainingState, state_in
from moco_tf.plots import features as feature_plots


def run(values: flags.FlagValues, protocol: str, settings: Settings | None) -> None:
    """Evaluate a backbone by a protocol, write the result and print it.

    Args:
        values: The parsed flags.
        protocol: The name that the result goes by.
        settings: Settings of the protocol.
    """
    config = evaluated_backbones.read_config(values)
    source, image_size = backbone_flags.open_source(values, config)
    backbone, name, directory, channels = evaluated_backbones.load_backbone(
        values, config, source, image_size
    )
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
        require_writable(directory)
    backbone_history = ""
    if values.save_classifier:
        if workers.is_chief():
            classifier.require_path(values.save_classifier)
        classifier.require_classifiable(backbone)
        backbone_history = _history(values, backbone)
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
        backbones = evaluated_backbones.backbones_to_compare(
            values, config, source, image_size, backbone, settings.seed
        )
        comparison.read(directory, comparison.PROTOCOL, "curves")  # Refuses a damaged file early.
    is_of_run = bool(values.workdir) and source.name == config.data.source
    _print_summary(source, gallery, is_of_run)
    heat: np.ndarray | None = None
    trained: protocols.Trained | None = None
    state: TrainingState | None = None
    if isinstance(settings, LinearSettings | FinetuneSettings) and not backbones:
        identity = identify_training(backbone, source, image_size, settings)
        state = state_in(directory, protocol, identity)

    # Every process computes; the chief alone writes.
    if isinstance(settings, LinearSettings):
        trained, result = protocols.evaluate_linear(backbone, source, image_size, settings, state)
    elif isinstance(settings, FinetuneSettings) and backbones:
        result = comparison.compare(backbones, source, image_size, directory, description, settings)
        if workers.is_chief():
            feature_plots.plot_comparison(picture, {**result, **description})
    elif isinstance(settings, FinetuneSettings):
        trained, result = protocols.evaluate_finetune(
            backbone, source, image_size, settings, state=state
        )
    elif isinstance(settings, AnomalySettings) and settings.level == "patch":
        shared = shared_file([source, gallery]) if gallery is not None else None
        if shared and workers.is_chief():
            print(
                f"warning: --data and --gallery_data both have {shared[-1]}, whose patches "
                "count as normal then: name other images by --gallery_data"
            )
        network = evaluated_backbones.load_network(values, config, source)
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
    trained_model: keras.Model | None = None
    if trained is not None and values.save_classifier:
        trained_model = classifier.assemble(*trained)  # In all workers, because it has variables.
    if not workers.is_chief():
        return
    result |= description
    summary = f"{protocol} of {name} on {source.name}: {summarize(result)}"
    written: list[str] = []
    try:
        try:
            written.append(write_result(directory, result))
        finally:  # A result that cannot be written does not cost the classifier.
            if trained is not None and trained_model is not None:
                names, path = source.class_names or [], values.save_classifier
                classifier.save(
                    trained_model, path, names, result, trained.backbone, backbone_history
                )
                written.append(path)
    except UserError:
        # A disk that has become full does not cost the result.
        print(f"{summary}; wrote {' and '.join(written)}" if written else summary)
        raise
    if state is not None:
        state.remove()
    written += filter(None, [picture])
    backbone_flags.print_unreadable(directory, result)
    if values.protocol == "knn":
        # After the result, so that a picture that cannot be written does not cost it.
        feature_plots.plot_neighbors(picture, source, image_size, train, test)
    elif values.protocol == "cluster":
        feature_plots.plot_clusters(picture, source, image_size, result)
    elif values.protocol == "anomaly":
        feature_plots.plot_anomalies(picture, source, image_size, result, heat)
    print(f"{summary}; wrote {' and '.join(written)}")


def _history(values: flags.FlagValues, backbone: Any) -> str:
    """Return the text about the training of the backbone, for the card of a classifier."""
    origin = backbone_flags.origin(values)
    if origin is None:
        return "Random weights, without pre-training."
    return history.training(origin, getattr(backbone, "checkpoint", ""))


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


def _print_summary(source: Source, gallery: Source | None, is_of_run: bool) -> None:
    if not workers.is_chief():
        return
    if gallery is None:
        print(source.summary if is_of_run else source.evaluation_summary, flush=True)
        return
    # The other lines are about training and test images, which are not distinguished here.
    for searched in (gallery, source):
        print(searched.summary.partition("\n")[0], flush=True)


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
    identity = identify(backbone, source, image_size)
    facts = {
        "the protocol and its settings": [protocol, settings and dataclasses.asdict(settings)],
        "the backbone": [identity.pop("weights"), identity.pop("network")],
        "the images of the evaluation": identity,
        "the images of the gallery": None
        if gallery is None
        else [gallery.name, gallery.size, run_data.of_source(gallery).checksum],
    }
    workers.require_same(facts)
