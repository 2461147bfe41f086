"""Several trials of detection or segmentation, from one initialization or from several."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from moco_tf import markdown
from moco_tf.data.boxes.annotations import AnnotatedImages
from moco_tf.data.sources.source import evenly_spaced
from moco_tf.evaluation import comparison, unreadable
from moco_tf.evaluation.identity import checksum, parts_checksum, software
from moco_tf.evaluation.networks import network_checksum
from moco_tf.evaluation.results import write_result
from moco_tf.evaluation.settings import TransferSettings
from moco_tf.evaluation.training_state import TrainingState, state_in
from moco_tf.evaluation.transfer import training
from moco_tf.evaluation.transfer.training import Prediction, Task
from moco_tf.workers import is_chief

NUM_SHOWN = 8  # Number of test images whose predictions are kept for a plot.

# A function of a seed that returns a new `keras_hub.models.ResNetBackbone`.
Initialize = Callable[[int], Any]


def run(
    task: Task,
    initialize: Initialize,
    images: AnnotatedImages,
    image_size: int,
    settings: TransferSettings,
    finished: Sequence[dict[str, Any]] = (),
    on_trial_end: Callable[[dict[str, Any]], None] | None = None,
    label: str = "",
    state: TrainingState | None = None,
) -> tuple[dict[str, Any], dict[int, Prediction]]:
    """Fine-tune and measure several times, with consecutive seeds.

    Args:
        task: The task.
        initialize: Function that returns a new backbone for a seed.
        images: The annotated images.
        image_size: Side of the images in pixels.
        settings: Settings of the training; `trials` is the number of trainings.
        finished: Results of trials that an earlier call made with the same settings.
        on_trial_end: Function that is called with the results so far after every trial.
        label: Label of the progress bar.
        state: The state to continue from. By default, the trials cannot be continued.

    Returns:
        The results and what the first trial of this call predicted for some test images, as
        `training.evaluate` returns it (nothing if all trials were finished before). The results are
        a dict with the mean of each metric over the trials; under the metric's name with `_std`
        its sample standard deviation, None for one trial; `seconds` of all trials; `num_train` and
        `num_test`; the entries of `moco_tf.evaluation.unreadable.entries`; `skipped`, the numbers
        of other annotations and images that were left out, by what they are; `clipped_boxes`; the
        settings; and `trials`, a list of dicts with `seed`, the metrics, `seconds`
        and the `curve` of `training.fit`.

    Raises:
        UserError: As `training.build`, `training.fit` and `training.evaluate`.
    """
    state = state or TrainingState()
    finished = [*finished, *state.facts.get("trials", ())]
    trials: list[dict[str, Any]] = []
    predictions: dict[int, Prediction] = {}
    for seed in range(settings.seed, settings.seed + settings.trials):
        trial = next((trial for trial in finished if trial["seed"] == seed), None)
        if trial is None:
            number = f"trial {len(trials) + 1} of {settings.trials}" if settings.trials > 1 else ""
            progress = ", ".join(filter(None, (label, number))) or task.name
            trial, kept = _run_trial(
                task,
                initialize,
                images,
                image_size,
                dataclasses.replace(settings, seed=seed),
                progress,
                state,
            )
            predictions = predictions or kept
            trials.append(trial)
            state.save([], {"trials": trials, "current": None})
        else:
            trials.append(trial)
        result = {
            **summarize_trials(task, trials),
            "num_train": len(images.train),
            "num_test": len(images.test),
            **unreadable.entries(images.unreadable_train, images.unreadable_test),
            "skipped": dict(images.tally.skipped),
            "clipped_boxes": images.tally.clipped,
            **_recorded(settings),
            "trials": trials,
        }
        if on_trial_end:
            on_trial_end(result)
    return result, predictions


def summarize_trials(task: Task, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation of the metrics over several trials, and their seconds."""
    result: dict[str, Any] = {}
    for key in task.metrics:
        values = [trial[key] for trial in trials]
        result[key] = statistics.fmean(values)
        result[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
    return {**result, "seconds": round(sum(trial["seconds"] for trial in trials), 3)}


def compare(
    task: Task,
    initializations: dict[str, Initialize],
    images: AnnotatedImages,
    image_size: int,
    directory: str,
    description: dict[str, Any],
    settings: TransferSettings,
) -> dict[str, Any]:
    """Fine-tune from each of several initializations with one schedule, and measure.

    The results are written to `directory/eval/<task>_comparison.json` after every trial. A trial in
    that file from the same weights, images and settings is not run again. Other trials in the file
    are kept in it, as `earlier`. A trial that was interrupted continues from its `TrainingState`
    there.

    Args:
        task: The task.
        initializations: Functions that return a new backbone for a seed, by name.
        images: The annotated images.
        image_size: Side of the images in pixels.
        directory: Directory of the result, such as the run directory.
        description: Further entries of the result.
        settings: Settings of the training.

    Returns:
        The content of the file without `earlier`: `protocol`, the description, and `rows`: the
        results of `run` for each initialization, with `initialisation`, its name; `weights` and
        `network`, checksums of the initial weights of its first trial and of its layers; and
        `data_checksum`, that of the images.

    Raises:
        UserError: As `run`, or if the file cannot be written.
    """
    protocol = f"{task.name}_comparison"
    finished = comparison.read_together(directory, protocol, "rows")
    finished.sort(key=lambda row: -len(row.get("trials", ())))  # The most trials are found first.
    rows: list[dict[str, Any]] = []
    for name, initialize in initializations.items():
        backbone = initialize(settings.seed)
        identity = identify(name, backbone, images, image_size)
        row = comparison.find_matching(finished, {**identity, **_recorded(settings)}) or {}
        rows.append(identity)

        def write(result: dict[str, Any], identity: dict[str, Any] = identity) -> None:
            rows[-1] = {**identity, **result}
            if is_chief():
                content = {"protocol": protocol, **description, "rows": rows}
                write_result(directory, comparison.with_earlier(content, "rows", finished))

        earlier = row.get("trials", ())
        seeds = range(settings.seed, settings.seed + settings.trials)
        state = None
        if not {trial["seed"] for trial in earlier}.issuperset(seeds):
            state = state_of(directory, protocol, identity, images, settings)
        run(task, initialize, images, image_size, settings, earlier, write, name, state)
        if state is not None:
            finish(state, settings)
    return {"protocol": protocol, **description, "rows": rows}


def summarize(task: Task, result: dict[str, Any]) -> str:
    """Return the metrics of a result, such as "AP 0.5000 ± 0.0100, AP50 0.7000 ± 0.0200"."""
    parts = []
    for key, label in task.metrics.items():
        std = result[f"{key}_std"]
        parts.append(f"{label} {result[key]:.4f}" + (f" ± {std:.4f}" if std is not None else ""))
    return ", ".join(parts)


def table(task: Task, rows: list[dict[str, Any]]) -> str:
    """Return the rows of a comparison as a Markdown table, in percent."""
    header = ["initialization", *(f"{label}, %" for label in task.metrics.values())]
    cells = []
    for row in rows:
        values = []
        for key in task.metrics:
            std = row[f"{key}_std"]
            deviation = f" ± {100 * std:.1f}" if std is not None else ""
            values.append(f"{100 * row[key]:.1f}{deviation}")
        cells.append([row["initialisation"], *values])
    return markdown.table(header, cells)


def _run_trial(
    task: Task,
    initialize: Initialize,
    images: AnnotatedImages,
    image_size: int,
    settings: TransferSettings,
    progress: str,
    state: TrainingState,
) -> tuple[dict[str, Any], dict[int, Prediction]]:
    seed = settings.seed
    if training.unfinished(state, seed) is None:
        state.begin_another()
    model = training.build(task, initialize(seed), len(images.class_names), image_size, seed)
    curve = training.fit(task, model, images, image_size, settings, progress, state)
    shown = evenly_spaced(images.test, NUM_SHOWN).tolist()
    metrics, kept = training.evaluate(task, model, images, image_size, shown, "test images")
    return {"seed": seed, **metrics, "seconds": state.elapsed(), "curve": curve}, kept


def identify(name: str, backbone: Any, images: AnnotatedImages, image_size: int) -> dict[str, Any]:
    """Return what the trials of an initialization depend on besides the settings.

    Args:
        name: The name of the initialization.
        backbone: The backbone of the first trial.
        images: The annotated images.
        image_size: Side of the images in pixels.
    """
    return {
        "initialisation": name,
        "weights": checksum(backbone),
        "network": network_checksum(backbone),
        "data": images.name,
        "data_checksum": images.checksum,
        "image_size": image_size,
        "num_train": len(images.train),
        "num_test": len(images.test),
    }


def state_of(
    directory: str,
    protocol: str,
    identity: dict[str, Any],
    images: AnnotatedImages,
    settings: TransferSettings,
) -> TrainingState:
    """Return the state of the trials of an initialization.

    Args:
        directory: Directory of the result, such as the run directory.
        protocol: The name that the result goes by.
        identity: The result of `identify`.
        images: The annotated images.
        settings: Settings of the training.
    """
    parts = {"parts": parts_checksum(images.train, images.test)}
    return state_in(directory, protocol, {**software(), **identity, **parts, **_recorded(settings)})


def finish(state: TrainingState, settings: TransferSettings) -> None:
    """Remove the state of the trials, unless it has later trials, which more trials can use."""
    trials = [*state.facts.get("trials", ()), state.facts.get("current")]
    end = settings.seed + settings.trials
    if all(trial is None or trial["seed"] < end for trial in trials):
        state.remove()


def _recorded(settings: TransferSettings) -> dict[str, Any]:
    """Return the settings that identify a result; further trials can be added to it later."""
    return {name: value for name, value in vars(settings).items() if name != "trials"}
