"""What a report measures of a run, on which its findings are based."""

import dataclasses
from typing import Any

import ml_collections
import numpy as np

from moco_tf import run_data, run_metrics
from moco_tf.config import total_steps
from moco_tf.evaluation import quality
from moco_tf.evaluation.features import Features

# Results of `moco_tf.evaluation.protocols.evaluate` by the names of the backbone and the protocol.
Results = dict[str, dict[str, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What was measured of a run.

    Attributes:
        config: Config of the run.
        metrics: Lines of metrics.jsonl up to `step`.
        step: Step of the checkpoint.
        total_steps: Number of steps of the whole run.
        steps_per_epoch: Number of steps of an epoch.
        num_images: Number of images that the run trains on.
        finite: Whether all features of the test images are finite numbers.
        low_cosine: The 5th percentile of the cosine similarities between features of different
            images; None if features are not finite, or there are fewer than two.
        effective_rank: The result of `moco_tf.evaluation.quality.effective_rank`, or None in the
            same cases.
        accuracies: Top-1 accuracy in [0, 1] for each backbone (`TRAINED`, `RANDOM` and `PIXELS`)
            and protocol (the keys of `PROTOCOLS`); None without labels.
        most_frequent: Share of the most frequent class; None without labels.
        num_test: Number of test images.
        unreadable: Names of the images that the report would use, but that cannot be read.
        num_images_used: Number of all images that the report would use.
        unreadable_classes: Names of the classes of which no test image can be read.
    """

    config: ml_collections.ConfigDict
    metrics: list[dict[str, Any]]
    step: int
    total_steps: int
    steps_per_epoch: int
    num_images: int
    finite: bool
    low_cosine: float | None
    effective_rank: float | None
    accuracies: dict[str, dict[str, float]] | None
    most_frequent: float | None
    num_test: int
    unreadable: list[str] = dataclasses.field(default_factory=list)
    num_images_used: int = 0
    unreadable_classes: list[str] = dataclasses.field(default_factory=list)


def gather(
    workdir: str,
    config: ml_collections.ConfigDict,
    step: int,
    bank: Features,
    test: Features,
    finite: bool,
    results: Results | None,
) -> Evidence:
    """Measure what the findings of a report are based on.

    Args:
        workdir: Path of the run directory.
        config: Config of the run.
        step: Step of the checkpoint.
        bank: Features of the training images.
        test: Features of the test images.
        finite: Whether all of them are finite numbers.
        results: Results of all backbones; None without a comparison.
    """
    num_images = run_data.read_num_images(workdir)
    steps_per_epoch = num_images // config.batch_size
    accuracies = most_frequent = None
    if results is not None and test.labels is not None:
        accuracies = {
            name: {protocol: result["top1"] for protocol, result in backbone_results.items()}
            for name, backbone_results in results.items()
        }
        most_frequent = float(np.bincount(test.labels).max() / len(test.labels))
    measures: dict[str, float] = {}
    if finite and len(test.features) > 1:
        measures = quality.measure(test)
    return Evidence(
        config=config,
        metrics=[line for line in run_metrics.read_metrics(workdir) if line["step"] <= step],
        step=step,
        total_steps=total_steps(config, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        num_images=num_images,
        finite=finite,
        low_cosine=measures.get("low_cosine"),
        effective_rank=measures.get("effective_rank"),
        accuracies=accuracies,
        most_frequent=most_frequent,
        num_test=len(test.indices),
        unreadable=sorted({*bank.unreadable.values(), *test.unreadable.values()}),
        num_images_used=len(
            {*bank.indices.tolist(), *test.indices.tolist(), *bank.unreadable, *test.unreadable}
        ),
        unreadable_classes=test.unreadable_classes,
    )
