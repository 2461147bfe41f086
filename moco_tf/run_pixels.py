"""The settings of a run's pixel values that are measured on its images."""

import os

import ml_collections
import tensorflow as tf

from moco_tf import run_directory
from moco_tf.data import measure, sources
from moco_tf.data.pixels import number_text, range_text, unmeasured


def resolve(
    config: ml_collections.ConfigDict, workdir: str | None = None
) -> ml_collections.ConfigDict:
    """Return the config of a run with numbers for the settings whose value is "measure".

    Args:
        config: Config of the run to start or to resume.
        workdir: Path of the run directory, or None without one. If it holds a run, the numbers are
            those of the run.

    Returns:
        The config; itself if nothing has to be measured.

    Raises:
        UserError: If the images cannot be read or measured.
    """
    names = unmeasured(config)
    if not names:
        return config
    resolved = config.copy_and_resolve_references()
    if workdir is not None and tf.io.gfile.exists(os.path.join(workdir, "config.json")):
        saved = run_directory.read_config(workdir)
        for name in names:
            resolved.data[name] = saved.data[name]
        return resolved
    source = sources.from_config(config)
    if "value_range" in names:
        resolved.data.value_range = range_text(source).replace(" ", "")
    if {"mean", "std"} & set(names):
        for name, numbers in zip(("mean", "std"), measure.mean_and_std(source), strict=True):
            if name in names:
                resolved.data[name] = ",".join(map(number_text, numbers))
    return resolved
