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
from studies.small_data_results import (
    BASE,
    FACTORS,
    METRICS,
    UNTRAINED,
    DataSet,
    data_sets,
)

STUDY = pathlib.Path(__file__).resolve().parent.parent / "studies" / "small_data"
NO_RESULTS = "*The study has not been run yet.*"
# The runs of an earlier base, of which the pages show the correlations only.
EARLIER = "1000_on_views_of_28_pixels.json"
# Measures of features that do not depend on the number of dimensions.
MEASURES = ("effective_rank", "uniformity", "feature_std", "low_cosine")
# What the base has, by the titles of the rows.
OF_BASE = {
    "steps": "steps",
    "K": "queue_size",
    "m": "momentum",
    "`bn_groups`": "bn_groups",
    "temperature": "temperature",
    "learning rate for 256 images": "learning_rate",
}
# How the tables name another value of each setting of `FACTORS` but K.
TITLES = {
    "m": "m = {}",
    "groups": "bn_groups = {}",
    "temperature": "temperature {}",
    "learning rate": "learning rate {}",
    "batch, as many images in all": "batches of {}, as many images in all",
    "steps": "{:,} steps",
}
MULTIPLES = {0.125: "an eighth of", 0.25: "a quarter of", 0.5: "half of"}
MULTIPLES |= {2.0: "twice", 4.0: "four times", 8.0: "eight times"}
MIN_RUNS = 20  # Of fewer runs, a rank correlation says nothing.


def small_data() -> str:
    """Return the accuracies of the base of each data set, and the change by each setting."""
    found = data_sets(STUDY)
    settings = list(dict.fromkeys(name for data_set in found for name in data_set.settings))
    if not settings:
        return NO_RESULTS
    tables = []
    for metric, title in METRICS.items():
        rows = []
        for setting in settings:
            if setting in (UNTRAINED, BASE):
                cells = [_cell(list(each.percents(setting, metric).values())) for each in found]
            else:
                cells = [_cell(each.points(setting, BASE, [metric]), "+") for each in found]
            title_of_row = {UNTRAINED: "random initialization", BASE: "base"}
            rows.append([title_of_row.get(setting, f"`{setting}`"), *cells])
        tables.append(markdown.table([title, *(each.title for each in found)], rows))
    return "\n\n".join(tables)


def rules() -> str:
    """Return the settings and gain of the base, and how other values change its accuracy.

    The accuracy of a change is the mean of kNN and linear probe.
    """
    found = [data_set for data_set in data_sets(STUDY) if BASE in data_set.settings]
    if not found:
        return NO_RESULTS
    base = [[title, *(f"{each.config[key]:,}" for each in found)] for title, key in OF_BASE.items()]
    for metric, title in METRICS.items():
        points = [each.points(BASE, UNTRAINED, [metric]) for each in found]
        base.append([f"gain over random initialization, {title}", *(_cell(p, "+") for p in points)])
    rows = [[title, *cells] for title, cells in _changes(found).items()]
    titles = [each.title for each in found]
    return "\n\n".join(
        [markdown.table(["base", *titles], base), markdown.table(["change", *titles], rows)]
    )


def _changes(found: Sequence[DataSet]) -> dict[str, list[str]]:
    """Return the change of the accuracy on each data set, by what differs from the base."""
    points: dict[tuple[Any, ...], list[list[float]]] = {}
    titles: dict[tuple[Any, ...], str] = {}

    def add(column: int, key: tuple[Any, ...], title: str, values: list[float]) -> None:
        titles[key] = title
        points.setdefault(key, [[] for _ in found])[column] = values

    for column, each in enumerate(found):
        for place, (name, factor) in enumerate(FACTORS.items()):
            for change in each.changes(factor):
                value = change.value
                if factor.key == "queue_size":  # The base's K depends on the number of images.
                    value /= each.config[factor.key]
                    title = f"{MULTIPLES[value]} K"
                else:
                    title = TITLES[name].format(value)
                title += "" if change.shuffles else ", without shuffling"
                add(column, (place, not change.shuffles, value), title, change.points)
        for name, settings in each.settings.items():
            if set(settings) == {"momentum", "steps"}:
                steps, momentum = settings["steps"], settings["momentum"]
                title = f"m = {momentum}, both runs with {steps:,} steps"
                key = (len(FACTORS), steps, momentum)
                add(column, key, title, each.points(name, f"steps={steps}"))
    return {titles[key]: [_cell(values, "+") for values in points[key]] for key in sorted(points)}


def views() -> str:
    """Return the accuracies of three runs on views of different sizes for about the same time."""
    summary = json.loads((STUDY / "views.json").read_text(encoding="utf-8"))
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
        f"Fashion-MNIST, {each.title} images" if each.name.isdigit() else each.title: each.runs
        for each in data_sets(STUDY)
    }
    earlier = (STUDY / EARLIER).read_text(encoding="utf-8")
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


def _cell(values: Sequence[float], sign: str = "") -> str:
    """Return a mean with its standard deviation; a dash without values."""
    if not values:
        return "–"
    mean = f"{round(statistics.mean(values), 1) + 0.0:{sign}.1f}"  # Not -0.0.
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"
