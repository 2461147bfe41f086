"""The log of a run: metrics.jsonl, and the same values for TensorBoard."""

import json
import math
import os
import time
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from moco_tf.config import chance_loss, total_steps
from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_remedy
from moco_tf.training.accessory import Accessory
from moco_tf.training.callbacks import GlobalStep
from moco_tf.training.finite import FiniteCheck


class MetricsLog(GlobalStep):
    """Writes the means since the previous line to metrics.jsonl and to TensorBoard.

    Args:
        workdir: Run directory.
        start: Global step that the run starts from.
        config: Config of the run.
        steps_per_epoch: Number of steps in an epoch.
        finite: The `FiniteCheck` that the loss and the weights pass before a line is written.

    Attributes:
        tensorboard: The `Accessory` of everything that is written for TensorBoard.
        summaries: Summary writer of `workdir/tensorboard`.
        seconds: Seconds that the steps so far took, including the time waiting for data. It
            excludes the first step, which compiles the training step, and the time between steps.
        seconds_waiting: The part of `seconds` that was spent waiting for data.
    """

    def __init__(
        self,
        workdir: str,
        start: int,
        config: ml_collections.ConfigDict,
        steps_per_epoch: int,
        finite: FiniteCheck,
    ) -> None:
        super().__init__(start)
        self.config = config
        self.finite = finite
        self.steps_per_epoch = steps_per_epoch
        self.total = total_steps(config, steps_per_epoch)
        self.path = os.path.join(workdir, "metrics.jsonl")
        self.tensorboard = Accessory("files for TensorBoard")
        self.summaries = tf.summary.create_noop_writer()
        with self.tensorboard.may_fail():
            self.summaries = tf.summary.create_file_writer(os.path.join(workdir, "tensorboard"))
        self.start = start
        self.steps, self.seconds, self.seconds_waiting = 0, 0.0, 0.0
        self._previous_line = (0, 0.0, 0.0)  # Steps and seconds when the previous line was written.
        self._step_start = (0.0, 0.0)  # Clock and seconds waiting before the current step.

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock of the step."""
        self._step_start = time.perf_counter(), self.model.seconds_waiting

    def on_step(self, step: int, logs: dict[str, Any]) -> None:
        """Write a line every `log_every` steps and at the end of an epoch.

        Raises:
            UserError: If the training has diverged, or the line cannot be written.
        """
        is_end = step % self.steps_per_epoch == 0 or step == self.total
        is_due = is_end or step % self.config.log_every == 0
        if is_due:
            # Keras reports means since the last reset.
            values = {name: float(value) for name, value in logs.items()}
            self.model.reset_metrics()
            self.finite.require(step, values["loss"])
        elif step == self.start + 1 or step % self.config.checkpoint_every == 0:
            # The clock waits for the device here. Saving would wait for it outside of `seconds`.
            float(logs["loss"])
        if is_due or step > self.start + 1:
            start, waiting_before = self._step_start
            self.steps += 1
            self.seconds += time.perf_counter() - start
            self.seconds_waiting += self.model.seconds_waiting - waiting_before
        if is_due:
            current = self.steps, self.seconds, self.seconds_waiting
            steps, seconds, waiting = np.subtract(current, self._previous_line)
            self._previous_line = current
            values["images_per_second"] = float(steps * self.config.batch_size / seconds)
            values["waiting_for_data"] = round(float(waiting / seconds), 4)
            self.write(step, values)
            with self.tensorboard.may_fail(), self.summaries.as_default(step):
                tf.summary.scalar("chance_loss", chance_loss(self.config))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Flush the summaries."""
        with self.tensorboard.may_fail():
            self.summaries.flush()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append a line to metrics.jsonl and write its values to TensorBoard.

        Args:
            step: Global step.
            values: The values by name. NaN and infinity, which JSON does not have, become null.

        Raises:
            UserError: If the line cannot be written.
        """
        in_json = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = {"step": step, "epoch": round(step / self.steps_per_epoch, 4), **in_json}
        try:
            with tf.io.gfile.GFile(self.path, "a") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except (tf.errors.OpError, OSError) as error:
            remedy = write_remedy(error, os.path.dirname(self.path))
            raise UserError(
                f"{self.path} cannot be written at step {step} ({error_reason(error)}): {remedy} "
                "and run the same command again"
            ) from error
        with self.tensorboard.may_fail(), self.summaries.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
