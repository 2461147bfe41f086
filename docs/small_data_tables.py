"""The tables of the study of small data sets (`python -m studies.small_data`).

The study shows what it has: an empty cell is a dash, and the spread is missing where there is only
one run.
"""

import json
import pathlib
import statistics
from collections.abc import Sequence

from moco_tf import markdown

STUDIES = pathlib.Path(__file__).resolve().parent.parent / "studies"
NO_RESULTS = "*The study has not been run yet.*"
SMALL_DATA = ("1000", "4000", "16000", "50000", "photos")
METRICS = {"knn_top1": "kNN", "linear_top1": "linear probe"}
UNTRAINED, BASE = "epochs=0,steps=0", "base"


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


def _percents(name: str) -> dict[str, dict[str, dict[int, float]]]:
    """Return the accuracies of a data set in percent by setting, metric and seed."""
    path = STUDIES / "small_data" / name / "results.json"
    percents: dict[str, dict[str, dict[int, float]]] = {}
    if path.exists():
        for run in json.loads(path.read_text(encoding="utf-8"))["runs"]:
            for metric in METRICS:
                row = percents.setdefault(run["name"], {}).setdefault(metric, {})
                row[run["seed"]] = 100 * run[metric]
    return percents


def _cell(values: Sequence[float], sign: str = "") -> str:
    """Return a mean with its standard deviation; a dash without values."""
    if not values:
        return "–"
    mean = f"{statistics.mean(values):{sign}.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"
