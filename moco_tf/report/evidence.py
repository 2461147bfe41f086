"""What a report measures of a run, on which its findings are based."""

import dataclasses
from typing import Any

import ml_collections


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
