"""Checkpoints of a pre-training run."""

import os
from typing import Any

import tensorflow as tf

from moco_tf import run_directory, workers
from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_atomically, write_remedy
from moco_tf.mechanisms.base import Mechanism
from moco_tf.training.callbacks import GlobalStep
from moco_tf.training.finite import FiniteCheck


class Checkpoints(GlobalStep):
    """Save the model, its dictionary and its optimizer atomically, and keep the newest ones.

    Args:
        model: The compiled model of the run.
        workdir: Run directory to save to.
        every: Number of steps between checkpoints.
        keep: Number of checkpoints to keep.

    Attributes:
        step: Global step of the model, an int.
        finite: The `FiniteCheck` of the model, which nothing is saved without.
        stop_signal: Number of the signal that asked the run to stop, or None. When it is set, the
            run saves and stops after its current step.
    """

    def __init__(self, model: Mechanism, workdir: str, every: int, keep: int = 3) -> None:
        super().__init__(0)
        self.every = every
        self.stop_signal: int | None = None
        # Not `self.model`, which Keras sets when `fit` begins.
        self.saved_model = model
        self.finite = FiniteCheck(model, workdir)
        self.checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        self.directory = os.path.join(workdir, "checkpoints")
        self.keep = keep
        # The checkpoints to go on from, the newest first; newer ones that cannot be read are left
        # out, so that they do not count among those that are kept.
        self.restored: list[str] = []
        # Made at the first save, when TensorFlow's list of checkpoints, which may be lost or
        # damaged, is written.
        self.manager: tf.train.CheckpointManager | None = None

    def restore(self, workdir: str) -> int:
        """Restore the newest checkpoint of a run that can be used, if the run has one.

        A checkpoint that cannot be read is passed over, and so is one with weights that are not
        finite.

        Args:
            workdir: Run directory to restore from.

        Returns:
            The global step of the model afterwards.

        Raises:
            UserError: If there are checkpoints, but none of them can be used.
        """
        paths = run_directory.checkpoints(workdir)
        reasons = []
        for path in paths:
            try:
                self.checkpoint.restore(path).assert_consumed()
            except run_directory.RESTORE_ERRORS as error:
                if workers.worker_is_gone(error):
                    raise
                reasons.append(f"{os.path.basename(path)}: {error_reason(error)}")
                continue
            if not_finite := self.finite.first_not_finite():
                reasons.append(f"{os.path.basename(path)}: {not_finite}")
                continue
            step = int(self.saved_model.step.numpy())
            reasons += [
                f"{name}: files are missing"
                for name in run_directory.incomplete_checkpoints(workdir, step)
            ]
            if reasons and workers.is_chief():
                print(
                    f"continuing from the checkpoint of step {step}, because newer ones in "
                    f"{os.path.dirname(path)} cannot be used ({'; '.join(reasons)})"
                )
            if os.path.dirname(path) == self.directory:
                self.restored = paths[paths.index(path) :]
            break
        else:
            if reasons:
                raise UserError(
                    f"no checkpoint of the run {workdir} can be used ({'; '.join(reasons)}): "
                    f"restore {os.path.join(workdir, 'checkpoints')} from a backup, or start a new "
                    "run in another directory"
                )
        self.step = int(self.saved_model.step.numpy())
        return self.step

    def on_step(self, step: int, logs: dict[str, Any] | None) -> None:
        """Save every `every` steps, and if a signal asked the run to stop."""
        # A signal may reach one worker after this step and another worker after the next one.
        stop = max(workers.gather_from_workers(self.stop_signal or 0))
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
            UserError: If the training has diverged, or the checkpoint cannot be written. Those of
                earlier steps are kept.
        """
        self.finite.require(self.step)
        path = self.restored[0] if self.restored else ""
        try:
            if self.manager is None:
                self.manager = self._make_manager()
            path = self.manager.latest_checkpoint or ""
            if not path.endswith(f"step-{self.step}"):
                self.manager.save(checkpoint_number=self.step)
        except (tf.errors.OpError, OSError) as error:
            if workers.worker_is_gone(error):
                raise
            remedy = write_remedy(error, os.path.dirname(self.directory))
            raise UserError(
                f"the checkpoint of step {self.step} cannot be written to "
                f"{self.directory} ({error_reason(error)}): {remedy}; the run "
                f"resumes from {path or 'its start'}"
            ) from error

    def _make_manager(self) -> tf.train.CheckpointManager:
        if self.restored:
            # TensorFlow's list of the checkpoints that rotation counts, the oldest first.
            names = [os.path.basename(path) for path in self.restored]
            lines = [f'model_checkpoint_path: "{names[0]}"']
            lines += [f'all_model_checkpoint_paths: "{name}"' for name in reversed(names)]
            # Rotation only counts checkpoints that are later than this one.
            lines += [f"all_model_checkpoint_timestamps: {i + 1}.0" for i in range(len(names))]
            lines += ["last_preserved_timestamp: 0.0"]
            write_atomically(os.path.join(self.directory, "checkpoint"), "\n".join(lines) + "\n")
        return tf.train.CheckpointManager(
            self.checkpoint, self.directory, max_to_keep=self.keep, checkpoint_name="step"
        )
