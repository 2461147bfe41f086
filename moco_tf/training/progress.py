"""What a run shows: a bar and a line for every epoch in a terminal, or one line in a notebook."""

import sys
import time
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from moco_tf.notebook import Line, in_notebook
from moco_tf.training.callbacks import GlobalStep
from moco_tf.training.metrics_log import MetricsLog


class Progress(GlobalStep):
    """A progress bar, and a line for every epoch.

    Both show the loss, the contrastive accuracy and the remaining time. The line also states which
    share of the time was spent waiting for data. The bar is only shown in a terminal. A notebook
    shows one line, which is updated in place.

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
        self._line = Line(total) if in_notebook() else None
        self._description = ""
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
        epoch, epochs = (-(-steps // self.steps_per_epoch) for steps in (step, self.total))
        # Only now and then, because reading the results waits for the device.
        if is_end or step % self.refresh_every == 0:
            accuracy = f"loss {logs['loss']:.3f}, contrastive top-1 {logs['contrastive_top1']:.3f}"
            self._description = f"{accuracy}; "
            self._bar.set_description(f"epoch {epoch}/{epochs}", refresh=False)
            self._bar.set_postfix_str(accuracy, refresh=False)
        position = f"epoch {epoch}/{epochs}, step {step}/{self.total}: {self._description}"
        if self._line is not None:
            self._line.show(step, f"{position}{self._time_left(step)} left")
        elif is_end:
            tqdm.write(
                f"{position}waited {self._share_waiting():.0%} of the time for data; "
                f"{self._time_left(step)} left"
            )
            sys.stdout.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def _share_waiting(self) -> float:
        """Return the share of the time since the previous epoch that was spent waiting for data."""
        current = self.log.seconds, self.log.seconds_waiting
        seconds, waiting = np.subtract(current, self._previous_epoch)
        self._previous_epoch = current
        return waiting / max(seconds, 1e-9)

    def _time_left(self, step: int) -> str:
        first_step, start = self._clock_start
        if step == first_step < self.total:
            return "unknown time"
        seconds_per_step = (time.perf_counter() - start) / max(step - first_step, 1)
        return tqdm.format_interval(seconds_per_step * (self.total - step))
