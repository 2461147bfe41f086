"""The tables of the study of small data sets (`python -m studies.small_data`).

The study shows what it has: an empty cell is a dash, and the spread is missing where there is only
one run.
"""

import json
import pathlib
import statistics
from collections.abc import Sequence

import scipy.stats

from moco_tf import markdown
from studies.small_data_results import (
    BASE,
    FACTORS,
    METRICS,
    UNTRAINED,
    DataSet,
    Factor,
    data_sets,
)

STUDY = pathlib.Path(__file__).resolve().parent.parent / "studies" / "small_data"
NO_RESULTS = "*The study has not been run yet.*"
# The runs of an earlier base, of which the pages show the correlations only.
EARLIER = "1000_on_views_of_28_pixels.json"
# Measures of features that do not depend on the number of dimensions.
MEASURES = ("effective_rank", "uniformity", "feature_std", "low_cosine")
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
    """Return which settings suit each data set, and how the accuracy changes with others.

    The accuracy is the mean of kNN and linear probe.
    """
    found = [data_set for data_set in data_sets(STUDY) if BASE in data_set.settings]
    if not found:
        return NO_RESULTS
    rows = []
    for metric, title in METRICS.items():
        gains = [each.points(BASE, UNTRAINED, [metric]) for each in found]
        rows.append([f"gain over random initialization, {title}", *(_cell(g, "+") for g in gains)])
    for title, factor in FACTORS.items():
        rows.append([title, *(_factor(data_set, factor) for data_set in found)])
    momenta = [_momenta(data_set) for data_set in found]
    for steps in sorted({steps for cells in momenta for steps in cells}):
        rows.append([f"m, with {steps:,} steps", *(cells.get(steps, "–") for cells in momenta)])
    return markdown.table(["setting", *(data_set.title for data_set in found)], rows)


def _factor(data_set: DataSet, factor: Factor) -> str:
    """Return the base's value of a setting, and the changes of the accuracy with other values."""
    parts = [f"**{data_set.config[factor.key]}**"]
    changes = data_set.changes(factor)
    for change in sorted(changes, key=lambda change: not change.shuffles):
        note = "" if change.shuffles else " without shuffling"
        parts.append(f"{change.value}{note}: {_cell(change.points, '+')}")
    return "; ".join(parts)


def _momenta(data_set: DataSet) -> dict[int, str]:
    """Return the changes of the accuracy with other m, by the number of steps."""
    parts: dict[int, list[str]] = {}
    for name, settings in data_set.settings.items():
        if set(settings) == {"momentum", "steps"}:
            steps = settings["steps"]
            cell = _cell(data_set.points(name, f"steps={steps}"), "+")
            base = f"**{data_set.config['momentum']}**"
            parts.setdefault(steps, [base]).append(f"{settings['momentum']}: {cell}")
    return {steps: "; ".join(texts) for steps, texts in parts.items()}


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
    mean = f"{statistics.mean(values):{sign}.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"
