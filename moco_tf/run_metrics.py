"""The metrics of a run, which metrics.jsonl in its directory holds, a line for each logged step."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_atomically, write_remedy


def read_metrics(workdir: str) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl as dicts, without values that are null.

    A last line that a kill has cut short is left out. Without a metrics.jsonl the list is empty.

    Raises:
        UserError: If another line is damaged.
    """
    path = os.path.join(workdir, "metrics.jsonl")
    if not tf.io.gfile.exists(path):
        return []
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            *lines, incomplete = file.read().split(b"\n")
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({error_reason(error)}): restore it from a backup"
        ) from error
    del incomplete  # Empty, unless a kill has cut it short.
    metrics = []
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            if not isinstance(line, dict) or type(line.get("step")) is not int or line["step"] < 0:
                raise ValueError("no object with a step")
            for name, value in line.items():
                if not isinstance(value, (int, float, type(None))):
                    raise ValueError(f"{name} is no number")
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"line {number} of {path} is not a line of metrics ({error_reason(error)}): "
                "restore the file from a backup, or remove the line"
            ) from error
        metrics.append({name: value for name, value in line.items() if value is not None})
    return metrics


def curve(metrics: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """Return the steps and the values of a metric.

    Between values of the monitor that were measured on views of different sizes, and cannot be
    compared, there is a NaN, at which a curve has a gap.

    Args:
        metrics: Lines as `read_metrics` returns them.
        key: Name of the metric.

    Example:
        >>> lines = [{"step": step, "loss": 1 / (step + 1)} for step in range(2)]
        >>> curve(lines, "loss")
        [(0, 1.0), (1, 0.5)]
    """
    points: list[tuple[int, float]] = []
    size = None
    for line in metrics:
        if key not in line:
            continue
        new_size = line.get("evaluation_size")  # Earlier versions did not log it.
        if None not in (size, new_size) and size != new_size:
            points.append((points[-1][0], math.nan))
        points.append((line["step"], line[key]))
        size = new_size
    return points


def rewind_metrics(workdir: str, step: int) -> int:
    """Remove the lines of metrics.jsonl after `step`, which a resumed run writes again.

    Returns:
        The step of the last line that is left, or 0.

    Raises:
        UserError: If a line is damaged, or the file cannot be written.
    """
    path = os.path.join(workdir, "metrics.jsonl")
    kept = [line for line in read_metrics(workdir) if line["step"] <= step]
    try:
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"{path} cannot be written ({error_reason(error)}): {write_remedy(error, workdir)}"
        ) from error
    return max((line["step"] for line in kept), default=0)


def has_curves(workdir: str) -> bool:
    """Return whether the run has a curves.png, which it gets after its last checkpoint."""
    return tf.io.gfile.exists(os.path.join(workdir, "curves.png"))
