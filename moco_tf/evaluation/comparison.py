"""Compare initializations by fine-tuning, once only the new layer and once all layers.

All initializations get the same schedule. This is the comparison of the single-GPU reproduction of
MoCo (Lin Yigang). It shows whether pre-training helps, and whether it gives good features or only a
good starting point.
"""

import dataclasses
import json
from typing import Any

import tensorflow as tf

from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError
from moco_tf.evaluation import protocols
from moco_tf.evaluation.identity import identify, identify_training
from moco_tf.evaluation.results import LAYERS, result_path, write_result
from moco_tf.evaluation.settings import FinetuneSettings
from moco_tf.evaluation.training_state import state_in
from moco_tf.files import read_json
from moco_tf.workers import is_chief, require_same

PROTOCOL = "finetune_comparison"
EARLIER = "earlier"  # The key of results of earlier calls that are not part of a comparison.


def compare(
    backbones: dict[str, Any],
    source: Source,
    image_size: int,
    directory: str,
    description: dict[str, Any],
    settings: FinetuneSettings = FinetuneSettings(),
) -> dict[str, Any]:
    """Fine-tune each of several backbones twice: only the new layer, and all layers.

    Each curve is written to `directory/eval/finetune_comparison.json` as soon as it is finished. A
    curve in that file with the same entries of `moco_tf.evaluation.identity.identify` and the same
    settings is not computed again. Other curves in the file are kept in it, as `earlier`. A curve
    that was interrupted continues from its `TrainingState` there.

    Args:
        backbones: Backbones by name, each as for `finetune.fit`.
        source: A source with labels.
        image_size: Side of the views in pixels.
        directory: Directory of the result, such as the run directory.
        description: Further entries of the result.
        settings: Settings of the training; `layers` is ignored.

    Returns:
        The content of the file without `earlier`: `protocol`, the description, and `curves`: the
        result of `protocols.evaluate_finetune` for each, with `initialisation`, the backbone's
        name, and the entries of `moco_tf.evaluation.identity.identify`, of its initial weights.

    Raises:
        UserError: As `protocols.evaluate_finetune`, or if the file cannot be written.
    """
    finished = read_together(directory, PROTOCOL, "curves")
    # A curve with more points than are asked for will do.
    complete = [
        curve
        for curve in finished
        if settings.evaluated_epochs() <= {point["epoch"] for point in curve.get("curve", [])}
    ]
    result = {"protocol": PROTOCOL, **description, "curves": []}
    for name, backbone in backbones.items():
        identity = {"initialisation": name, **identify(backbone, source, image_size)}
        for layers in ("head", "all"):
            curve_settings = dataclasses.replace(settings, layers=layers)
            curve = find_matching(complete, {**identity, **curve_settings.used()})
            state = None
            if curve is None:
                progress = f"{name}, {LAYERS[layers]}"
                training = identify_training(backbone, source, image_size, curve_settings)
                state = state_in(directory, PROTOCOL, {**identity, **training})
                _, curve = protocols.evaluate_finetune(
                    backbone, source, image_size, curve_settings, progress, state
                )
                curve = {**identity, **curve}
            result["curves"].append(curve)
            if is_chief():
                write_result(directory, with_earlier(result, "curves", finished))
            if state is not None:
                state.remove()
    return result


def find_matching(records: list[dict[str, Any]], entries: dict[str, Any]) -> dict[str, Any] | None:
    """Return the first record of a JSON file that contains all of the entries, or None.

    A record that lacks an entry, as those of earlier versions may, does not match.
    """
    entries = json.loads(json.dumps(entries))  # A file has lists where Python has tuples.
    return next((record for record in records if entries.items() <= record.items()), None)


def read(directory: str, protocol: str, key: str) -> list[dict[str, Any]]:
    """Read the finished results of a comparison that was interrupted.

    Args:
        directory: Directory of the result, such as the run directory.
        protocol: Name of the comparison.
        key: Key of the list in its file.

    Returns:
        The list, and the results that `with_earlier` kept; empty if there is no file.

    Raises:
        UserError: If the file is not the result of a comparison.
    """
    path = result_path(directory, protocol)
    if not tf.io.gfile.exists(path):
        return []
    remedy = "delete it to start again"
    content = read_json(path, remedy)
    try:
        return [dict(record) for record in [*content[key], *content.get(EARLIER, [])]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not the result of a comparison: {remedy}") from error


def read_together(directory: str, protocol: str, key: str) -> list[dict[str, Any]]:
    """Read as `read` in all workers, before any of them writes.

    Raises:
        UserError: As `read`, or if the workers do not read the same results.
    """
    records = read(directory, protocol, key)
    remedy = f"Use a directory that all of them share, instead of {directory}"
    require_same({f"the results of an earlier {protocol}": records}, remedy)
    return records


def with_earlier(
    result: dict[str, Any], key: str, finished: list[dict[str, Any]]
) -> dict[str, Any]:
    """Add the results of earlier calls that are not part of a comparison to its result.

    They are kept because an interrupted comparison may need them when it continues.

    Args:
        result: The result, finished or not.
        key: Key of the list of its records.
        finished: The records that `read` returned.
    """
    left = [old for old in finished if not any(_includes(new, old) for new in result[key])]
    return {**result, EARLIER: left} if left else result


def _includes(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Return whether a record is another one, or has all of its trials."""
    trials = old.get("trials")
    return new == old or bool(trials and all(trial in new.get("trials", ()) for trial in trials))
