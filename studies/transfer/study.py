"""The study of transfer: it plans its trainings, runs them, and collects their records."""

import dataclasses
import json
import os
import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from moco_tf.errors import UserError
from studies import results
from studies.results import Record
from studies.study import received_signals
from studies.transfer import images
from studies.transfer.design import ENCODER, Design, Training, pretrainings, trials
from studies.transfer.trainings import weights_path
from studies.transfer.worker import run_in_process


def run(
    design: Design,
    seeds: Sequence[int],
    out: str,
    workdir: str,
    fashion_mnist: str,
    command: str,
) -> int | None:
    """Run the pre-trainings and the trials that are not finished yet.

    `out/results.json` is written after each of them. `studies.results.read` describes the file,
    with these differences: `config` holds the numbers of the design, `data` the encoder, and the
    records are those of `trainings.pretrain` and `trainings.run_trial`. The trials of the first
    seed with the shortest schedule also write pictures of predictions to `out`.

    Args:
        design: The design of the study.
        seeds: Seeds of the trials.
        out: Directory of results.json and the pictures.
        workdir: Local directory for the images and the pre-trained weights.
        fashion_mnist: Folder with the files of Fashion-MNIST.
        command: Command line, which results.json mentions.

    Returns:
        The number of the signal that stopped the study, or None if it is finished.

    Raises:
        UserError: If `out` holds another study or trials from other weights, a file cannot be read
            or written, or a training fails.
    """
    study = results.start(
        out,
        json.loads(json.dumps(dataclasses.asdict(design))),  # A file has lists for tuples.
        seeds,
        command,
        versions={module.__name__: module.__version__ for module in (tf, keras, np)},
        data={"encoder": ENCODER},
    )
    images.write(design, workdir, fashion_mnist)
    results.write(out, study)  # Now, so that an error does not appear after hours of training.
    lost = [
        training
        for training in pretrainings(design)
        if not os.path.exists(weights_path(workdir, training.settings["initialization"]))
    ]
    unfinished = [
        training
        for training in (*pretrainings(design), *trials(design, seeds))
        if training in lost or results.find(study, training.name, training.seed) is None
    ]
    progress = _Progress(unfinished)
    start, seconds_before = time.perf_counter(), study["seconds"]
    with received_signals() as signals:
        for training in unfinished:
            progress.start_next()
            has_picture = (training.seed, training.settings.get("schedule")) == (
                seeds[0],
                design.schedules[0],
            )
            record = run_in_process(training, design, workdir, out if has_picture else "", signals)
            study["seconds"] = round(seconds_before + time.perf_counter() - start, 1)
            if record is not None:
                before = results.find(study, training.name, training.seed)
                if before is None:
                    identity = {"name": training.name, "seed": training.seed}
                    study["runs"].append({**identity, "settings": training.settings, **record})
                elif before["checksum"] != record["checksum"]:
                    os.remove(weights_path(workdir, training.settings["initialization"]))
                    raise UserError(
                        f"--out={out} holds trials from other weights of '{training.name}', which "
                        f"are no longer in {workdir}: choose another --out"
                    )
                progress.end(record)
            results.write(out, study)
            if signals:
                print("stopped; run the same command again to continue the study")
                return signals[0]
    return None


class _Progress:
    """Lines about each training, with an estimate of the remaining time.

    Args:
        planned: The trainings in their order.
    """

    def __init__(self, planned: Sequence[Training]) -> None:
        self.planned = planned
        self.start = time.perf_counter()
        self.finished = 0

    def start_next(self) -> None:
        """Print which training starts."""
        print(self._title(), flush=True)

    def end(self, record: Record) -> None:
        """Print the measures of the training, and estimate the remaining time."""
        title = self._title()
        self.finished += 1
        done = sum(training.seconds for training in self.planned[: self.finished])
        left = sum(training.seconds for training in self.planned[self.finished :])
        seconds = (time.perf_counter() - self.start) / done * left
        measures = ", ".join(
            f"{key} {value:.3f}"
            for key, value in record.items()
            if isinstance(value, float) and key != "seconds"
        )
        print(
            f"{title}: {measures}, {record['seconds']:.0f} s; {tqdm.format_interval(seconds)} left",
            flush=True,
        )

    def _title(self) -> str:
        training = self.planned[self.finished]
        return f"{self.finished + 1}/{len(self.planned)}: {training.name}, seed {training.seed}"
