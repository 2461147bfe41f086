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
from moco_tf.evaluation.transfer import detection
from moco_tf.plots import boxes as box_plots
from studies import results
from studies.results import Record, Results
from studies.transfer import images, trainings
from studies.transfer.design import ENCODER, Design, Training, pretrainings, trials


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
        The number of the signal that stopped the pre-training with MoCo, or None if the study is
        finished.

    Raises:
        UserError: If `out` holds another study or trials from other weights, or a file cannot be
            read or written.
        KeyboardInterrupt: If SIGINT stops another training, which then starts again next time.
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

    def finished(training: Training) -> Record | None:
        return results.find(study, training.name, training.seed)

    to_pretrain = [
        training
        for training in pretrainings(design)
        if not (finished(training) and os.path.exists(_weights_path(training, workdir)))
    ]
    to_try = [training for training in trials(design, seeds) if not finished(training)]
    progress = _Progress([*to_pretrain, *to_try])
    writer = _Writer(out, study)
    for training in to_pretrain:
        progress.start_next()
        record = trainings.pretrain(training.settings["initialization"], design, workdir)
        if isinstance(record, int):
            print("stopped; run the same command again to continue the study")
            return record
        before = finished(training)
        if before is None:
            writer.add(training, record)
        elif before["checksum"] != record["checksum"]:
            os.remove(_weights_path(training, workdir))
            raise UserError(
                f"--out={out} holds trials from other weights of '{training.name}', which are no "
                f"longer in {workdir}: choose another --out"
            )
        progress.end(record)
    scenes = trainings.load_scenes(workdir)
    for training in to_try:
        progress.start_next()
        record, predictions = trainings.run_trial(
            training.settings, training.seed, design, workdir, scenes
        )
        if (training.seed, training.settings["schedule"]) == (seeds[0], design.schedules[0]):
            task, initialization = training.settings["task"], training.settings["initialization"]
            picture = os.path.join(out, f"{task}_{initialization}.png")
            if task == detection.DETECTION.name:
                box_plots.plot_detections(picture, scenes, design.scene_size, predictions)
            else:
                box_plots.plot_segmentations(picture, scenes, predictions)
        writer.add(training, record)
        progress.end(record)
    return None


def _weights_path(training: Training, workdir: str) -> str:
    return trainings.weights_path(workdir, training.settings["initialization"])


class _Writer:
    """Adds records to the results of a study.

    Args:
        out: Directory of results.json.
        study: The results.
    """

    def __init__(self, out: str, study: Results) -> None:
        self.out, self.study = out, study
        self.start, self.seconds_before = time.perf_counter(), study["seconds"]

    def add(self, training: Training, record: Record) -> None:
        """Add the record of a training, and write results.json."""
        seconds = self.seconds_before + time.perf_counter() - self.start
        self.study["seconds"] = round(seconds, 1)
        identity = {"name": training.name, "seed": training.seed, "settings": training.settings}
        self.study["runs"].append({**identity, **record})
        results.write(self.out, self.study)


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
