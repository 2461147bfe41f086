"""The figures of the study, which correspond to the paper's and need only results.json."""

import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from moco_tf.run_summary import MECHANISMS
from studies.experiments import UNTRAINED, Settings, experiments, run_name
from studies.findings import STEPS_TO_V2, by_mechanism, metric_values
from studies.results import Record, Results

COLORS = {"moco": "tab:red", "memory_bank": "tab:blue", "end_to_end": "black"}


def write_figures(directory: str, results: Results) -> list[str]:
    """Plot each experiment that has a finished run, and write `<experiment>.png`.

    Args:
        directory: Directory of the study.
        results: Results, as `studies.results.read` returns them, finished or not.

    Returns:
        The names of these experiments.
    """
    table = experiments(results["config"])
    plotted = []
    for name, plot in PLOTS.items():
        if any(metric_values(results, settings, "linear_top1") for settings in table[name]):
            figure = plot(results, table[name])
            with tf.io.gfile.GFile(os.path.join(directory, f"{name}.png"), "wb") as file:
                figure.savefig(file, format="png", dpi=110)
            plotted.append(name)
    return plotted


def new_figure(columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with panels side by side, and the axes of its panels."""
    figure = Figure(figsize=(6.5 * columns, 4.5), layout="constrained")
    panels = figure.subplots(1, columns, squeeze=False)[0]
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.margins(0.08)  # Room for the numbers beside the points.
    return figure, panels


def _plot_means(
    axes: Axes,
    results: Results,
    points: Mapping[Any, Settings],
    key: str = "linear_top1",
    **style: Any,
) -> None:
    """Plot means with error bars of one standard deviation, in percent.

    Args:
        axes: Axes to plot into.
        results: Results, as for `write_figures`.
        points: `{x: settings}`.
        key: Key of the metric.
        **style: Keyword arguments of `errorbar`.
    """
    samples = {
        x: 100 * np.array(values)
        for x, settings in sorted(points.items())
        if (values := metric_values(results, settings, key))
    }
    if not samples:
        return
    means = [values.mean() for values in samples.values()]
    stds = [values.std(ddof=1) if len(values) > 1 else 0.0 for values in samples.values()]
    style = {"marker": "o", "capsize": 3, **style}
    axes.errorbar(list(samples), means, yerr=stds, **style)
    for x, mean in zip(samples, means, strict=True):
        axes.annotate(
            f"{mean:.1f}",
            (x, mean),
            color=style.get("color"),
            xytext=(4, 5),
            textcoords="offset points",
            fontsize=8,
        )


def _set_powers_of_two(axes: Axes, ticks: Iterable[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _plot_mechanisms(results: Results, rows: Sequence[Settings]) -> Figure:
    figure, [axes] = new_figure()
    groups = by_mechanism(rows)
    for name, points in groups.items():
        _plot_means(axes, results, points, color=COLORS[name], label=MECHANISMS[name])
    _set_powers_of_two(axes, {size for points in groups.values() for size in points})
    axes.set_xlabel("number of keys K (log scale)")
    axes.set_ylabel("linear probe, top-1 (%)")
    axes.set_title("Figure 3: three mechanisms")
    axes.legend()
    return figure


def _plot_momentum(results: Results, rows: Sequence[Settings]) -> Figure:
    figure, [loss, accuracy] = new_figure(2)
    rows = [row for row in rows if "momentum" in row]
    for index, settings in enumerate(rows):
        for run in _runs(results, settings):
            loss.plot(
                run["curves"]["step"],
                run["curves"]["loss"],
                label=f"m = {settings['momentum']:g}",
                color=f"C{index}",
                linewidth=1,
            )
    chance = math.log(results["config"]["queue_size"] + 1)
    loss.axhline(chance, color="gray", linestyle="--", label=f"chance, ln(K+1) = {chance:.2f}")
    _add_figure_legend(figure, [loss])
    loss.set_xlabel("step")
    loss.set_ylabel("InfoNCE loss, mean since the previous point")
    loss.set_title("Loss of every run")
    _plot_means(accuracy, results, dict(enumerate(rows)), linestyle="none")
    accuracy.set_xticks(range(len(rows)), [f"{row['momentum']:g}" for row in rows])
    _mark_untrained(accuracy, results)
    accuracy.set_xlabel("momentum m")
    accuracy.set_ylabel("linear probe, top-1 (%)")
    accuracy.set_title("Ablation of the momentum")
    return figure


def _plot_shuffling(results: Results, rows: Sequence[Settings]) -> Figure:
    groups = list(dict.fromkeys(row["bn_groups"] for row in rows if _runs(results, row)))
    figure, panels = new_figure(len(groups))
    for axes, count in zip(panels, groups, strict=True):
        for settings in (row for row in rows if row["bn_groups"] == count):
            shuffled = settings["shuffle_bn"]
            for run in _runs(results, settings):
                for metric, curve, key, line_style in (
                    ("contrastive accuracy", "curves", "contrastive_top1", "-"),
                    ("kNN", "knn_curve", "top1", "--"),
                ):
                    axes.plot(
                        np.array(run[curve]["step"]) / run["steps_per_epoch"],
                        100 * np.array(run[curve][key]),
                        line_style,
                        label=f"{metric}, {'with' if shuffled else 'without'} shuffling BN",
                        color="tab:red" if shuffled else "tab:blue",
                        linewidth=1,
                    )
        axes.set_title(f"{count} groups of {results['config']['batch_size'] // count} images")
        axes.set_xlabel("epoch")
        axes.set_ylabel("top-1 (%)")
    _add_figure_legend(figure, panels)
    return figure


def _plot_v2(results: Results, rows: Sequence[Settings]) -> Figure:
    figure, [axes] = new_figure()
    points = dict(enumerate(rows))
    _plot_means(axes, results, points, color="tab:red", label="linear probe")
    _plot_means(axes, results, points, "knn_top1", color="tab:blue", label="kNN")
    axes.set_xticks(range(len(rows)), [textwrap.fill(title, 14) for title in STEPS_TO_V2])
    axes.set_ylabel("top-1 (%)")
    axes.set_title("From v1 to v2, one change at a time")
    axes.legend()
    return figure


def _plot_epochs(results: Results, rows: Sequence[Settings]) -> Figure:
    figure, [axes] = new_figure()
    points = {row["epochs"]: row for row in rows if row["epochs"]}
    _plot_means(axes, results, points, color="tab:red", label="linear probe")
    _plot_means(axes, results, points, "knn_top1", color="tab:blue", label="kNN")
    _set_powers_of_two(axes, points)
    _mark_untrained(axes, results)
    axes.set_xlabel("epochs of pre-training (log scale)")
    axes.set_ylabel("top-1 (%)")
    axes.set_title("Longer pre-training")
    axes.legend()
    return figure


def _plot_width(results: Results, rows: Sequence[Settings]) -> Figure:
    figure, [axes] = new_figure()
    for label, color, is_trained in (
        ("MoCo", "tab:red", True),
        ("random initialization", "gray", False),
    ):
        points = {}
        for settings in rows:
            if (settings.get("epochs") != 0) == is_trained:
                for parameters in metric_values(results, settings, "parameters")[:1]:
                    points[parameters / 1e3] = settings
        _plot_means(axes, results, points, color=color, label=label)
    axes.set_xlabel("parameters of the backbone (thousands)")
    axes.set_ylabel("linear probe, top-1 (%)")
    axes.set_title("Table 1: accuracy against size")
    axes.legend()
    return figure


def _mark_untrained(axes: Axes, results: Results) -> None:
    values = metric_values(results, UNTRAINED, "linear_top1")
    if values:
        axes.axhline(
            100 * float(np.mean(values)),
            color="gray",
            linestyle="--",
            label="random initialization, linear probe",
        )
        axes.legend()


def _add_figure_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Add one legend for all panels, with each label once."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend(list(entries.values()), list(entries), loc="outside lower left", ncols=6)


def _runs(results: Results, settings: Settings) -> list[Record]:
    name = run_name(results["config"], settings)
    return [run for run in results["runs"] if run["name"] == name]


PLOTS = {
    "mechanisms": _plot_mechanisms,
    "momentum": _plot_momentum,
    "shuffling": _plot_shuffling,
    "v2": _plot_v2,
    "epochs": _plot_epochs,
    "width": _plot_width,
}
