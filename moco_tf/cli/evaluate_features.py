"""The protocols of moco-evaluate on features that are computed once."""

import dataclasses
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from absl import flags

from moco_tf import workers
from moco_tf.cli import backbone_flags, evaluate_inputs, evaluated_backbones, result_notes
from moco_tf.cli.evaluate_inputs import Inputs
from moco_tf.data.pixels import range_text
from moco_tf.data.sources.mixture import shared_file
from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError
from moco_tf.evaluation import few_shot, galleries, patches, protocols
from moco_tf.evaluation.features import Features
from moco_tf.evaluation.results import summarize, write_result
from moco_tf.evaluation.settings import (
    AnomalySettings,
    ClusterSettings,
    FewShotSettings,
    RetrievalSettings,
    Settings,
)
from moco_tf.names import printable
from moco_tf.plots import features as feature_plots


def run(values: flags.FlagValues, protocol: str, settings: Settings | None) -> None:
    """Evaluate a backbone by a protocol, write the result and print it.

    Args:
        values: The parsed flags.
        protocol: The name that the result goes by.
        settings: Settings of the protocol.
    """
    inputs = evaluate_inputs.load(values)
    gallery = _open_gallery(values, inputs)
    _require_labels(protocol, inputs.source, gallery, settings)
    evaluate_inputs.check(inputs, protocol, settings, gallery)
    # Every process computes features; the chief alone writes.
    if isinstance(settings, AnomalySettings) and settings.level == "patch":
        _compare_patches(values, settings, inputs, gallery)
    else:
        _compare_features(values, protocol, settings, inputs, gallery)


def _compare_patches(
    values: flags.FlagValues, settings: AnomalySettings, inputs: Inputs, gallery: Source | None
) -> None:
    """Find anomalies by the features of patches, instead of those of images."""
    source, image_size = inputs.source, inputs.image_size
    picture = _picture(values, "anomaly_patch", inputs)
    evaluate_inputs.print_summary(values, inputs, gallery)
    shared = shared_file([source, gallery]) if gallery is not None else None
    if shared and workers.is_chief():
        print(
            f"warning: --data and --gallery_data both have {shared[-1]}, whose patches count as "
            "normal then: name other images by --gallery_data"
        )
    network = evaluated_backbones.load_network(values, inputs.config, source)
    result, heat = patches.evaluate(network, gallery, source, image_size, settings)
    if workers.is_chief():
        draw = partial(feature_plots.plot_anomalies, picture, source, image_size, result, heat)
        _finish(inputs, gallery, result, picture, draw)


def _compare_features(
    values: flags.FlagValues,
    protocol: str,
    settings: Settings | None,
    inputs: Inputs,
    gallery: Source | None,
) -> None:
    """Apply a protocol of `protocols.CACHED`."""
    backbone, source, image_size = inputs.backbone, inputs.source, inputs.image_size
    picture = _picture(values, protocol, inputs)
    evaluate_inputs.print_summary(values, inputs, gallery)
    searches_test = (
        gallery is None and isinstance(settings, RetrievalSettings) and settings.gallery == "test"
    )
    start = time.perf_counter()
    if gallery is not None:
        train, test = galleries.extract_gallery(backbone, gallery, source, image_size)
    elif searches_test:
        train = test = galleries.extract_queries(backbone, source, image_size)
    elif protocol == "cluster" and not source.has_labels:
        train, test = galleries.extract_unlabeled(backbone, source, image_size)
    else:
        train, test = protocols.extract_both(backbone, source, image_size)
    seconds = round(time.perf_counter() - start, 3)
    if not workers.is_chief():
        return
    if gallery is not None and isinstance(settings, RetrievalSettings):
        settings = dataclasses.replace(settings, gallery="train")
    result = protocols.evaluate(protocol, train, test, settings)
    result["feature_seconds"] = seconds
    if gallery is not None:
        result["num_copies"] = _count_copies(train, test)
    elif searches_test:
        result["num_train"] = 0
    extracted = [test] if train is test else [train, test]
    result["num_images_used"] = sum(len(each.indices) + len(each.unreadable) for each in extracted)
    draw: Callable[[], object] | None = None
    if values.protocol == "knn":
        draw = partial(feature_plots.plot_neighbors, picture, source, image_size, train, test)
    elif values.protocol == "cluster":
        draw = partial(feature_plots.plot_clusters, picture, source, image_size, result)
    elif values.protocol == "anomaly":
        draw = partial(feature_plots.plot_anomalies, picture, source, image_size, result, None)
    _finish(inputs, gallery, result, picture, draw)


def _count_copies(gallery: Features, queries: Features) -> int:
    """Return how many queries have a copy in the gallery, after a warning if there are any."""
    num_copies = galleries.count_copies(gallery, queries)
    if num_copies:
        print(
            f"warning: {num_copies} of {len(queries.indices)} query images have a copy in the "
            "gallery, which they find first: name other images by --gallery_data"
        )
    return num_copies


def _finish(
    inputs: Inputs,
    gallery: Source | None,
    result: dict[str, Any],
    picture: str,
    draw: Callable[[], object] | None,
) -> None:
    """Write the result, draw its picture, and print both."""
    result |= evaluate_inputs.describe(inputs)
    if gallery is not None:
        result["gallery_data"] = gallery.name
    summary = f"{result['protocol']} of {inputs.name} on {inputs.source.name}: {summarize(result)}"
    result_notes.print_replaced(inputs.directory, result)
    try:
        written = write_result(inputs.directory, result)
    except UserError:
        print(summary)  # A disk that has become full does not cost the result.
        raise
    result_notes.print_unreadable(inputs.directory, result)
    result_notes.print_warnings(result)
    if draw is not None:
        draw()  # After the result, so that a picture that cannot be written does not cost it.
        written += f" and {picture}"
    print(f"{summary}; wrote {written}")


def _picture(values: flags.FlagValues, protocol: str, inputs: Inputs) -> str:
    """Return the path of the picture that a protocol writes; "" if it writes none.

    Raises:
        UserError: If it would be among the images.
    """
    if values.protocol == "knn":
        path = os.path.join(inputs.directory, f"{protocol.replace('knn', 'neighbours')}.png")
    elif values.protocol in ("cluster", "anomaly"):
        path = os.path.join(inputs.directory, "eval", f"{protocol}.png")
    else:
        return ""
    evaluate_inputs.require_outside_images(values, inputs, path)
    return path


def _open_gallery(values: flags.FlagValues, inputs: Inputs) -> Source | None:
    """Return the source of --gallery_data, or None."""
    if values.gallery_data is None:
        return None
    source = inputs.source
    gallery = backbone_flags.load_source(values, inputs.config, values.gallery_data)
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
            _require_common_classes(source, gallery)
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
    if isinstance(settings, FewShotSettings):
        assert source.labels is not None
        assert source.class_names is not None
        try:
            few_shot.require_enough(source.labels[source.train], source.class_names, settings.shots)
        except UserError as error:
            raise UserError(f"--{error}") from error


def _require_common_classes(source: Source, gallery: Source) -> None:
    """Raise a `UserError` if no class of the queries is in the gallery."""
    queries, searched = source.class_names or [], gallery.class_names or []
    if not set(queries) & set(searched):
        names = [printable(", ".join(some[:5])) for some in (queries, searched)]
        raise UserError(
            f"no class of '{source.name}' ({names[0]}) is in '{gallery.name}' ({names[1]}): use "
            "the same names of classes for --data and --gallery_data"
        )
