"""Detection and segmentation several times over, from one initialisation or from several."""

import json
import statistics
import time

from moco_tf.data.sources.source import evenly_spaced
from moco_tf.distribution import is_chief
from moco_tf.evaluation import comparison, protocols
from moco_tf.evaluation.transfer import training

SHOWN = 8  # test images in a picture


def run(
    task, initialise, images, image_size, trials, known=(), finished=None, words="", **settings
):
    """Fine-tunes several times, from `seed` on each with a seed of its own, and measures.

    Args:
        task: a `training.Task`.
        initialise: a function of a seed that returns a new `keras_hub.models.ResNetBackbone`.
        images: `moco_tf.data.annotated.AnnotatedImages`.
        image_size: int, side of the squares in pixels.
        trials: int, 1 or more.
        known: results of trials that were made before with these settings.
        finished: a function of what this returns first, called after every trial; None for none.
        words: str, for the progress bar.
        **settings: what `training.settings_of` returns.

    Returns:
        A dict of: for each of the task's metrics the mean over the trials, and under its name with
        `_std` the standard deviation of a sample, None of one trial; `seconds` of all trials;
        `num_train` and `num_test`, ints; the settings; and `trials`, a list of dicts of `seed`, the
        metrics, `seconds` and the `curve` of `training.fit`. And what the first trial predicted for
        some test images, as `training.evaluate` returns it; of a known one, nothing.

    Raises:
        UserError: what `training.build`, `training.fit` and `training.evaluate` raise.
    """
    done, shown = [], {}
    for seed in range(settings["seed"], settings["seed"] + trials):
        trial = next((trial for trial in known if trial["seed"] == seed), None)
        if trial is None:
            start = time.perf_counter()
            number = f"trial {len(done) + 1} of {trials}" if trials > 1 else ""
            progress = ", ".join(filter(None, (words, number))) or task.name
            model = training.build(
                task, initialise(seed), len(images.class_names), image_size, seed
            )
            own = {**settings, "seed": seed}
            curve = training.fit(task, model, images, image_size, **own, progress=progress)
            found, predicted = training.evaluate(
                task,
                model,
                images,
                image_size,
                evenly_spaced(images.test, SHOWN).tolist(),
                "test images",
            )
            shown = shown if done else predicted
            seconds = round(time.perf_counter() - start, 3)
            trial = {"seed": seed, **found, "seconds": seconds, "curve": curve}
        done.append(trial)
        numbers = {"num_train": len(images.train), "num_test": len(images.test)}
        result = {**summary(task, done), **numbers, **settings, "trials": done}
        if finished:
            finished(result)
    return result, shown


def summary(task, trials):
    """Mean and standard deviation of the metrics of several trials, and their seconds, a dict."""
    result = {}
    for key in task.metrics:
        values = [trial[key] for trial in trials]
        result[key] = statistics.fmean(values)
        result[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
    return {**result, "seconds": round(sum(trial["seconds"] for trial in trials), 3)}


def compare(task, initialisations, images, image_size, directory, about, trials, **settings):
    """Fine-tunes from each of several initialisations by one schedule, and measures.

    What is finished is written after every trial, to `directory/eval/TASK_comparison.json`. A trial
    that is there already, from the same weights, images and settings, is not made again.

    Args:
        task, images, image_size, trials: of `run`.
        initialisations: `{name: initialise}`, each as for `run`.
        directory: str, such as the run.
        about: a dict, what else the file says.
        **settings: of `run`.

    Returns:
        What the file holds: `protocol`; `about`; and `rows`, what `run` returns first for each,
        with `initialisation`, its name, and `weights`, a checksum of what its first trial began
        with.

    Raises:
        UserError: what `run` raises, or the file cannot be written.
    """
    protocol = f"{task.name}_comparison"
    before = comparison.read(directory, protocol, "rows")
    rows = []

    def write():
        if is_chief():
            protocols.write_result(directory, {"protocol": protocol, **about, "rows": rows})

    for name, initialise in initialisations.items():
        what = {
            "initialisation": name,
            "weights": comparison.checksum(initialise(settings["seed"])),
            "data": images.name,
            "image_size": image_size,
            "num_train": len(images.train),
            "num_test": len(images.test),
        }
        wanted = json.loads(json.dumps({**what, **settings}))  # tuples as the lists of a file
        known = next((row["trials"] for row in before if wanted.items() <= row.items()), [])
        rows.append(what)

        def finished(result, what=what):
            rows[-1] = {**what, **result}
            write()

        run(task, initialise, images, image_size, trials, known, finished, name, **settings)
    return {"protocol": protocol, **about, "rows": rows}


def in_words(task, result):
    """What a result says, such as "AP 0.5000 ± 0.0100, AP50 0.7000 ± 0.0200"."""
    parts = []
    for key, words in task.metrics.items():
        std = result[f"{key}_std"]
        parts.append(f"{words} {result[key]:.4f}" + (f" ± {std:.4f}" if std is not None else ""))
    return ", ".join(parts)


def table(task, rows):
    """The rows of a comparison as a table in Markdown, in per cent, str."""
    lines = [["initialisation", *(f"{words}, %" for words in task.metrics.values())]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        cells = []
        for key in task.metrics:
            std = row[f"{key}_std"]
            cells.append(
                f"{100 * row[key]:.1f}" + (f" ± {100 * std:.1f}" if std is not None else "")
            )
        lines.append([row["initialisation"], *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
