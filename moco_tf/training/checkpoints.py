"""Checkpoints of a pre-training run."""

import os
from typing import Any

import tensorflow as tf

from moco_tf import distribution, run_directory
from moco_tf.errors import UserError
from moco_tf.mechanisms.base import Mechanism
from moco_tf.training.callbacks import GlobalStep


class Checkpoints(GlobalStep):
    """Save the model, its dictionary and its optimizer atomically, and keep the newest ones.

    Args:
        model: The compiled model of the run.
        workdir: Run directory to save to.
        every: Number of steps between checkpoints.
        keep: Number of checkpoints to keep.

    Attributes:
        step: Global step of the model, an int.
        stop_signal: Number of the signal that asked the run to stop, or None. When it is set, the
            run saves and stops after its current step.
    """

    def __init__(self, model: Mechanism, workdir: str, every: int, keep: int = 3) -> None:
        super().__init__(0)
        self.every = every
        self.stop_signal: int | None = None
        # Not `self.model`, which Keras sets when `fit` begins.
        self.saved_model = model
        self.manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model, optimizer=model.optimizer),
            os.path.join(workdir, "checkpoints"),
            max_to_keep=keep,
            checkpoint_name="step",
        )

    def restore(self, workdir: str) -> int:
        """Restore the newest checkpoint of a run, if there is one.

        Args:
            workdir: Run directory to restore from.

        Returns:
            The global step of the model afterwards.

        Raises:
            UserError: If the checkpoint cannot be read.
        """
        path = run_directory.latest_checkpoint(workdir)
        if path:
            try:
                self.manager.checkpoint.restore(path).assert_consumed()
            except (tf.errors.OpError, AssertionError, ValueError) as error:
                if distribution.worker_is_gone(error):
                    raise
                reason = str(error).strip().splitlines()[0]
                raise UserError(
                    f"the checkpoint {path} cannot be read ({reason}): move it away, or use "
                    "another run directory"
                ) from error
        self.step = int(self.saved_model.step.numpy())
        return self.step

    def on_step(self, step: int, logs: dict[str, Any] | None) -> None:
        """Save every `every` steps, and if a signal asked the run to stop."""
        # A signal may reach one worker after this step and another worker after the next one.
        stop = max(distribution.gather_from_workers(self.stop_signal or 0))
        if stop:
            self.stop_signal = stop
            self.model.stop_training = True
        if stop or step % self.every == 0:
            self.save()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Save the last step."""
        self.save()

    def save(self) -> None:
        """Save a checkpoint of the current step unless there is one.

        Raises:
            UserError: If it cannot be written.
        """
        path = self.manager.latest_checkpoint or ""
        if path.endswith(f"step-{self.step}"):
            return
        try:
            self.manager.save(checkpoint_number=self.step)
        except tf.errors.OpError as error:
            if distribution.worker_is_gone(error):
                raise
            raise UserError(
                f"the checkpoint of step {self.step} cannot be written to "
                f"{self.manager.directory} ({error.message}): free some space there; the run "
                f"resumes from {path or 'its start'}"
            ) from error
