"""The run directory: the config of a run, its checkpoints and its metrics."""

import json
import os
import re
from typing import Any

import ml_collections
import tensorflow as tf

from moco_tf.config import OPERATIONAL, default_config, flatten
from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_atomically

# What TensorFlow raises when it restores a damaged checkpoint, or one of another network.
RESTORE_ERRORS = (
    tf.errors.OpError,
    AssertionError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)


def require_same_run(
    workdir: str, config: ml_collections.ConfigDict, num_images: int, channels: int = 3
) -> None:
    """Raise a `UserError` if `workdir` holds a run with another config or other data.

    A directory without a run passes, and so does a path where nothing exists.

    Args:
        workdir: Path of the run directory, local or a `tf.io.gfile` path.
        config: Config of the run to start or to resume.
        num_images: Number of images that the run trains on. With another number, a step would have
            other images.
        channels: Number of channels of these images.

    Raises:
        UserError: If the run there has another config, another number of images or images with
            another number of channels, if it has lost its checkpoints, or if `workdir` is a file.
    """
    if tf.io.gfile.exists(os.path.join(workdir, "config.json")):
        saved, current = flatten(read_config(workdir)), flatten(config)
        differences = [
            f"{key} is {saved[key]!r} there and {current[key]!r} here"
            for key in current
            if key not in OPERATIONAL and saved[key] != current[key]
        ]
        if differences:
            raise UserError(
                f"the run directory {workdir} holds a run with another config "
                f"({'; '.join(differences)}): use another directory, or the config of that run to "
                "resume it"
            )
        saved_num_images = read_num_images(workdir)
        if saved_num_images != num_images:
            raise UserError(
                f"the run directory {workdir} holds a run on {saved_num_images} images, but "
                f"'{config.data.source}' has {num_images} now: use another directory, or restore "
                "the images"
            )
        saved_channels = read_channels(workdir)
        if saved_channels != channels:
            raise UserError(
                f"the run directory {workdir} holds a run on images with {saved_channels} "
                f"channels, but those of '{config.data.source}' have {channels} now: use another "
                "directory, or restore the images"
            )
        require_progress_kept(workdir)
    elif tf.io.gfile.exists(workdir) and not tf.io.gfile.isdir(workdir):
        raise UserError(f"the run directory {workdir} is a file: use a directory")


def open_for_training(
    workdir: str, config: ml_collections.ConfigDict, num_images: int, channels: int = 3
) -> None:
    """Create a run directory, or open the directory of the same run to resume it.

    Args:
        workdir: Path of the run directory, local or a `tf.io.gfile` path.
        config: Config of the run.
        num_images: Number of images that the run trains on.
        channels: Number of channels of these images.

    Raises:
        UserError: If the directory cannot be written, or if `require_same_run` refuses it. A
            refused directory is left as it is.
    """
    require_same_run(workdir, config, num_images, channels)
    try:
        tf.io.gfile.makedirs(workdir)
        for name, text in (
            ("data.json", json.dumps({"num_images": num_images, "channels": channels})),
            ("config.json", config.to_json_best_effort(indent=2)),
        ):
            write_atomically(os.path.join(workdir, name), text + "\n")
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"the run directory {workdir} cannot be written ({error_reason(error)}): use a "
            "directory that can be written"
        ) from error


def require_empty(path: str) -> None:
    """Raise a `UserError` unless `path` does not exist or is an empty directory."""
    if tf.io.gfile.exists(path) and (not tf.io.gfile.isdir(path) or tf.io.gfile.listdir(path)):
        raise UserError(f"the run directory {path} is not empty: use another directory")


def read_config(workdir: str) -> ml_collections.ConfigDict:
    """Return the config of a run.

    Settings that did not exist yet when the run was started have their default values.

    Raises:
        UserError: If the directory holds no run, or its config cannot be read.
    """
    path = os.path.join(workdir, "config.json")
    if not tf.io.gfile.exists(workdir):
        raise UserError(f"there is no directory {workdir}, which should be a run directory")
    if not tf.io.gfile.exists(path):
        raise UserError(f"the run directory {workdir} holds no run: it has no config.json")
    with tf.io.gfile.GFile(path) as file:
        text = file.read()
    try:
        values = json.loads(text)
        config = default_config()
        with config.unlocked():
            config.update(ml_collections.ConfigDict(values))
        if set(flatten(config)) != set(flatten(default_config())):
            raise ValueError("it has unknown settings")
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not the config of a run: {error}") from error
    return config


def read_num_images(workdir: str) -> int:
    """Return the number of images that a run trains on."""
    return _read_data(workdir)["num_images"]


def read_channels(workdir: str) -> int:
    """Return the number of channels of a run's images.

    Runs from before the number was recorded have 3.
    """
    return _read_data(workdir).get("channels", 3)


def _read_data(workdir: str) -> dict[str, int]:
    with tf.io.gfile.GFile(os.path.join(workdir, "data.json")) as file:
        return json.loads(file.read())


def checkpoints(workdir: str) -> list[str]:
    """Return the paths of the complete checkpoints, the newest first.

    A checkpoint is complete if its index and all parts of its data are there. TensorFlow's own
    list, the file `checkpoint`, is not used, because it may be lost or damaged.
    """
    paths = []
    for step, names in _checkpoint_files(workdir):
        counts = [int(name[-5:]) for name in names if not name.endswith(".index")]
        if counts and len(counts) == counts[0] and len(names) == counts[0] + 1:
            paths.append(os.path.join(workdir, "checkpoints", f"step-{step}"))
    return paths


def incomplete_checkpoints(workdir: str, after: int) -> list[str]:
    """Return the names of the checkpoints after a step of which only some files are there."""
    complete = {os.path.basename(path) for path in checkpoints(workdir)}
    names = [f"step-{step}" for step, _ in _checkpoint_files(workdir) if step > after]
    return [name for name in names if name not in complete]


def _checkpoint_files(workdir: str) -> list[tuple[int, list[str]]]:
    """Return the steps of all checkpoints with the names of their files, the newest first."""
    directory = os.path.join(workdir, "checkpoints")
    names = tf.io.gfile.listdir(directory) if tf.io.gfile.isdir(directory) else []
    files: dict[int, list[str]] = {}
    for name in names:
        match = re.fullmatch(r"step-(\d+)\.(index|data-\d{5}-of-\d{5})", name)
        if match:
            files.setdefault(int(match[1]), []).append(name)
    return sorted(files.items(), reverse=True)


def latest_checkpoint(workdir: str) -> str | None:
    """Return the path of the newest complete checkpoint, or None if there is none."""
    return next(iter(checkpoints(workdir)), None)


def require_progress_kept(workdir: str) -> None:
    """Raise a `UserError` if a run has saved checkpoints and lost all of them.

    A run that was killed before its first checkpoint passes: it starts again from step 0.

    Args:
        workdir: Path of a run directory with a config.json.

    Raises:
        UserError: If there is no complete checkpoint, and there are files of one, or metrics.jsonl
            goes beyond the step of the first one.
    """
    if checkpoints(workdir):
        return
    directory = os.path.join(workdir, "checkpoints")
    names = tf.io.gfile.listdir(directory) if tf.io.gfile.isdir(directory) else []
    # TensorFlow writes the index of a checkpoint last, and then the file `checkpoint`.
    has_files = any(re.fullmatch(r"checkpoint|step-\d+\.index", name) for name in names)
    last_step = max((line.get("step", 0) for line in read_metrics(workdir)), default=0)
    if has_files or last_step > read_config(workdir).checkpoint_every:
        reason = f", but metrics.jsonl reaches step {last_step}" if last_step else ""
        raise UserError(
            f"the run {workdir} has lost its checkpoints: {directory} holds no complete one"
            f"{reason}. Restore its files from a backup, or start a new run in another directory"
        )


def require_checkpoint(workdir: str) -> str:
    """Return the path of the newest complete checkpoint.

    Raises:
        UserError: If there is none yet.
    """
    path = latest_checkpoint(workdir)
    if path is None:
        raise UserError(f"the run directory {workdir} holds no checkpoint yet: train the run first")
    return path


def read_metrics(workdir: str) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl as dicts; an incomplete line is left out.

    Without a metrics.jsonl the list is empty.
    """
    path = os.path.join(workdir, "metrics.jsonl")
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        lines = file.read().splitlines()
    metrics = []
    for line in lines:
        try:
            metrics.append(json.loads(line))
        except json.JSONDecodeError:  # A kill cut the line short.
            continue
    return metrics


def rewind_metrics(workdir: str, step: int) -> None:
    """Remove the lines of metrics.jsonl after `step`, which a resumed run writes again."""
    kept = [line for line in read_metrics(workdir) if line["step"] <= step]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    write_atomically(os.path.join(workdir, "metrics.jsonl"), text)
