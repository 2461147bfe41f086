"""results.json of a study: what was run, and a record of each finished run."""

import json
import os

import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.files import write_atomically
from studies.experiments import identity

FILE = "results.json"


def read(directory):
    """The results in a directory, or None where there are none yet.

    Args:
        directory: str, a study's.

    Returns:
        A dict of `commands` that were run, `versions`, `data` (`source`, `num_images` that a run
        trains on, `num_train` and `num_test` of the evaluation, `num_classes`), `config` (the
        base's, flat), `seeds` that were asked for, `seconds` in all, and `runs`, a record each:

        - `name`, `seed`, `settings` that differ from the base's;
        - `knn_top1` and `linear_top1`, shares in 0 to 1, and `parameters` of the backbone;
        - `seconds`, of the sitting in which it was finished;
        - of a run that was trained, `final_loss` and `final_contrastive_top1`, means over the last
          epoch, `chance`, the loss of pure chance in nats, `steps_per_epoch`, and `curves`: lists
          `step`, `loss` and `contrastive_top1`, means since the step before;
        - `knn_curve`, lists `step` and `top1`, where the monitor looked.

    Raises:
        UserError: the file cannot be read.
    """
    path = os.path.join(directory, FILE)
    if not tf.io.gfile.exists(path):
        return None
    try:
        with tf.io.gfile.GFile(path) as file:
            results = json.loads(file.read())
        if not (isinstance(results, dict) and {"config", "runs"} <= results.keys()):
            raise ValueError("it has no config or no runs")
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(
            f"{path} is not the results of a study ({error}): move it away, or give another --out"
        ) from error
    return results


def start(directory, base, seeds, command, **about):
    """The results to go on with, or new ones.

    Args:
        directory: str.
        base: dict, the flat config of the base.
        seeds: list of int, added to those asked for before.
        command: str, added to those before.
        **about: `versions` and `data`.

    Returns:
        As `read`.

    Raises:
        UserError: another base made what is there.
    """
    results = read(directory) or {"commands": [], "seeds": [], "seconds": 0.0, "runs": []}
    if "config" in results:
        saved, wanted = identity(results["config"]), identity(base)
        differing = [
            f"{key} is {saved.get(key)!r} there and {wanted[key]!r} here"
            for key in wanted
            if saved.get(key) != wanted[key]
        ]
        if differing:
            raise UserError(
                f"--out={directory} holds a study of another base ({'; '.join(differing)}): give "
                "another directory, or that base to go on with it"
            )
    return {
        "commands": list(dict.fromkeys([*results["commands"], command])),
        **about,
        "config": base,
        "seeds": sorted({*results["seeds"], *seeds}),
        "seconds": results["seconds"],
        "runs": results["runs"],
    }


def write(directory, results):
    """Writes results.json, a line for each run.

    Raises:
        UserError: it cannot be written.
    """
    runs = ",\n".join(f"    {json.dumps(run)}" for run in results["runs"])
    text = json.dumps({**results, "runs": []}, indent=2)
    text = text.replace('"runs": []', f'"runs": [\n{runs}\n  ]') if runs else text
    try:
        tf.io.gfile.makedirs(directory)
        write_atomically(os.path.join(directory, FILE), text + "\n")
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--out={directory} cannot be written ({error}): give a directory that can"
        ) from error


def find(results, name, seed):
    """The record of a run, or None where it is not finished."""
    for run in results["runs"]:
        if (run["name"], run["seed"]) == (name, seed):
            return run
    return None
