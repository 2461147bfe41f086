"""The tables of the study of transfer (`python -m studies.transfer`), for docs/result_tables.py."""

import json
import pathlib
import statistics
from typing import Any

import scipy.stats

from moco_tf import markdown

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "studies" / "transfer"
NO_RESULTS = "*This study is not complete yet, so there are no results.*"
INITIALIZATIONS = {
    "random": "random initialization",
    "supervised": "supervised",
    "moco": "MoCo",
}
METRICS = {
    "ap": ("detection", "AP"),
    "ap50": ("detection", "AP50"),
    "ap75": ("detection", "AP75"),
    "mean_iou": ("segmentation", "mean IoU"),
}
TESTED = ("ap", "mean_iou")
COMPARISONS = (("moco", "random"), ("moco", "supervised"), ("supervised", "random"))
LEVEL = 0.05

Results = dict[str, Any]


def transfer() -> str:
    """Return the tables, the figure and the pictures of the study, as far as it is finished."""
    path = FOLDER / "results.json"
    if not path.exists():
        return NO_RESULTS
    results = json.loads(path.read_text(encoding="utf-8"))
    planned, seeds = results["seeds"], finished_seeds(results)
    if not seeds:
        return NO_RESULTS
    results["seeds"] = seeds
    tables = [settings(results), pretraining(results), scores(results)]
    if len(seeds) < len(planned):
        note = (
            f"*This study is not complete: these are {len(seeds)} of {len(planned)} trials of each "
            "row, so nothing is tested yet.*"
        )
        return "\n\n".join([note, *tables])
    parts = [
        *tables,
        "![AP and mean IoU by the length of the schedule](transfer.png)",
        differences(results),
        pictures(results),
        "`studies/transfer/results.json` has every trial.",
    ]
    return "\n\n".join(parts)


def transfer_scores() -> str:
    """Return the scores of the finished trials, and their tests if all are finished."""
    results = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    planned, results["seeds"] = results["seeds"], finished_seeds(results)
    is_complete = results["seeds"] == planned
    return "\n\n".join([scores(results), *([differences(results)] if is_complete else [])])


def finished_seeds(results: Results) -> list[int]:
    """Return the seeds of which all trials are finished."""
    seeds = set(results["seeds"])
    for key, (task, _) in METRICS.items():
        for schedule in results["config"]["schedules"]:
            for initialization in INITIALIZATIONS:
                seeds &= set(values(results, task, initialization, schedule, key))
    return sorted(seeds)


def values(
    results: Results, task: str, initialization: str, schedule: int, key: str
) -> dict[int, float]:
    """Return a metric of the trials in percent, by their seeds."""
    wanted = {"task": task, "initialization": initialization, "schedule": schedule}
    return {run["seed"]: 100 * run[key] for run in results["runs"] if run["settings"] == wanted}


def settings(results: Results) -> str:
    """Return the sizes of the study."""
    config = results["config"]
    size = config["scene_size"]
    lengths = {
        task: " and ".join(
            f"{schedule * config[f'{task}_steps']:,} ({schedule}x)"
            for schedule in config["schedules"]
        )
        for task in ("detection", "segmentation")
    }
    rates = [f"{config[f'{task}_learning_rate']:g}" for task in lengths]
    rows = [
        ["backbone", results["data"]["encoder"]],
        ["scenes", f"{config['num_train']} for training and {config['num_test']} for testing"],
        ["size of a scene", f"{size}×{size} pixels"],
        ["batches", f"{config['batch_size']} scenes"],
        ["steps of detection", lengths["detection"]],
        ["steps of segmentation", lengths["segmentation"]],
        ["learning rates", " and ".join(rates) + f", after {config['warmup_steps']} warm-up steps"],
        ["trials", f"{len(results['seeds'])} of each row"],
        ["time", f"{results['seconds'] / 3600:.1f} hours on two CPU cores, beside other work"],
    ]
    return markdown.table(["setting", "value"], rows)


def pretraining(results: Results) -> str:
    """Return what the two pre-trainings saw and how well they learned their own task."""
    config = results["config"]
    images = config["pretrain_images"]
    batch_size, epochs = config["pretrain_batch_size"], config["pretrain_epochs"]
    runs = {
        run["settings"]["initialization"]: run
        for run in results["runs"]
        if run["name"].startswith("pre-training")
    }
    moco, supervised = runs["moco"], runs["supervised"]
    measures = {
        "supervised": (
            f"{images:,} images of one garment, with its class",
            f"{100 * supervised['top1']:.1f} % of {config['pretrain_test_images']:,} test images "
            "classified correctly",
        ),
        "moco": (
            f"{images:,} scenes without labels",
            f"loss {moco['final_loss']:.2f} (chance {moco['chance']:.2f}), contrastive accuracy "
            f"{100 * moco['final_contrastive_top1']:.1f} %",
        ),
    }
    seen = epochs * (images // batch_size) * batch_size
    rows = [
        [
            INITIALIZATIONS[name],
            data,
            f"{seen // batch_size:,} steps of {batch_size} images",
            measure,
            f"{runs[name]['seconds'] / 60:.0f} min",
        ]
        for name, (data, measure) in measures.items()
    ]
    return markdown.table(["pre-training", "images", "length", "result", "time"], rows)


def scores(results: Results) -> str:
    """Return mean and standard deviation of each metric over the seeds."""
    rows = []
    for schedule in results["config"]["schedules"]:
        for initialization, name in INITIALIZATIONS.items():
            cells = []
            for key, (task, _) in METRICS.items():
                trials = values(results, task, initialization, schedule, key)
                cells.append(mean_and_std([trials[seed] for seed in results["seeds"]]))
            rows.append([f"{schedule}x", name, *cells])
    titles = [f"{label}, %" for _, label in METRICS.values()]
    return markdown.table(["schedule", "initialization", *titles], rows)


def mean_and_std(numbers: list[float]) -> str:
    """Format a mean with the sample standard deviation, if there are several numbers."""
    deviation = f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.1f}{deviation}"


def differences(results: Results) -> str:
    """Return the paired t-tests of the initializations, with Holm's correction.

    Trials with the same seed are a pair: they have the same new layers, order of the scenes and
    flips.
    """
    rows, p_values = [], []
    for key in TESTED:
        task, label = METRICS[key]
        for schedule in results["config"]["schedules"]:
            for first, second in COMPARISONS:
                trials = values(results, task, first, schedule, key)
                others = values(results, task, second, schedule, key)
                seeds = sorted(trials)
                paired = scipy.stats.ttest_rel(
                    [trials[seed] for seed in seeds], [others[seed] for seed in seeds]
                )
                interval = paired.confidence_interval(1 - LEVEL)
                mean = statistics.mean(trials[seed] - others[seed] for seed in seeds)
                p_values.append(float(paired.pvalue))
                rows.append(
                    [
                        f"{label}, {schedule}x",
                        f"{INITIALIZATIONS[first]} − {INITIALIZATIONS[second]}",
                        f"{mean:+.1f} ({interval.low:+.1f} to {interval.high:+.1f})",
                        "< 0.0001" if paired.pvalue < 0.0001 else f"{paired.pvalue:.4f}",
                        "higher" if mean > 0 else "lower",
                    ]
                )
    for row, significant in zip(rows, holm(p_values), strict=True):
        if not significant:
            row[-1] = "no clear difference"
    header = [
        "metric",
        "comparison",
        f"difference in points, with {1 - LEVEL:.0%} interval".replace("%", " %"),
        "p",
        "conclusion",
    ]
    return (
        markdown.table(header, rows)
        + "\n\np is that of a paired t-test over the trials with the same seed. The conclusions "
        f"have Holm's correction for\n{len(rows)} tests at a level of {LEVEL:g}."
    )


def holm(p_values: list[float]) -> list[bool]:
    """Return which of several tests are significant at `LEVEL` with Holm's correction.

    Example:
        >>> holm([0.04, 0.001, 0.02])
        [True, True, True]
        >>> holm([0.04, 0.001, 0.03])
        [False, True, False]
    """
    significant = [False] * len(p_values)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, index in enumerate(order):
        if p_values[index] > LEVEL / (len(p_values) - rank):
            break
        significant[index] = True
    return significant


def pictures(results: Results) -> str:
    """Return the pictures of the predictions after pre-training with MoCo."""
    schedule, seed = results["config"]["schedules"][0], results["seeds"][0]
    return "\n\n".join(
        f"![{task.capitalize()} on test scenes, MoCo, {schedule}x, seed {seed}]({task}_moco.png)"
        for task in ("detection", "segmentation")
    )
