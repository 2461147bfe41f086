"""The pictures of the study, in the paper's own axes, from results.json alone."""

import math
import os
import textwrap

import matplotlib.figure
import numpy as np
import tensorflow as tf
from matplotlib.ticker import FuncFormatter, NullLocator

from studies.experiments import UNTRAINED, experiments, run_name
from studies.findings import STEPS_TO_V2, by_mechanism, values

COLOURS = {"moco": "tab:red", "memory_bank": "tab:blue", "end_to_end": "black"}


def draw(directory, results):
    """Draws `<experiment>.png` for each experiment that has a finished run.

    Args:
        directory: str, a study's.
        results: of `studies.results.read`, finished or not.

    Returns:
        list of str, the names of these experiments.
    """
    table = experiments(results["config"])
    drawn = []
    for name, function in FIGURES.items():
        if any(values(results, settings, "linear_top1") for settings in table[name]):
            figure = function(results, table[name])
            with tf.io.gfile.GFile(os.path.join(directory, f"{name}.png"), "wb") as file:
                figure.savefig(file, format="png", dpi=110)
            drawn.append(name)
    return drawn


def _figure(columns=1):
    figure = matplotlib.figure.Figure(figsize=(6.5 * columns, 4.5), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.grid(alpha=0.3)
        one.margins(0.08)  # for the numbers beside the points
    return figure, axes


def _line(axes, results, points, key="linear_top1", **style):
    """Means with their standard deviations over `points`, `{x: settings}`, in percent."""
    found = {x: values(results, settings, key) for x, settings in sorted(points.items())}
    found = {x: 100 * np.array(each) for x, each in found.items() if each}
    if not found:
        return
    means = [each.mean() for each in found.values()]
    spread = [each.std(ddof=1) if len(each) > 1 else 0.0 for each in found.values()]
    style = {"marker": "o", "capsize": 3, **style}
    axes.errorbar(list(found), means, yerr=spread, **style)
    for x, mean in zip(found, means, strict=True):
        offset = dict(xytext=(4, 5), textcoords="offset points", fontsize=8)
        axes.annotate(f"{mean:.1f}", (x, mean), color=style.get("color"), **offset)


def _powers_of_two(axes, ticks):
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _mechanisms(results, rows):
    figure, [axes] = _figure()
    lines = by_mechanism(rows)
    for name, points in lines.items():
        _line(axes, results, points, color=COLOURS[name], label=name)
    _powers_of_two(axes, {size for points in lines.values() for size in points})
    axes.set_xlabel("K (log scale)")
    axes.set_ylabel("linear probe, top-1 (%)")
    axes.set_title("Figure 3: three mechanisms")
    axes.legend()
    return figure


def _momentum(results, rows):
    figure, [loss, accuracy] = _figure(2)
    rows = [row for row in rows if "momentum" in row]
    for number, settings in enumerate(rows):
        for run in _runs(results, settings):
            label = f"m = {settings['momentum']:g}"
            style = dict(label=label, color=f"C{number}", linewidth=1)
            loss.plot(run["curves"]["step"], run["curves"]["loss"], **style)
    chance = math.log(results["config"]["queue_size"] + 1)
    loss.axhline(chance, color="grey", linestyle="--", label=f"chance, ln(K+1) = {chance:.2f}")
    _legend_of_each_label_once(figure, [loss])
    loss.set_xlabel("step")
    loss.set_ylabel("InfoNCE loss, mean since the line before")
    loss.set_title("the loss of every run")
    _line(accuracy, results, dict(enumerate(rows)), linestyle="none")
    accuracy.set_xticks(range(len(rows)), [f"{row['momentum']:g}" for row in rows])
    _mark_untrained(accuracy, results)
    accuracy.set_xlabel("momentum m")
    accuracy.set_ylabel("linear probe, top-1 (%)")
    accuracy.set_title("the momentum table")
    return figure


def _shuffling(results, rows):
    groups = list(dict.fromkeys(row["bn_groups"] for row in rows if _runs(results, row)))
    figure, panels = _figure(len(groups))
    for axes, count in zip(panels, groups, strict=True):
        for settings in (row for row in rows if row["bn_groups"] == count):
            shuffled = settings["shuffle_bn"]
            style = dict(color="tab:red" if shuffled else "tab:blue", linewidth=1)
            words = "with Shuffling BN" if shuffled else "without"
            for run in _runs(results, settings):
                for kind, curve, key, line in (
                    ("contrastive accuracy", "curves", "contrastive_top1", "-"),
                    ("kNN", "knn_curve", "top1", "--"),
                ):
                    epochs = np.array(run[curve]["step"]) / run["steps_per_epoch"]
                    shares = 100 * np.array(run[curve][key])
                    axes.plot(epochs, shares, line, label=f"{kind}, {words}", **style)
        axes.set_title(f"{count} groups of {results['config']['batch_size'] // count} images")
        axes.set_xlabel("epochs")
        axes.set_ylabel("top-1 (%)")
    _legend_of_each_label_once(figure, panels)
    return figure


def _v2(results, rows):
    figure, [axes] = _figure()
    for key, words, colour in (
        ("linear_top1", "linear probe", "tab:red"),
        ("knn_top1", "kNN", "tab:blue"),
    ):
        _line(axes, results, dict(enumerate(rows)), key, color=colour, label=words)
    axes.set_xticks(range(len(rows)), [textwrap.fill(words, 14) for words in STEPS_TO_V2])
    axes.set_ylabel("top-1 (%)")
    axes.set_title("from v1 to v2, one change at a time")
    axes.legend()
    return figure


def _epochs(results, rows):
    figure, [axes] = _figure()
    points = {row["epochs"]: row for row in rows if row["epochs"]}
    _line(axes, results, points, color="tab:red", label="linear probe")
    _line(axes, results, points, "knn_top1", color="tab:blue", label="kNN")
    _powers_of_two(axes, points)
    _mark_untrained(axes, results)
    axes.set_xlabel("epochs of pre-training (log scale)")
    axes.set_ylabel("top-1 (%)")
    axes.legend()
    return figure


def _width(results, rows):
    figure, [axes] = _figure()
    for words, colour, trained in (
        ("MoCo", "tab:red", True),
        ("random initialisation", "grey", False),
    ):
        points = {}
        for settings in rows:
            if (settings.get("epochs") != 0) == trained:
                for parameters in values(results, settings, "parameters")[:1]:
                    points[parameters / 1e3] = settings
        _line(axes, results, points, color=colour, label=words)
    axes.set_xlabel("thousands of parameters of the feature extractor")
    axes.set_ylabel("linear probe, top-1 (%)")
    axes.set_title("Table 1: accuracy against size")
    axes.legend()
    return figure


def _mark_untrained(axes, results):
    found = values(results, UNTRAINED, "linear_top1")
    if found:
        words = "random initialisation, linear probe"
        axes.axhline(100 * np.mean(found), color="grey", linestyle="--", label=words)
        axes.legend()


def _legend_of_each_label_once(figure, panels):
    once = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        once |= dict(zip(labels, handles, strict=True))
    figure.legend(once.values(), once.keys(), loc="outside lower left", ncols=6)


def _runs(results, settings):
    name = run_name(results["config"], settings)
    return [run for run in results["runs"] if run["name"] == name]


FIGURES = {
    "mechanisms": _mechanisms,
    "momentum": _momentum,
    "shuffling": _shuffling,
    "v2": _v2,
    "epochs": _epochs,
    "width": _width,
}
