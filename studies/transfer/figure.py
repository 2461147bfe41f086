"""The figure of the study of transfer, which needs only results.json."""

import os

import numpy as np
from matplotlib.axes import Axes

from moco_tf.plots.saving import save_figure
from studies.figures import new_figure
from studies.results import Results
from studies.transfer.design import INITIALIZATIONS, TASKS

FILE = "transfer.png"
METRICS = {"detection": ("ap", "AP"), "segmentation": ("mean_iou", "mean IoU")}
COLORS = {"random": "gray", "supervised": "tab:blue", "moco": "tab:red"}


def write(directory: str, results: Results) -> str:
    """Plot AP and mean IoU by the length of the schedule, and return the path of the figure.

    Args:
        directory: Directory of the study.
        results: Results, as `studies.results.read` returns them, finished or not.
    """
    figure, panels = new_figure(len(TASKS))
    for axes, task in zip(panels, TASKS, strict=True):
        _plot(axes, results, task)
    return save_figure(figure, os.path.join(directory, FILE))


def _plot(axes: Axes, results: Results, task: str) -> None:
    metric, label = METRICS[task]
    schedules = results["config"]["schedules"]
    offsets = np.linspace(-0.06, 0.06, len(INITIALIZATIONS))  # So that error bars do not overlap.
    for offset, (initialization, name) in zip(offsets, INITIALIZATIONS.items(), strict=True):
        positions, means, stds = [], [], []
        for place, schedule in enumerate(schedules):
            settings = {"task": task, "initialization": initialization, "schedule": schedule}
            values = [100 * run[metric] for run in results["runs"] if run["settings"] == settings]
            if not values:
                continue
            positions.append(place + offset)
            means.append(np.mean(values))
            stds.append(np.std(values, ddof=1) if len(values) > 1 else 0.0)
            axes.scatter(
                [place + offset] * len(values), values, 12, COLORS[initialization], alpha=0.4
            )
        axes.errorbar(
            positions, means, yerr=stds, color=COLORS[initialization], label=name, capsize=3
        )
    base = results["config"][f"{task}_steps"]
    axes.set_xticks(
        range(len(schedules)),
        [f"{schedule}x\n{schedule * base:,} steps" for schedule in schedules],
    )
    axes.set_xlim(-0.4, len(schedules) - 0.6)
    axes.set_xlabel("schedule")
    axes.set_ylabel(f"{label} (%)")
    axes.set_title(task.capitalize())
    axes.legend()
