"""Failures of a run that are reported in one line: memory that runs out, and images that vanish."""

import contextlib
from collections.abc import Iterator

import ml_collections
import tensorflow as tf

from moco_tf import workers
from moco_tf.data.pipeline import first_readable
from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError
from moco_tf.files import error_reason
from moco_tf.training.checkpoints import Checkpoints


@contextlib.contextmanager
def memory_may_run_out(config: ml_collections.ConfigDict) -> Iterator[None]:
    """Raise a `UserError` if the block takes more memory than there is."""
    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise UserError(
            f"out of memory ({error_reason(error)[:200]}): set smaller values of config.batch_size="
            f"{config.batch_size}, image_size={config.image_size}, queue_size={config.queue_size} "
            f"or dim={config.dim}, or a smaller config.encoder={config.encoder}"
        ) from error


@contextlib.contextmanager
def data_may_vanish(source: Source, checkpoints: Checkpoints) -> Iterator[None]:
    """Save the run and raise a `UserError` if all images have become unreadable in the block."""
    try:
        yield
    except tf.errors.OpError as error:
        if workers.worker_is_gone(error):
            raise
        try:
            first_readable(source)
        except UserError:
            saved = "the newest checkpoint"
            if not workers.several_workers():  # The others cannot save this step.
                checkpoints.save()
                saved = f"step {checkpoints.step}, which is saved"
            raise UserError(
                f"no image of '{source.name}' can be read any more: restore the images and run the "
                f"same command again, which resumes from {saved}"
            ) from error
        raise


def require_end(checkpoints: Checkpoints, total: int) -> None:
    """Raise a `UserError` unless a run has trained to its last step, or a signal stopped it.

    Keras takes TensorFlow's OutOfRangeError for the end of the data, whichever operation raised it,
    and ends the training without an error.

    Args:
        checkpoints: The run's `Checkpoints`.
        total: Number of steps of the whole run.
    """
    if checkpoints.step < total and checkpoints.stop_signal is None:
        raise UserError(
            f"the training ended early, because TensorFlow reported the end of the data at step "
            f"{checkpoints.step} of {total}: that step is saved, so run the same command again to "
            "resume"
        )
