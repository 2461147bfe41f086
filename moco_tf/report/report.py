"""Evaluate a run and write its report: a self-contained HTML page, and JSON for programs."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf import run_directory, workers
from moco_tf.backbones.loading import load_backbone
from moco_tf.config import evaluation_size
from moco_tf.data import sources
from moco_tf.data.sources.source import Source, evenly_spaced
from moco_tf.errors import UserError
from moco_tf.evaluation import knn, unreadable
from moco_tf.evaluation.features import Features
from moco_tf.evaluation.results import write_result
from moco_tf.files import error_reason, write_atomically
from moco_tf.names import printable
from moco_tf.paths import expand_source
from moco_tf.plots.thumbnails import thumbnails
from moco_tf.progress_bar import progress_bar
from moco_tf.report import page
from moco_tf.report.baselines import (
    Evaluated,
    baselines,
    compare,
    extract,
    split,
    without_unreadable,
)
from moco_tf.report.contents import Contents, FeatureMap, Images, Neighbors
from moco_tf.report.evidence import gather
from moco_tf.report.feature_map import map_to_plane
from moco_tf.report.findings import PROTOCOLS, TRAINED, check

# The number of test images whose neighbors are shown, and the number of neighbors of each.
ROWS, COLUMNS = 8, 8


def write_report(
    workdir: str,
    source: Source | None = None,
    image_size: int | None = None,
    output_dir: str | None = None,
    evaluated: Evaluated | None = None,
) -> dict[str, Any] | None:
    """Write report.html, a page about a run that needs no other files and no network.

    The page states how the run was trained, plots its curves, compares its backbone with the same
    encoder without training and with raw pixels, shows a map of the features of test images and
    their nearest neighbors, and warns of likely mistakes. It uses the images that the kNN monitor
    uses: at most 10,000 training images and 2,000 test images. Without labels there is no
    comparison. If no test images are held out, the images of pre-training are used instead, and
    there is no comparison either. The findings are also written to eval/report.json.

    Call this in every process of the current `tf.distribute` strategy; only the chief writes.

    Args:
        workdir: Path of the run directory.
        source: The source of the images; by default that of the run.
        image_size: Side of the central views in pixels; by default that of the run's evaluations.
        output_dir: Directory for report.html and eval/report.json; by default `workdir`.
        evaluated: Features and results of all backbones, if they were computed before.

    Returns:
        In the chief, the content of report.json, and None in other processes. `protocol` is
        "report"; `backbones` has for each backbone the results of
        `moco_tf.evaluation.protocols.evaluate` for "knn" and "linear_cached", or is None;
        `warnings` has the names of the `moco_tf.report.findings` that are warnings, and
        `looked_at` the names of all; `step` is the step of the checkpoint; further entries are
        `num_train`, `num_test`, the entries of `moco_tf.evaluation.unreadable.entries`, `data` and
        `image_size`.

    Raises:
        UserError: If there is no run, it has no checkpoint yet, the source cannot be read, or the
            report cannot be written.
    """
    config = run_directory.read_config(workdir)
    if source is None:
        source = sources.from_config(config)
    image_size = image_size or evaluation_size(config)
    bank_indices, test_indices, held_out = split(source)
    can_compare = held_out and _has_classes(source, bank_indices)
    if evaluated is not None:
        features = evaluated.features
        checkpoint = os.path.basename(run_directory.require_checkpoint(workdir))
    else:
        trained = load_backbone(workdir)
        checkpoint = trained.checkpoint
        backbones: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {TRAINED: trained}
        if can_compare:
            backbones |= baselines(workdir, config, source, image_size)
        features = extract(backbones, source, bank_indices, test_indices, image_size)
    if not workers.is_chief():
        return None

    trained_on = printable(expand_source(config.data.source))
    monitored = printable(expand_source(config.monitor_source)) or trained_on
    bank, test = features[TRAINED]
    labels = _shown_labels(source, bank, test)
    finite = bool(np.isfinite(bank.features).all() and np.isfinite(test.features).all())
    can_compare = can_compare and finite
    compares_now = can_compare and evaluated is None
    total = 3 + (len(PROTOCOLS) * len(features) if compares_now else 0)
    with progress_bar(total, "report", "part") as bar:
        results = compare(features, bar) if compares_now else None
        if can_compare and evaluated is not None:
            results = without_unreadable(evaluated.results)
        step = run_directory.step_of(checkpoint)
        evidence = gather(workdir, config, step, bank, test, finite, results)
        findings = check(evidence)
        bar.update()
        contents = Contents(
            name=printable(os.path.basename(os.path.normpath(workdir))),
            trained_on=trained_on,
            data=source.name,
            is_monitored=(source.name, image_size) == (monitored, evaluation_size(config)),
            channels=source.channels,
            held_out=held_out,
            evidence=evidence,
            findings=findings,
            results=results,
            class_names=None if labels is None else source.class_names,
            feature_map=_feature_map(source, test, image_size, labels) if finite else None,
            neighbors=_neighbors(source, bank, test, image_size, labels) if finite else None,
        )
        bar.update()
        result = {
            "protocol": "report",
            "backbones": results,
            "warnings": [finding.name for finding in findings if finding.is_warning],
            "looked_at": [finding.name for finding in findings],
            "step": evidence.step,
            "num_train": len(bank.indices),
            "num_test": len(test.indices),
            **unreadable.entries(
                # Without held-out images, the test images are among those of the bank.
                {i: name for i, name in bank.unreadable.items() if i not in test.unreadable},
                test.unreadable,
                test.unreadable_classes,
            ),
            "num_images_used": evidence.num_images_used,
            "data": source.name,
            "image_size": image_size,
        }
        directory = output_dir or workdir
        write_result(directory, result)
        unreadable.report(directory, result)
        _write(os.path.join(directory, "report.html"), page.render(contents))
        bar.update()
    return result


def _shown_labels(source: Source, *parts: Features) -> np.ndarray | None:
    """Return the labels of a source, or None if images of the report have none.

    The images of pre-training, which the report shows without held-out ones, may be labeled in
    part.
    """
    for part in parts:
        if part.labels is None or (part.labels < 0).any():
            return None
    return source.labels


def _has_classes(source: Source, indices: np.ndarray) -> bool:
    return source.labels is not None and len(np.unique(source.labels[indices])) > 1


def _feature_map(
    source: Source, test: Features, image_size: int, labels: np.ndarray | None
) -> FeatureMap:
    neighbors, cosines = knn.nearest_others(
        test.features, test.indices, test.features, test.indices, COLUMNS
    )
    images = _images(source, test.indices, image_size, labels, largest=64)
    return FeatureMap(images, map_to_plane(test.features), neighbors, cosines)


def _neighbors(
    source: Source, bank: Features, test: Features, image_size: int, labels: np.ndarray | None
) -> Neighbors:
    # Test images are sorted by class, so evenly spaced ones show different classes.
    queries = evenly_spaced(np.arange(len(test.features)), ROWS)
    query_indices = test.indices[queries]
    rows, cosines = knn.nearest_others(
        bank.features, bank.indices, test.features[queries], query_indices, COLUMNS
    )
    return Neighbors(
        _images(source, query_indices, image_size, labels, largest=128),
        _images(source, bank.indices[rows].ravel(), image_size, labels, largest=128),
        cosines,
    )


def _images(
    source: Source,
    indices: np.ndarray,
    image_size: int,
    labels: np.ndarray | None,
    largest: int,
) -> Images:
    return Images(
        thumbnails(source, indices, image_size, largest),
        [source.describe(int(index)) for index in indices],
        None if labels is None else labels[indices],
    )


def _write(path: str, text: str) -> None:
    try:
        write_atomically(path, text)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"the report {path} cannot be written ({error_reason(error)}): set output_dir to a "
            "directory that can be written"
        ) from error
