"""The report's curves: what page.js draws, of the lines of metrics.jsonl."""

import math

from moco_tf.config import chance_formula, chance_loss, num_negatives

MOST_POINTS = 500  # of a curve


def charts(evidence):
    """The charts of a run, those that have a point.

    Args:
        evidence: a `moco_tf.report.findings.Evidence`.

    Returns:
        A list of dicts with `title`; `series`, dicts of `name`, `steps` and `values` (None where
        not finite); `lines`, dicts of `name` and `value`, which hold at all steps; `percent` and
        `from_zero`, bool, of the axis.
    """
    e = evidence

    def series(name, key):
        points = [(line["step"], line[key]) for line in e.metrics if key in line]
        steps, values = _thinned(points)
        return {"name": name, "steps": steps, "values": values}

    def chart(title, keys, lines=(), percent=False, from_zero=True):
        drawn = [series(name, key) for name, key in keys.items()]
        return {
            "title": title,
            "series": [one for one in drawn if one["steps"]],
            "lines": [{"name": name, "value": value} for name, value in lines],
            "percent": percent,
            "from_zero": from_zero,
        }

    baselines = []
    if e.accuracies is not None:
        names = [name for name in e.accuracies if name != "trained"]
        baselines = [(name, e.accuracies[name]["knn"]) for name in names]
    keys = num_negatives(e.config) + 1
    found = [
        chart(
            "InfoNCE loss",
            {"loss": "loss"},
            [(f"chance, {chance_formula(e.config)} =", chance_loss(e.config))],
            from_zero=False,
        ),
        chart(
            f"Contrastive accuracy, {keys:,}-way",
            {"top-1": "contrastive_top1", "top-5": "contrastive_top5"},
            percent=True,
        ),
        chart("kNN top-1 on held-out images", {"kNN": "knn_top1"}, baselines, percent=True),
        chart("Learning rate", {"rate": "learning_rate"}),
    ]
    return [one for one in found if one["series"]]


def _thinned(points):
    """Steps and values, of many points the means of as many neighbours; None where not finite."""
    together = math.ceil(len(points) / MOST_POINTS) or 1
    steps, values = [], []
    for start in range(0, len(points), together):
        group = points[start : start + together]
        mean = sum(value for _, value in group) / len(group)
        steps.append(group[-1][0])
        values.append(float(f"{mean:.6g}") if math.isfinite(mean) else None)
    return steps, values
