"""The whole model of a run: written as its first checkpoint, or read from its newest one."""

import os
from collections.abc import Callable

import ml_collections
import tensorflow as tf

from moco_tf import run_data, run_directory, run_pixels
from moco_tf.config_checks import check, require_moco
from moco_tf.encoders.names import require_resnet
from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_remedy
from moco_tf.mechanisms.moco import MoCo
from moco_tf.new_paths import new_directory
from moco_tf.training.build import build_data, build_model, restored_globals
from moco_tf.training.checkpoints import Checkpoints


def start_from(
    initialize: Callable[[MoCo], None], config: ml_collections.ConfigDict, workdir: str
) -> tuple[MoCo, int]:
    """Create a run whose first checkpoint holds an imported model.

    Args:
        initialize: Function that sets the weights, the step and the optimizer state of the newly
            built `MoCo`.
        config: Config of the run.
        workdir: Path of the run directory, which must not exist or be empty. If anything fails,
            nothing is left there.

    Returns:
        The model, and the number of steps in an epoch.

    Raises:
        UserError: If a setting is invalid, the data source cannot be read, or the directory is
            not empty or cannot be written.
    """
    check(config)
    require_moco(config)
    require_resnet(config.encoder, "the import of checkpoints of facebookresearch/moco")
    if config.init:
        raise UserError(
            f"config.init={config.init} has no effect, because the run starts from the imported "
            "model: remove it"
        )
    run_directory.require_empty(workdir)
    config = run_pixels.resolve(config)
    source, batches = build_data(config)
    with restored_globals():
        model = build_model(config, batches.steps_per_epoch, source.channels)
    assert isinstance(model, MoCo)
    initialize(model)
    try:
        with new_directory(workdir) as unfinished:
            run_directory.open_for_training(unfinished, config, run_data.of_source(source))
            checkpoints = Checkpoints(model, unfinished, config.checkpoint_every)
            checkpoints.step = int(model.step.numpy())
            checkpoints.save()
    except FileExistsError as error:  # Another process has created a run there in the meantime.
        raise UserError(
            f"the run directory {workdir} is not empty: use another directory"
        ) from error
    except (tf.errors.OpError, OSError) as error:
        remedy = write_remedy(error, os.path.dirname(workdir) or ".")
        raise UserError(
            f"the run directory {workdir} cannot be written ({error_reason(error)}): {remedy}, or "
            "use another directory"
        ) from error
    return model, batches.steps_per_epoch


def load_model(workdir: str) -> tuple[MoCo, int]:
    """Load the whole model of a run of MoCo from its newest checkpoint.

    Args:
        workdir: Path of the run directory.

    Returns:
        The compiled `MoCo`, and the number of steps in an epoch.

    Raises:
        UserError: If there is no run, it is of another mechanism, it has no checkpoint yet, or the
            checkpoint cannot be read.
    """
    config = run_directory.read_config(workdir)
    require_moco(config)
    require_resnet(config.encoder, "the PyTorch export")
    run_directory.require_checkpoint(workdir)
    steps_per_epoch = run_data.read_num_images(workdir) // config.batch_size
    with restored_globals():
        model = build_model(config, steps_per_epoch, run_data.read_channels(workdir))
    assert isinstance(model, MoCo)
    Checkpoints(model, workdir, config.checkpoint_every).restore(workdir)
    return model, steps_per_epoch
