"""What the trainings of the benchmark of a whole training have in common, over their seeds."""

import statistics
from typing import Any


def summarize(result: dict[str, Any]) -> dict[str, Any]:
    """Return the mean results of each contestant.

    Args:
        result: A dictionary with `runs`, the runs of each contestant, and `images_per_epoch`.

    Returns:
        `common_top1`, an accuracy that all contestants reach: the lowest of the best means over the
        seeds. And `summary`, for each contestant: the images per second without the first epoch,
        the seconds, the accuracies after the last epoch and the seconds to the common accuracy.
    """
    common = min(max(_mean_top1(runs)) for runs in result["runs"].values())
    return {
        "common_top1": common,
        "summary": {
            name: {
                "images_per_second": _images_per_second(runs, result["images_per_epoch"]),
                "seconds": statistics.mean(run["seconds"] for run in runs),
                "knn_top1": [run["knn_top1"][-1] for run in runs],
                "seconds_to_common_top1": _seconds_to(common, runs),
            }
            for name, runs in result["runs"].items()
        },
    }


def show(data: str, result: dict[str, Any]) -> None:
    """Print the mean results."""
    common = f"to {100 * result['common_top1']:.1f} %"
    print(f"\n{data}: {result['images']:,} images, {result['parameters']:,} parameters")
    print(f"{'':26}{'images/s':>10}{'seconds':>9}{'kNN top-1':>11}{common:>12}")
    for name, values in result["summary"].items():
        top1 = 100 * statistics.mean(values["knn_top1"])
        print(
            f"{name:26}{values['images_per_second']:10.0f}{values['seconds']:9.0f}{top1:11.1f}"
            f"{values['seconds_to_common_top1']:12.0f}"
        )


def _images_per_second(runs, images_per_epoch):
    """Return the rate without the first epoch, which compiles."""
    rates = []
    for run in runs:
        first, *_, last = run["seconds_of_epochs"]
        rates.append((len(run["seconds_of_epochs"]) - 1) * images_per_epoch / (last - first))
    return statistics.mean(rates)


def _mean_top1(runs):
    """Return the mean accuracies of the seeds after each epoch."""
    return [
        statistics.mean(values) for values in zip(*(run["knn_top1"] for run in runs), strict=True)
    ]


def _seconds_to(top1, runs):
    """Return the mean seconds to the first epoch after which the mean accuracy is at least top1."""
    epoch = next(epoch for epoch, mean in enumerate(_mean_top1(runs)) if mean >= top1)
    return statistics.mean(run["seconds_of_epochs"][epoch] for run in runs)
