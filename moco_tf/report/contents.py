"""The contents of a report, as plain data that the page presents."""

import dataclasses
from typing import Any

import numpy as np

from moco_tf.report.evidence import Evidence
from moco_tf.report.findings import Finding


@dataclasses.dataclass(frozen=True)
class Images:
    """Images with their names and labels.

    Attributes:
        tiles: uint8 `[N, side, side, 3]`.
        names: N names, such as paths.
        labels: int32 `[N]`, or None.
    """

    tiles: np.ndarray
    names: list[str]
    labels: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class FeatureMap:
    """The features of test images as points in the plane.

    Attributes:
        images: The N images.
        positions: float `[N, 2]`, in [0, 1].
        neighbors: int `[N, k]`, in [0, N): the nearest other images of each image.
        cosines: float `[N, k]`, their cosine similarities.
    """

    images: Images
    positions: np.ndarray
    neighbors: np.ndarray
    cosines: np.ndarray


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """Some test images with their nearest training images.

    Attributes:
        queries: R test images.
        images: R * C training images: those nearest to each query, in order.
        cosines: float `[R, C]`, their cosine similarities.
    """

    queries: Images
    images: Images
    cosines: np.ndarray


@dataclasses.dataclass(frozen=True)
class Contents:
    """Everything that the page shows.

    Attributes:
        name: Name of the run.
        trained_on: Name of the data source that the run trained on.
        data: Name of the data source of the report's images.
        is_monitored: Whether the accuracies are those of the images and the view size of the kNN
            monitor.
        channels: Number of channels of the images.
        held_out: Whether the images on the map are test images, which training did not see.
        evidence: What was measured.
        findings: What was concluded from the evidence.
        results: For each backbone and protocol, the result of `protocols.evaluate`; or None.
        class_names: Names of the classes, or None.
        feature_map: The map, or None if the features are not finite.
        neighbors: The neighbors, or None if the features are not finite.
    """

    name: str
    trained_on: str
    data: str
    is_monitored: bool
    channels: int
    held_out: bool
    evidence: Evidence
    findings: list[Finding]
    results: dict[str, dict[str, dict[str, Any]]] | None
    class_names: list[str] | None
    feature_map: FeatureMap | None
    neighbors: Neighbors | None
