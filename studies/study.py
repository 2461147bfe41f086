"""A study: it plans its runs, runs each in its own process, and collects their records."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import keras
import ml_collections
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from moco_tf import run_data, run_metrics
from moco_tf.config import flatten, total_steps
from moco_tf.config_checks import check
from moco_tf.data import sources
from moco_tf.evaluation import protocols
from studies import experiments, results, runs
from studies.labels import Labels
from studies.worker import run_in_process


class Planned(NamedTuple):
    """A run of a study.

    Attributes:
        settings: The settings that differ from the base config.
        cost: Estimated cost, in any unit.
        is_monitored: Whether the kNN monitor runs after every epoch.
        labels: Further evaluations of the run, if any.
    """

    settings: experiments.Settings
    cost: float
    is_monitored: bool = False
    labels: Labels | None = None


def run(
    config: ml_collections.ConfigDict,
    planned: Mapping[str, Planned],
    seeds: Sequence[int],
    out: str,
    workdir: str,
    command: str,
) -> int | None:
    """Train and evaluate the runs of a study that are not finished yet.

    `out/results.json` is written after every run. Checkpoints of finished runs are deleted.

    Args:
        config: The base config.
        planned: The runs by their names.
        seeds: Seeds of every run.
        out: Directory of results.json.
        workdir: Directory of the run directories.
        command: Command line, which results.json mentions.

    Returns:
        The number of the signal that stopped the study, or None if it is finished.

    Raises:
        UserError: If a setting is invalid, the images cannot be read or are not labeled, `out`
            holds another study or one of other images, or a run fails.
    """
    base = flatten(config)
    pretrain_source = sources.from_config(config)
    num_images = len(pretrain_source.pretrain)
    source = runs.evaluated_source(config)
    protocols.require_two_labeled_parts(source)
    assert source.class_names is not None
    for run in planned.values():
        if run.settings.get("epochs") != 0:
            check(runs.with_settings(config, run.settings))
    study = results.start(
        out,
        base,
        seeds,
        command,
        versions={module.__name__: module.__version__ for module in (tf, keras, np)},
        data={
            "source": config.data.source,
            "num_images": num_images,
            "num_train": len(source.train),
            "num_test": len(source.test),
            "num_classes": len(source.class_names),
            "checksums": [run_data.of_source(one).checksum for one in (pretrain_source, source)],
        },
    )
    results.write(out, study)  # Now, so that an error does not appear after hours of training.
    # Seed by seed, so that an unfinished study covers all experiments.
    unfinished = [
        (name, run, seed)
        for seed in seeds
        for name, run in planned.items()
        if results.find(study, name, seed) is None
    ]
    progress = _Progress([run.cost for _, run, _ in unfinished])
    start, seconds_before = time.perf_counter(), study["seconds"]
    with progress.bar, received_signals() as signals:
        for index, (name, run, seed) in enumerate(unfinished):
            title = f"run {index + 1}/{len(unfinished)}: {name}, seed {seed}"
            run_config = runs.with_settings(config, run.settings, seed)
            run_config.knn_every = int(run.is_monitored)
            run_dir = os.path.join(workdir, name, f"seed{seed}")
            num_steps = total_steps(run_config, num_images // run_config.batch_size)
            progress.start_run(index, title, run_dir, num_steps)
            record = run_in_process(run_config, run_dir, signals, progress.update, run.labels)
            study["seconds"] = round(seconds_before + time.perf_counter() - start, 1)
            if record is not None:
                study["runs"].append(
                    {"name": name, "seed": seed, "settings": dict(run.settings), **record}
                )
            results.write(out, study)
            if record is not None:
                runs.delete_checkpoints(run_dir)
                progress.end_run(record)
            if signals:
                tqdm.write(
                    f"stopped in run {index + 1}; run the same command again to continue the study"
                )
                return signals[0]
    return None


class _Progress:
    """The progress bar of a study, whose unit is the estimated cost, and a line for each run.

    Args:
        costs: Estimated cost of each run.
    """

    def __init__(self, costs: Sequence[float]) -> None:
        self.costs = costs
        self.start = time.perf_counter()
        self.bar = tqdm(
            total=sum(costs),
            desc="study",
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            smoothing=0,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def start_run(self, index: int, title: str, run_dir: str, num_steps: int) -> None:
        """Show which run is in progress."""
        self.index, self.title, self.run_dir, self.num_steps = index, title, run_dir, num_steps
        self.bar.set_postfix_str(title)

    def update(self) -> None:
        """Show how far the run in progress is."""
        if self.bar.disable:
            return
        fraction = 0.0
        if self.num_steps:
            steps = [line["step"] for line in run_metrics.read_metrics(self.run_dir)]
            fraction = max(steps, default=0) / self.num_steps
        self.bar.n = sum(self.costs[: self.index]) + fraction * self.costs[self.index]
        self.bar.refresh()

    def end_run(self, record: results.Record) -> None:
        """Print the accuracies of a finished run, and estimate the remaining time."""
        done = sum(self.costs[: self.index + 1])
        self.bar.n = done
        seconds = (time.perf_counter() - self.start) / done * (sum(self.costs) - done)
        tqdm.write(
            f"{self.title}: kNN {record['knn_top1']:.3f}, linear {record['linear_top1']:.3f}, "
            f"{record['seconds']:.0f} s; {tqdm.format_interval(seconds)} left"
        )
        sys.stdout.flush()


@contextlib.contextmanager
def received_signals() -> Iterator[list[int]]:
    """Collect the SIGINTs and SIGTERMs that arrive inside the block, instead of stopping."""
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
