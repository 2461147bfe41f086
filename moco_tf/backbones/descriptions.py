"""The file encoder.json: the description of an encoder that is not one of our ResNets.

It lies in a run directory and in a SavedModel, so that neither needs the .keras file, the preset or
the version of keras.applications that the encoder came from.
"""

import os

import ml_collections
import tensorflow as tf

from moco_tf.encoders import foreign
from moco_tf.encoders.names import is_foreign
from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_atomically, write_remedy

FILE = "encoder.json"


def of_run(workdir: str | None, config: ml_collections.ConfigDict, channels: int) -> str | None:
    """Return the description of the encoder of a run, which may be a new one.

    Args:
        workdir: Path of the run directory, or None without one.
        config: Config of the run.
        channels: Number of channels of its images.

    Returns:
        The description for `moco_tf.encoders.build`; None for one of our ResNets.

    Raises:
        UserError: If there is no such network, it cannot be used, or the file cannot be read.
    """
    if not is_foreign(config.encoder):
        return None
    description = None if workdir is None else read(workdir)
    if description is None:
        description = foreign.describe(config.encoder, channels, config.image_size)
    if config.evaluation_size:
        network, setting = foreign.read(description), "config.evaluation_size"
        foreign.require_image_size(network, config.evaluation_size, config.encoder, setting)
    return description


def read(directory: str) -> str | None:
    """Return the description in a run directory or a SavedModel; None if there is none.

    Raises:
        UserError: If the file cannot be read.
    """
    path = os.path.join(directory, FILE)
    if not tf.io.gfile.exists(path):
        return None
    try:
        with tf.io.gfile.GFile(path) as file:
            return file.read()
    except (tf.errors.OpError, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error_reason(error)}): restore it from a backup"
        ) from error


def write(workdir: str, description: str | None) -> None:
    """Write the description of the encoder of a new run; that of an old run is kept.

    Raises:
        UserError: If the file cannot be written.
    """
    path = os.path.join(workdir, FILE)
    if description is None or tf.io.gfile.exists(path):
        return
    try:
        write_atomically(path, description)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"{path} cannot be written ({error_reason(error)}): {write_remedy(error, workdir)}, or "
            "use another directory"
        ) from error
