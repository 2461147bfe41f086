"""The run directory: the config of a run, its checkpoints and its metrics."""

import contextlib
import os
import re

import ml_collections
import tensorflow as tf

from moco_tf import run_data
from moco_tf.config import OPERATIONAL, default_config, flatten, resolve
from moco_tf.config_checks import check
from moco_tf.config_files import PATH_SETTINGS
from moco_tf.errors import UserError
from moco_tf.files import (
    error_reason,
    read_json,
    remove,
    require_no_pattern,
    write_atomically,
    write_remedy,
)
from moco_tf.names import printable
from moco_tf.paths import VARIABLE
from moco_tf.run_data import RunData
from moco_tf.run_metrics import read_metrics

# What only a run writes, besides its checkpoints and its metrics.
REMAINS = re.compile(r"encoder\.json|best|best-step-\d+")
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


def require_same_run(workdir: str, config: ml_collections.ConfigDict, data: RunData) -> None:
    """Raise a `UserError` if `workdir` holds a run with another config or other data.

    A directory without a run passes, and so does a path where nothing exists.

    Args:
        workdir: Path of the run directory, local or a `tf.io.gfile` path.
        config: Config of the run to start or to resume.
        data: Its images.

    Raises:
        UserError: If the run there has another config or other images, if it has lost its config or
            its checkpoints, if a file of it is damaged, or if `workdir` is a file or has characters
            of a pattern in its path.
    """
    require_no_pattern(workdir)
    if exists(workdir):
        saved, current = resolve(read_config(workdir)), resolve(config)
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
        run_data.require_same(workdir, data, config.data.source)
        require_progress_kept(workdir)
        read_metrics(workdir)
    else:
        require_no_remains(workdir)


def step_of(checkpoint: str) -> int:
    """Return the step of a checkpoint.

    Args:
        checkpoint: Its path or name.

    Example:
        >>> step_of("runs/mine/checkpoints/step-4032")
        4032
    """
    return int(checkpoint.rpartition("-")[2])


def exists(workdir: str) -> bool:
    """Return whether a directory holds a run."""
    return tf.io.gfile.exists(os.path.join(workdir, "config.json"))


def require_no_remains(workdir: str) -> None:
    """Raise a `UserError` if a directory without a config.json cannot become that of a new run.

    Args:
        workdir: Path of the directory, which does not have to exist.

    Raises:
        UserError: If it is a file, holds what is left of a run, or has a data.json of something
            else.
    """
    if tf.io.gfile.exists(workdir) and not tf.io.gfile.isdir(workdir):
        raise UserError(f"the run directory {workdir} is a file: use a directory")
    names = tf.io.gfile.listdir(workdir) if tf.io.gfile.isdir(workdir) else []
    remains = any(REMAINS.fullmatch(name.rstrip("/")) for name in names)
    if remains or _checkpoint_files(workdir) or read_metrics(workdir):
        raise UserError(
            f"the run directory {workdir} holds a run without its config.json: restore that file "
            "from a backup, or use another directory"
        )
    run_data.require_no_other_file(workdir)


def open_for_training(workdir: str, config: ml_collections.ConfigDict, data: RunData) -> None:
    """Create a run directory, or open the directory of the same run to resume it.

    Args:
        workdir: Path of the run directory, local or a `tf.io.gfile` path.
        config: Config of the run.
        data: Its images.

    Raises:
        UserError: If the directory cannot be written, or if `require_same_run` refuses it. A
            refused directory is left as it is.
    """
    require_same_run(workdir, config, data)
    try:
        tf.io.gfile.makedirs(workdir)
        run_data.write(workdir, data)
        text = config.to_json_best_effort(indent=2)
        write_atomically(os.path.join(workdir, "config.json"), text + "\n")
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"the run directory {workdir} cannot be written ({error_reason(error)}): "
            f"{write_remedy(error, workdir)}, or use another directory"
        ) from error
    _remove_leftovers(workdir)


def require_empty(path: str) -> None:
    """Raise a `UserError` unless `path` does not exist or is an empty directory."""
    if tf.io.gfile.exists(path) and (not tf.io.gfile.isdir(path) or tf.io.gfile.listdir(path)):
        raise UserError(f"the run directory {path} is not empty: use another directory")


def read_config(workdir: str) -> ml_collections.ConfigDict:
    """Return the config of a run.

    Settings that did not exist yet when the run was started have their default values. Images that
    are kept in the run directory are found there if it was moved.

    Raises:
        UserError: If the directory holds no run, or its config cannot be read.
    """
    path = os.path.join(workdir, "config.json")
    if not tf.io.gfile.exists(workdir):
        raise UserError(f"there is no directory {workdir}, which should be a run directory")
    if not tf.io.gfile.exists(path):
        raise UserError(f"the run directory {workdir} holds no run: it has no config.json")
    values = read_json(path)
    try:
        config = default_config()
        with config.unlocked():
            config.update(ml_collections.ConfigDict(values))
            config.data.source = run_data.source_in(workdir, config.data.source)
        if unknown := sorted(set(flatten(config)) - set(flatten(default_config()))):
            raise ValueError(f"there is no setting {unknown[0]}")
        check(config)
    except (AttributeError, TypeError, ValueError, UserError) as error:
        raise UserError(
            f"{path} is not the config of a run ({error_reason(error)}): restore it from a backup"
        ) from error
    _require_no_variables(config, path)
    return config


def _require_no_variables(config: ml_collections.ConfigDict, path: str) -> None:
    """Raise a `UserError` if reading the images or weights would expand environment variables.

    The config of a run holds expanded paths. A config that somebody else wrote could send a
    password in a variable to a machine of theirs. A name with `$` that is not a variable may be
    that of a file that was moved.

    Args:
        config: The config.
        path: Path of its file, for the message.
    """
    for key, expand_setting in PATH_SETTINGS.items():
        written = flatten(config)[key]
        expanded = written
        if VARIABLE.search(written):
            with contextlib.suppress(UserError):
                expanded = expand_setting(written, key)
        if expanded != written:
            raise UserError(
                f"{path}: {key}={printable(written)} has an environment variable, which is not "
                "replaced in the config of a run: write its value there"
            )


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
        UserError: If there is none yet, or the path has characters of a pattern.
    """
    require_no_pattern(workdir)
    path = latest_checkpoint(workdir)
    if path is None:
        raise UserError(f"the run directory {workdir} holds no checkpoint yet: train the run first")
    return path


def _remove_leftovers(workdir: str) -> None:
    """Remove the temporary files of a process that was killed while it wrote them.

    Only names that this package or TensorFlow gives are removed, because people keep other files in
    a run directory as well. An evaluation may be writing its own files at the moment.
    """
    temporary = (
        r"(config\.json|encoder\.json|data\.json|data_files\.gz|metrics\.jsonl|lock\.json|"
        r"images\.(npy|labels\.npy|txt))\.[0-9a-f]{8}\.tmp"
    )
    for directory, pattern in (
        (workdir, temporary),
        (os.path.join(workdir, "checkpoints"), r"step-\d+_temp/?|checkpoint\.(tmp\w+|\w{8}\.tmp)"),
        (os.path.join(workdir, "tensorboard"), r"[\w.]+\.[0-9a-f]{8}\.tmp"),
    ):
        names = tf.io.gfile.listdir(directory) if tf.io.gfile.isdir(directory) else []
        for name in names:
            if re.fullmatch(pattern, name):
                path = os.path.join(directory, name.rstrip("/"))
                # Whatever cannot be removed now does no harm.
                with contextlib.suppress(tf.errors.OpError, OSError):
                    remove(path)
