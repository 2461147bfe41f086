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
# Rows of the table of rules: the setting that a run has to change, and those that may change too.
FACTORS = {
    "K": ("queue_size", set()),
    "m": ("momentum", set()),
    "groups": ("bn_groups", {"shuffle_bn"}),
    "temperature": ("temperature", set()),
    "learning rate": ("learning_rate", set()),
    "batch, as many images in all": ("batch_size", {"bn_groups", "steps"}),
    "steps": ("steps", set()),
}
# Measures of features that do not depend on the number of dimensions.
MEASURES = ("effective_rank", "uniformity", "feature_std", "low_cosine")
MIN_RUNS = 8  # Of fewer runs, a rank correlation says nothing.


def small_data() -> str:
    """Return the accuracies of the base of each data set, and the change by each setting."""
    percents = {name: _percents(name) for name in SMALL_DATA if _runs(name)}
    settings = list(dict.fromkeys(name for runs in percents.values() for name in runs))
    if not settings:
        return NO_RESULTS
    tables = []
    for metric, title in METRICS.items():
        rows = []
        for setting in settings:
            cells = []
            for runs in percents.values():
                if setting in (UNTRAINED, BASE):
                    cells.append(_cell(list(runs.get(setting, {}).get(metric, {}).values())))
                else:
                    cells.append(_cell(_changes(runs, setting, BASE, [metric]), "+"))
            title_of_row = {UNTRAINED: "random initialization", BASE: "base"}
            rows.append([title_of_row.get(setting, f"`{setting}`"), *cells])
        tables.append(markdown.table([title, *map(_title, percents)], rows))
    return "\n\n".join(tables)


def rules() -> str:
    """Return which settings suit each data set, and how the accuracy changes with others.

    The accuracy is the mean of kNN and linear probe.
    """
    names = [name for name in SMALL_DATA if BASE in _percents(name)]
    if not names:
        return NO_RESULTS
    rows = []
    for metric, title in METRICS.items():
        gains = [_changes(_percents(name), BASE, UNTRAINED, [metric]) for name in names]
        row = [f"gain over random initialization, {title}"]
        rows.append(row + [_cell(gain, "+") for gain in gains])
    for title, (key, others) in FACTORS.items():
        rows.append([title, *(_factor(name, key, others) for name in names)])
    momenta = {name: _momenta(name) for name in names}
    for steps in sorted({steps for cells in momenta.values() for steps in cells}):
        cells = [momenta[name].get(steps, "–") for name in names]
        rows.append([f"m, with {steps:,} steps", *cells])
    return markdown.table(["setting", *map(_title, names)], rows)


def _factor(name: str, key: str, others: set[str]) -> str:
    """Return the base's value of a setting, and the changes of the accuracy with other values."""
    path = STUDIES / "small_data" / name / "results.json"
    base = json.loads(path.read_text(encoding="utf-8"))["config"]
    percents = _percents(name)
    shuffled, unshuffled = [f"**{base[key]}**"], []
    for run in {run["name"]: run for run in _runs(name)}.values():
        settings = run["settings"]
        if not settings.keys() & {key, *others} or settings.keys() - {key, *others}:
            continue
        value = settings.get(key, base[key])
        cell = _cell(_changes(percents, run["name"], BASE, list(METRICS)), "+")
        # Shuffling has no effect on a single group.
        if "shuffle_bn" in settings and value > 1:
            unshuffled.append(f"{value} without shuffling: {cell}")
        elif key in settings:
            shuffled.append(f"{value}: {cell}")
    return "; ".join(shuffled + unshuffled)


def _momenta(name: str) -> dict[int, str]:
    """Return the changes of the accuracy with other m, by the number of steps."""
    path = STUDIES / "small_data" / name / "results.json"
    base = json.loads(path.read_text(encoding="utf-8"))["config"]
    percents = _percents(name)
    parts: dict[int, list[str]] = {}
    for run in {run["name"]: run for run in _runs(name)}.values():
        settings = run["settings"]
        if set(settings) == {"momentum", "steps"}:
            steps = settings["steps"]
            changes = _changes(percents, run["name"], f"steps={steps}", list(METRICS))
            part = f"{settings['momentum']}: {_cell(changes, '+')}"
            parts.setdefault(steps, [f"**{base['momentum']}**"]).append(part)
    return {steps: "; ".join(texts) for steps, texts in parts.items()}


def _changes(
    percents: dict[str, dict[str, dict[int, float]]], name: str, base: str, metrics: Sequence[str]
) -> list[float]:
    """Return for each seed the difference of two runs in the mean of some metrics."""
    first, second = percents.get(name, {}), percents.get(base, {})
    seeds = sorted(set(first.get(metrics[0], {})) & set(second.get(metrics[0], {})))
    return [
        statistics.mean(first[metric][seed] - second[metric][seed] for metric in metrics)
        for seed in seeds
    ]


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


def _title(name: str) -> str:
    """Return the title of a column."""
    return f"{int(name):,}" if name.isdigit() else f"`{name}`"


def _cell(values: Sequence[float], sign: str = "") -> str:
    """Return a mean with its standard deviation; a dash without values."""
    if not values:
        return "–"
    mean = f"{statistics.mean(values):{sign}.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"
