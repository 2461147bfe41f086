"""The tables of the study of small data sets (`python -m studies.small_data`).

The study shows what it has: an empty cell is a dash, and the spread is missing where there is only
one run.
"""

import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import scipy.stats

from moco_tf import markdown

STUDIES = pathlib.Path(__file__).resolve().parent.parent / "studies"
NO_RESULTS = "*The study has not been run yet.*"
SMALL_DATA = ("1000", "4000", "16000", "50000", "photos")
# The runs of an earlier base, of which the pages show the correlations only.
EARLIER = "1000_on_views_of_28_pixels.json"
METRICS = {"knn_top1": "kNN", "linear_top1": "linear probe"}
UNTRAINED, BASE = "epochs=0,steps=0", "base"
# Measures of features that do not depend on the number of dimensions.
MEASURES = ("effective_rank", "uniformity", "feature_std", "low_cosine")
MIN_RUNS = 8  # Of fewer runs, a rank correlation says nothing.


def small_data() -> str:
    """Return the accuracies of the base of each data set, and the change by each setting."""
    percents = {name: _percents(name) for name in SMALL_DATA}
    settings = list(dict.fromkeys(name for runs in percents.values() for name in runs))
    if not settings:
        return NO_RESULTS
    tables = []
    for metric, title in METRICS.items():
        rows = []
        for setting in settings:
            cells = []
            for runs in percents.values():
                values = runs.get(setting, {}).get(metric, {})
                if setting not in (UNTRAINED, BASE):
                    base = runs.get(BASE, {}).get(metric, {})
                    values = {s: value - base[s] for s, value in values.items() if s in base}
                sign = "+" if setting not in (UNTRAINED, BASE) else ""
                cells.append(_cell(list(values.values()), sign))
            title_of_row = {UNTRAINED: "random initialization", BASE: "base"}
            rows.append([title_of_row.get(setting, f"`{setting}`"), *cells])
        header = [title, *(f"{int(n):,}" if n.isdigit() else f"`{n}`" for n in SMALL_DATA)]
        tables.append(markdown.table(header, rows))
    return "\n\n".join(tables)


def views() -> str:
    """Return the accuracies of three runs on views of different sizes for about the same time."""
    summary = json.loads((STUDIES / "small_data" / "views.json").read_text(encoding="utf-8"))
    rows = []
    for run in summary["runs"]:
        used = summary["config"] | run["settings"]
        title = f"{used['image_size']} pixels"
        if used["evaluation_size"]:
            title += f", {used['evaluation_size']} in evaluations"
        accuracies = [f"{100 * run[metric]:.1f}" for metric in METRICS]
        rows.append([title, f"{used['steps']:,}", f"{run['seconds']:.0f}", *accuracies])
    return markdown.table(["views", "steps", "seconds", *METRICS.values()], rows)


def quality() -> str:
    """Return how well each measure without labels predicts the linear probe, by data set."""
    correlations: dict[str, list[str]] = {measure: [] for measure in MEASURES}
    header = ["measure"]
    all_runs = {
        f"Fashion-MNIST, {int(name):,} images" if name.isdigit() else f"`{name}`": _runs(name)
        for name in SMALL_DATA
    }
    earlier = (STUDIES / "small_data" / EARLIER).read_text(encoding="utf-8")
    all_runs["Fashion-MNIST, 1,000 images, views of 28 pixels"] = json.loads(earlier)["runs"]
    for title, records in all_runs.items():
        runs = [run for run in records if "quality" in run and run["name"] != UNTRAINED]
        if len(runs) < MIN_RUNS:
            continue
        header.append(f"{title}, {len(runs)} runs")
        for measure, cells in correlations.items():
            pairs = [(run["quality"][measure], run["linear_top1"]) for run in runs]
            correlation = scipy.stats.spearmanr(*zip(*pairs, strict=True)).statistic
            cells.append(f"{correlation:+.2f}")
    if len(header) == 1:
        return "*There are too few runs yet.*"
    rows = [[f"`{measure}`", *cells] for measure, cells in correlations.items()]
    return markdown.table(header, rows)


def _percents(name: str) -> dict[str, dict[str, dict[int, float]]]:
    """Return the accuracies of a data set in percent by setting, metric and seed."""
    percents: dict[str, dict[str, dict[int, float]]] = {}
    for run in _runs(name):
        for metric in METRICS:
            row = percents.setdefault(run["name"], {}).setdefault(metric, {})
            row[run["seed"]] = 100 * run[metric]
    return percents


def _runs(name: str) -> list[dict[str, Any]]:
    """Return the records of the runs on a data set."""
    path = STUDIES / "small_data" / name / "results.json"
    return json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []


def _cell(values: Sequence[float], sign: str = "") -> str:
    """Return a mean with its standard deviation; a dash without values."""
    if not values:
        return "–"
    mean = f"{statistics.mean(values):{sign}.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"
