"""The figure of the study of small data sets, which needs only its results."""

import math
import os
import statistics
from collections.abc import Callable
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from moco_tf.errors import UserError
from moco_tf.plots.saving import save_figure
from studies.small_data_results import BASE, Change, DataSet, Factor, data_sets

FILE = "settings.png"
COLORS = ("tab:blue", "tab:green", "tab:orange", "tab:red", "tab:purple")
# The standard deviation of the difference of two runs that differ only in their seed, in points. In
# the study of the paper's findings, the mean of kNN and linear probe of a run has 1.45, without the
# memory bank.
DEVIATION = 1.45 * math.sqrt(2)


class Panel(NamedTuple):
    """A panel of the figure.

    Attributes:
        label: Label of the horizontal axis.
        factor: The setting whose values are compared.
        place: Function of a value and the data set: the place on a logarithmic axis.
        tick: Function of a place: its label.
    """

    label: str
    factor: Factor
    place: Callable[[float, DataSet], float] = lambda value, data_set: value
    tick: Callable[[float], str] = lambda place: f"{place:g}"


def write(directory: str) -> str:
    """Plot the change of the accuracy by each setting, and return the path of the figure.

    Args:
        directory: Directory of the study.

    Raises:
        UserError: If there are no results.
    """
    found = [data_set for data_set in data_sets(directory) if BASE in data_set.settings]
    if not found:
        raise UserError(f"--out={directory} holds no results: run the study first")
    panels = [
        Panel("K, as a share of the images", Factor("queue_size"), _share_of_images, _share),
        Panel("m", Factor("momentum"), lambda m, _: 1 / (1 - m), lambda x: f"{1 - 1 / x:g}"),
        Panel("steps", Factor("steps"), tick=lambda steps: f"{steps:,.0f}"),
        Panel("learning rate", Factor("learning_rate")),
        Panel("temperature", Factor("temperature")),
        Panel(
            "images of a group (hollow: without shuffling)",
            Factor("bn_groups", frozenset({"shuffle_bn"})),
            lambda groups, data_set: data_set.config["batch_size"] / groups,
        ),
        Panel(
            "batch size, with as many images in all",
            Factor("batch_size", frozenset({"bn_groups", "steps"})),
        ),
        Panel("side of the views in pixels", Factor("image_size")),
    ]
    figure = Figure(figsize=(16, 7), layout="constrained")
    grid = figure.subplots(2, 4, sharey=True)
    for axes, panel in zip(grid.flat, panels, strict=True):
        _plot(axes, panel, found)
    for axes in grid[:, 0]:
        axes.set_ylabel("change of the accuracy in points")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return save_figure(figure, os.path.join(directory, FILE))


def _share_of_images(size: float, data_set: DataSet) -> float:
    """Return the size of the queue as a share of the images, rounded to a power of two."""
    return 2.0 ** round(math.log2(size / data_set.num_images))


def _share(place: float) -> str:
    return f"1/{1 / place:.0f}" if place < 1 else f"{place:.0f}"


def _plot(axes: Axes, panel: Panel, found: list[DataSet]) -> None:
    """Plot the changes by one setting: a line for each data set, through the base at 0."""
    places = set()
    for data_set, color in zip(found, COLORS, strict=False):
        base = Change(data_set.config[panel.factor.key], True, [0.0])
        points = {True: [base], False: []}
        for change in data_set.changes(panel.factor):
            points[change.shuffles].append(change)
        for shuffles, changes in points.items():
            xs = [panel.place(change.value, data_set) for change in changes]
            means = [statistics.mean(change.points) for change in changes]
            spreads = [
                statistics.stdev(change.points) if len(change.points) > 1 else 0.0
                for change in changes
            ]
            order = sorted(range(len(xs)), key=xs.__getitem__)
            places.update(xs)
            axes.errorbar(
                [xs[i] for i in order],
                [means[i] for i in order],
                [spreads[i] for i in order],
                color=color,
                marker="o",
                markersize=5,
                markerfacecolor=color if shuffles else "white",
                linestyle="-" if shuffles else ":",
                linewidth=1,
                capsize=2,
                label=_label(data_set) if shuffles else None,
            )
    axes.axhspan(-DEVIATION, DEVIATION, color="gray", alpha=0.15, linewidth=0)
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sorted(places), [panel.tick(place) for place in sorted(places)])
    axes.set_xlabel(panel.label)
    axes.grid(alpha=0.3)


def _label(data_set: DataSet) -> str:
    if data_set.name.isdigit():
        return f"{int(data_set.name):,} images of Fashion-MNIST"
    return data_set.name
