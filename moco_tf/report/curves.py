"""The curves of a report, computed from metrics.jsonl and plotted by page.js."""

import math
from collections.abc import Sequence
from typing import Any

from moco_tf import run_metrics
from moco_tf.config import chance_formula, chance_loss, num_negatives
from moco_tf.evaluation.quality import COLLAPSED_RANK
from moco_tf.report.evidence import Evidence
from moco_tf.report.findings import TRAINED

MAX_POINTS = 500  # Maximum number of points of a curve.


def charts(evidence: Evidence, with_baselines: bool = True) -> list[dict[str, Any]]:
    """Return the charts of a run that have at least one point.

    Args:
        evidence: What was measured.
        with_baselines: Whether the accuracies are those of the images of the kNN monitor, so that
            the baselines can be compared with its curve.

    Returns:
        Dicts with `title`; `series`, dicts with `name`, `steps` and `values` (None where a value
        is not finite); `lines`, dicts with `name` and `value` of horizontal reference lines;
        `percent`, whether the values are shown in percent; and `from_zero`, whether the axis
        starts at 0.
    """
    baselines = [
        (name, accuracies["knn"])
        for name, accuracies in (evidence.accuracies or {}).items()
        if with_baselines and name != TRAINED
    ]
    all_charts = [
        _chart(
            evidence,
            "InfoNCE loss",
            {"loss": "loss"},
            [(f"chance, {chance_formula(evidence.config)} =", chance_loss(evidence.config))],
            from_zero=False,
        ),
        _chart(
            evidence,
            f"Contrastive accuracy, among {num_negatives(evidence.config) + 1:,} keys",
            {"top-1": "contrastive_top1", "top-5": "contrastive_top5"},
            percent=True,
        ),
        _chart(
            evidence,
            "kNN top-1 on held-out images",
            {"kNN": "knn_top1"},
            baselines,
            percent=True,
        ),
        _chart(
            evidence,
            "Effective rank of the features",
            {"rank": "effective_rank"},
            [("collapsed below", COLLAPSED_RANK)],
        ),
        _chart(
            evidence,
            "Alignment (0 if views are equal) and uniformity (0 if images are equal)",
            {"alignment": "alignment", "uniformity": "uniformity"},
            from_zero=False,
        ),
        _chart(
            evidence,
            "Spread of the features: standard deviation (0 if collapsed), share of dead dimensions",
            {"standard deviation": "feature_std", "dead dimensions": "dead_dimensions"},
        ),
        _chart(evidence, "Learning rate", {"rate": "learning_rate"}),
    ]
    return [chart for chart in all_charts if chart["series"]]


def lines_per_point(evidence: Evidence) -> int:
    """Return the number of lines of metrics.jsonl that are averaged for a point of a curve."""
    return _group_size(sum("loss" in line for line in evidence.metrics))


def _chart(
    evidence: Evidence,
    title: str,
    keys: dict[str, str],
    lines: Sequence[tuple[str, float]] = (),
    percent: bool = False,
    from_zero: bool = True,
) -> dict[str, Any]:
    series = [_series(evidence, name, key) for name, key in keys.items()]
    return {
        "title": title,
        "series": [curve for curve in series if curve["steps"]],
        "lines": [{"name": name, "value": value} for name, value in lines],
        "percent": percent,
        "from_zero": from_zero,
    }


def _series(evidence: Evidence, name: str, key: str) -> dict[str, Any]:
    """Return a curve; if it has too many points, groups of them are averaged."""
    points = run_metrics.curve(evidence.metrics, key)
    size = _group_size(len(points))
    steps, values = [], []
    for start in range(0, len(points), size):
        group = points[start : start + size]
        mean = sum(value for _, value in group) / len(group)
        steps.append(group[-1][0])
        values.append(float(f"{mean:.6g}") if math.isfinite(mean) else None)
    return {"name": name, "steps": steps, "values": values}


def _group_size(num_points: int) -> int:
    return math.ceil(num_points / MAX_POINTS) or 1
