"""A training of the study of transfer in its own process, which `studies.worker.call` starts."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from moco_tf.evaluation.transfer import detection
from moco_tf.plots import boxes as box_plots
from studies import worker
from studies.results import Record
from studies.transfer import trainings
from studies.transfer.design import Design, Training


def run_in_process(
    training: Training, design: Design, workdir: str, out: str, signals: Sequence[int]
) -> Record | None:
    """Call `run` in its own process.

    Args:
        training: As for `run`.
        design: As for `run`.
        workdir: As for `run`. The output of the process is appended to `log.txt` in it.
        out: As for `run`.
        signals: As for `studies.worker.call`.

    Returns:
        The record of the training, or None if a signal stopped it.

    Raises:
        UserError: If the training raises one, or fails.
    """
    arguments = [json.dumps(vars(training)), json.dumps(vars(design)), workdir, out]
    return worker.call("studies.transfer.worker", arguments, workdir, signals, lambda: None)


def run(training: Training, design: Design, workdir: str, out: str) -> Record | None:
    """Run a pre-training, or a trial and plot what it predicts.

    Args:
        training: The training.
        design: The design of the study.
        workdir: Directory of the images and of the pre-trained weights.
        out: Directory of the picture of a trial, or `""` for no picture.

    Returns:
        The record, as `trainings.pretrain` or `trainings.run_trial` returns it, or None if a signal
        stopped the training.
    """
    initialization = training.settings["initialization"]
    task = training.settings.get("task")
    if task is None:
        return trainings.pretrain(initialization, design, workdir)
    scenes = trainings.load_scenes(workdir)
    record, predictions = trainings.run_trial(
        training.settings, training.seed, design, workdir, scenes
    )
    if out:
        picture = os.path.join(out, f"{task}_{initialization}.png")
        if task == detection.DETECTION.name:
            box_plots.plot_detections(picture, scenes, design.scene_size, predictions)
        else:
            box_plots.plot_segmentations(picture, scenes, predictions)
    return record


def main(arguments: Sequence[str]) -> None:
    """Run a training, and write its record or the message of its error to a file.

    Args:
        arguments: The training and the design as JSON, the other arguments of `run`, and the path
            of the file.
    """
    training_json, design_json, workdir, out, answer_path = arguments
    training = Training(**json.loads(training_json))
    numbers: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in json.loads(design_json).items()
    }
    design = Design(**numbers)
    worker.answer(answer_path, lambda: run(training, design, workdir, out))


if __name__ == "__main__":
    main(sys.argv[1:])
