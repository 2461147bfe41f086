"""A run directory: the config that made it, its checkpoints and its metrics."""

import json
import os

import ml_collections
import tensorflow as tf

from moco_tf.config import OPERATIONAL, default_config, flatten
from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_atomically


def require_same_run(workdir, config, num_images, channels=3):
    """Looks whether a run in `workdir`, if there is one, is of the same config and data.

    Args:
        workdir: str, local or a `tf.io.gfile` path.
        config: the config of the run to start or to go on with.
        num_images: int, images that it trains on. With other images the same position in the run
            would be another place in the data.
        channels: int, of these images.

    Raises:
        UserError: another config or other data made it, or it is a file.
    """
    if tf.io.gfile.exists(os.path.join(workdir, "config.json")):
        saved, wanted = flatten(read_config(workdir)), flatten(config)
        differing = [
            f"{key} is {saved[key]!r} there and {wanted[key]!r} here"
            for key in wanted
            if key not in OPERATIONAL and saved[key] != wanted[key]
        ]
        if differing:
            raise UserError(
                f"--workdir={workdir} holds a run of another config ({'; '.join(differing)}): give "
                "another directory, or that config to go on with it"
            )
        before = read_num_images(workdir)
        if before != num_images:
            raise UserError(
                f"--workdir={workdir} holds a run on {before} images, and '{config.data.source}' "
                f"has {num_images} now: give another directory, or bring back the images"
            )
        before = read_channels(workdir)
        if before != channels:
            raise UserError(
                f"--workdir={workdir} holds a run on images of {before} channels, and those of "
                f"'{config.data.source}' have {channels} now: give another directory, or bring "
                "back the images"
            )
    elif tf.io.gfile.exists(workdir) and not tf.io.gfile.isdir(workdir):
        raise UserError(f"--workdir={workdir} is a file: give a directory")


def open_for_training(workdir, config, num_images, channels=3):
    """Makes the directory, or takes over that of the same run.

    Args:
        workdir, config, num_images, channels: as for `require_same_run`.

    Raises:
        UserError: it cannot be written, or another config or other data made it; nothing in it is
            touched.
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
            f"--workdir={workdir} cannot be written ({error_reason(error)}): give a directory that can"
        ) from error


def require_empty(path):
    """Raises a `UserError` unless `path` does not exist or is an empty directory."""
    if tf.io.gfile.exists(path) and (not tf.io.gfile.isdir(path) or tf.io.gfile.listdir(path)):
        raise UserError(f"--workdir={path} holds something already: give another directory")


def read_config(workdir):
    """The config that made a run.

    Raises:
        UserError: the directory holds no run, or one whose config cannot be read.
    """
    path = os.path.join(workdir, "config.json")
    if not tf.io.gfile.exists(path):
        raise UserError(f"--workdir={workdir} holds no run: there is no config.json in it")
    with tf.io.gfile.GFile(path) as file:
        text = file.read()
    try:
        values = json.loads(text)
        config = default_config()
        with config.unlocked():
            config.update(ml_collections.ConfigDict(values))
        if set(flatten(config)) != set(flatten(default_config())):
            raise ValueError("it has keys that no config has")
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not the config of a run: {error}") from error
    return config


def read_num_images(workdir):
    """How many images a run trains on, int."""
    return _read_data(workdir)["num_images"]


def read_channels(workdir):
    """How many channels these images have, int; 3 in runs of before there was a choice."""
    return _read_data(workdir).get("channels", 3)


def _read_data(workdir):
    with tf.io.gfile.GFile(os.path.join(workdir, "data.json")) as file:
        return json.loads(file.read())


def latest_checkpoint(workdir):
    """The path of the newest complete checkpoint, or None."""
    return tf.train.latest_checkpoint(os.path.join(workdir, "checkpoints"))


def require_checkpoint(workdir):
    """The path of the newest complete checkpoint.

    Raises:
        UserError: If there is none yet.
    """
    path = latest_checkpoint(workdir)
    if path is None:
        raise UserError(f"the run in {workdir} has no checkpoint yet: train it first")
    return path


def read_metrics(workdir):
    """The lines of metrics.jsonl as dicts, a line cut short by a kill left out."""
    path = os.path.join(workdir, "metrics.jsonl")
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        lines = file.read().splitlines()
    parsed = []
    for line in lines:
        try:
            parsed.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return parsed


def rewind_metrics(workdir, step):
    """Drops the lines of metrics.jsonl past `step`, which a resumed run will write again."""
    kept = [line for line in read_metrics(workdir) if line["step"] <= step]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    write_atomically(os.path.join(workdir, "metrics.jsonl"), text)
