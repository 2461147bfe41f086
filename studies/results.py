"""The file results.json of a study: its settings, and a record of each finished run."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from moco_tf.config import default_config, flatten
from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_atomically
from studies.experiments import identity

FILE = "results.json"

Record = dict[str, Any]
Results = dict[str, Any]


def read(directory: str) -> Results | None:
    """Return the results in a directory, or None if there are none yet.

    Args:
        directory: Directory of the study.

    Returns:
        A dict with these keys:

        - `commands` that were run;
        - `versions` of TensorFlow, Keras and NumPy;
        - `data`: `source`, `num_images` for pre-training, `num_train` and `num_test` for the
          evaluation, `num_classes`, and the `checksums` of the images of pre-training and of the
          evaluation, which studies of earlier versions lack;
        - `config`, the base config as a flat dict;
        - `seeds` that were requested;
        - `seconds` in total;
        - `runs`, a list with one record per finished run.

        A record holds:

        - `name`, `seed`, and the `settings` that differ from the base config;
        - `knn_top1` and `linear_top1`, between 0 and 1, and the number of `parameters` of the
          backbone;
        - `quality`, the measures of `moco_tf.evaluation.quality` of the test images; studies of
          earlier versions lack it;
        - if the study asks for evaluations with few labels: `few_shot_top1`, as
          `studies.labels.few_shot` returns it, and `finetune`, as `studies.labels.finetune` does;
        - `seconds`, without those of a training that was interrupted before;
        - if the run was trained: `final_loss` and `final_contrastive_top1`, means over the last
          epoch; `chance`, the chance-level loss in nats; `steps_per_epoch`; and `curves`, with
          the lists `step`, `loss` and `contrastive_top1`, means since the previous step in the
          list;
        - `knn_curve`, with the lists `step` and `top1` of the kNN monitor.

    Raises:
        UserError: If the file cannot be read.
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
            f"{path} does not hold the results of a study ({error}): move the file away, or choose "
            "another --out"
        ) from error
    return results


def start(
    directory: str,
    base: Mapping[str, Any],
    seeds: Sequence[int],
    command: str,
    versions: Mapping[str, str],
    data: Mapping[str, Any],
) -> Results:
    """Return the results to continue, or new ones without runs.

    Args:
        directory: Directory of the study.
        base: The base config as a flat dict.
        seeds: Seeds, which are added to those that were requested before.
        command: Command line, which is added to those that were run before.
        versions: Versions of the libraries.
        data: Description of the data, as in `read`.

    Returns:
        Results, as `read` returns them.

    Raises:
        UserError: If the directory holds a study with another base config, or runs on other images.
    """
    results = read(directory) or {"commands": [], "seeds": [], "seconds": 0.0, "runs": []}
    if "config" in results:
        # Settings that did not exist yet when the study was started have their default values.
        saved = {**flatten(default_config()), **results["config"]}
        if differing := _differences(saved, identity(base)):
            raise UserError(
                f"--out={directory} holds a study with another config ({differing}): "
                "choose another directory, or use the same config to continue it"
            )
    if results["runs"]:
        # What earlier versions did not record is not compared.
        saved = {**data, **results.get("data", {})}
        if differing := _differences(saved, data):
            raise UserError(
                f"--out={directory} holds a study of other images ({differing}): choose another "
                "directory, or restore the images"
            )
    return {
        "commands": list(dict.fromkeys([*results["commands"], command])),
        "versions": dict(versions),
        "data": dict(data),
        "config": dict(base),
        "seeds": sorted({*results["seeds"], *seeds}),
        "seconds": results["seconds"],
        "runs": results["runs"],
    }


def _differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """Return the keys with different values, in words; "" if there are none."""
    return "; ".join(
        f"{key} is {saved.get(key)!r} there and {current[key]!r} here"
        for key in current
        if saved.get(key) != current[key]
    )


def write(directory: str, results: Results) -> None:
    """Write results.json, with one line per run.

    Raises:
        UserError: If it cannot be written.
    """
    runs = ",\n".join(f"    {json.dumps(run)}" for run in results["runs"])
    text = json.dumps({**results, "runs": []}, indent=2)
    text = text.replace('"runs": []', f'"runs": [\n{runs}\n  ]') if runs else text
    try:
        tf.io.gfile.makedirs(directory)
        write_atomically(os.path.join(directory, FILE), text + "\n")
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--out={directory} cannot be written ({error_reason(error)}): choose another directory"
        ) from error


def find(results: Results, name: str, seed: int) -> Record | None:
    """Return the record of a run, or None if the run is not finished."""
    for run in results["runs"]:
        if (run["name"], run["seed"]) == (name, seed):
            return run
    return None
