"""The settings of a run's pixel values that are measured on its images."""

import ml_collections

from moco_tf import run_directory
from moco_tf.data import measure, sources
from moco_tf.data.pixels import AUTO, IMAGENET, number_text, range_text, unmeasured
from moco_tf.errors import UserError


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
        UserError: If the images cannot be read or measured, or the run there was started with a
            word, so that its value has not been measured.
    """
    names = unmeasured(config)
    if not names:
        return config
    resolved = config.copy_and_resolve_references()
    if workdir is not None and run_directory.exists(workdir):
        saved = run_directory.read_config(workdir)
        for name in names:
            if saved.data[name] in (AUTO, IMAGENET):
                raise UserError(
                    f"the run directory {workdir} holds a run with another config (data.{name} is "
                    f"{saved.data[name]!r} there and {config.data[name]!r} here): use another "
                    "directory, or the config of that run to resume it"
                )
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
