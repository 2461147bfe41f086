"""Keras callbacks that log the training, report its progress and end it.

All callbacks count global steps, so that a resumed run behaves like an uninterrupted one.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import keras
import ml_collections
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from moco_tf import distribution
from moco_tf.config import chance_loss, total_steps
from moco_tf.data.pipeline import TwoViews
from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_remedy
from moco_tf.training.finite import FiniteCheck

MAX_NAMES = 10  # Number of unreadable files that are named in a message.


class GlobalStep(keras.callbacks.Callback):
    """A callback that counts global steps and calls `on_step(step, logs)` after each.

    Args:
        start: Global step that the run starts from.

    Attributes:
        step: Number of steps so far.
    """

    def __init__(self, start: int) -> None:
        super().__init__()
        self.step = start

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the step."""
        self.step += 1
        self.on_step(self.step, logs or {})

    def on_step(self, step: int, logs: dict[str, Any]) -> None:
        """Handle the end of a step.

        Args:
            step: Global step, counted from 1.
            logs: The results of `train_step`.
        """
        raise NotImplementedError


class Accessory:
    """A part of a run that it can do without, such as its plots: a failure is reported once.

    Args:
        what: What the run goes on without, such as "curves.png".
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.has_failed = False

    @contextlib.contextmanager
    def may_fail(self) -> Iterator[None]:
        """Run the block, and warn if it raises an exception for the first time."""
        try:
            yield
        except Exception as error:
            if distribution.worker_is_gone(error):
                raise
            if not self.has_failed:
                tqdm.write(f"warning: the run goes on without {self.what}: {error_reason(error)}")
            self.has_failed = True


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
                "and run the same command again, which resumes from the newest checkpoint"
            ) from error
        with self.tensorboard.may_fail(), self.summaries.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)


class UnreadableImages(GlobalStep):
    """Counts and names the images that could not be read, at the end of every epoch.

    Args:
        batches: Batches of the run.
        start: Global step that the run starts from.
        fail: Whether to raise a `UserError` after the first such image.
    """

    def __init__(self, batches: TwoViews, start: int, fail: bool) -> None:
        super().__init__(start)
        self.batches = batches
        self.fail = fail
        self._reported: set[str] = set()

    def on_step(self, step: int, logs: dict[str, Any]) -> None:
        """Report at the end of an epoch.

        Raises:
            UserError: If `fail` is set and an image could not be read.
        """
        if self.fail and self.batches.unreadable:
            name = self.batches.source.describe(min(self.batches.unreadable))
            raise UserError(
                f"{name} cannot be read as an image: remove it, or set config.data.on_error='skip'"
            )
        if step % self.batches.steps_per_epoch == 0:
            self.report()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Report at the end of the run."""
        self.report()

    def report(self) -> None:
        """Print the number of skipped files and some of their names, if there are new ones."""
        source = self.batches.source
        unreadable = [source.describe(index) for index in sorted(self.batches.unreadable)]
        skipped = set(unreadable + source.ignored)
        if skipped - self._reported:
            self._reported |= skipped
            names = sorted(skipped)
            more = ", ..." if len(names) > MAX_NAMES else ""
            files = "file" if len(names) == 1 else "files"
            tqdm.write(
                f"skipped {len(names)} {files} that cannot be read as images: "
                f"{', '.join(names[:MAX_NAMES])}{more}"
            )


class StopAt(GlobalStep):
    """Ends the run after its last step, which can be in the middle of an epoch.

    Args:
        start: Global step that the run starts from.
        total: Number of steps of the whole run.
    """

    def __init__(self, start: int, total: int) -> None:
        super().__init__(start)
        self.total = total

    def on_step(self, step: int, logs: dict[str, Any]) -> None:
        """Stop at the last step."""
        if step == self.total:
            self.model.stop_training = True


class Progress(GlobalStep):
    """A progress bar, and a line for every epoch.

    Both show the loss, the contrastive accuracy and the remaining time. The line also states which
    share of the time was spent waiting for data. The bar is only shown in a terminal.

    Args:
        log: The run's `MetricsLog`, which comes before this callback.
        start: Global step that the run starts from.
        total: Number of steps of the whole run.
        steps_per_epoch: Number of steps in an epoch.
        refresh_every: Number of steps between updates of the loss.
    """

    def __init__(
        self, log: MetricsLog, start: int, total: int, steps_per_epoch: int, refresh_every: int
    ) -> None:
        super().__init__(start)
        self.log = log
        self.total = total
        self.steps_per_epoch = steps_per_epoch
        self.refresh_every = refresh_every
        self._bar: tqdm | None = None
        self._clock_start = (0, 0.0)  # Step and clock after the first step.
        self._previous_epoch = (0.0, 0.0)  # Seconds and seconds waiting at its end.

    def on_step(self, step: int, logs: dict[str, Any]) -> None:
        """Update the bar, and print a line at the end of an epoch."""
        if self._bar is None:
            # The first step compiles the training step, so the pace is measured after it.
            self._clock_start = step, time.perf_counter()
            self._bar = tqdm(
                total=self.total,
                initial=step,
                unit="step",
                disable=not sys.stderr.isatty(),
                dynamic_ncols=True,
                smoothing=0.05,
            )
        else:
            self._bar.update(1)
        is_end = step % self.steps_per_epoch == 0 or step == self.total
        if not (is_end or step % self.refresh_every == 0):
            return
        accuracy = f"loss {logs['loss']:.3f}, contrastive top-1 {logs['contrastive_top1']:.3f}"
        epoch, epochs = (-(-steps // self.steps_per_epoch) for steps in (step, self.total))
        self._bar.set_description(f"epoch {epoch}/{epochs}", refresh=False)
        self._bar.set_postfix_str(accuracy, refresh=False)
        if is_end:
            tqdm.write(
                f"epoch {epoch}/{epochs}, step {step}/{self.total}: {accuracy}; "
                f"waited {self._share_waiting():.0%} of the time for data; "
                f"{self._time_left(step)} left"
            )
            sys.stdout.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the bar at the end of the run."""
        if self._bar is not None and self.step == self.total:
            self._bar.close()

    def _share_waiting(self) -> float:
        """Return the share of the time since the previous epoch that was spent waiting for data."""
        current = self.log.seconds, self.log.seconds_waiting
        seconds, waiting = np.subtract(current, self._previous_epoch)
        self._previous_epoch = current
        return waiting / max(seconds, 1e-9)

    def _time_left(self, step: int) -> str:
        first_step, start = self._clock_start
        seconds_per_step = (time.perf_counter() - start) / max(step - first_step, 1)
        return tqdm.format_interval(seconds_per_step * (self.total - step))
