"""What happens beside the training steps: log, save, show.

Every callback counts global steps, so that it does the same whether or not the run was stopped in
between.
"""

import json
import os
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from moco_tf.config import chance_loss, total_steps
from moco_tf.errors import UserError


class GlobalStep(keras.callbacks.Callback):
    """Counts steps from `start` on and calls `on_step(step, logs)` after each."""

    def __init__(self, start):
        super().__init__()
        self.step = start

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        self.on_step(self.step, logs)


class MetricsLog(GlobalStep):
    """Writes metrics.jsonl and TensorBoard's scalars: the means since the line before.

    Attributes:
        seconds: float, that the steps so far took, waiting for data included; what comes between
            steps and the first one, which is spent compiling, are left out.
        seconds_waiting: float, of those, spent on waiting for data.
    """

    def __init__(self, workdir, start, config, steps_per_epoch):
        super().__init__(start)
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.total = total_steps(config, steps_per_epoch)
        self.path = os.path.join(workdir, "metrics.jsonl")
        self.summaries = tf.summary.create_file_writer(os.path.join(workdir, "tensorboard"))
        self.start = start
        self.steps, self.seconds, self.seconds_waiting = 0, 0.0, 0.0
        self.line_before = (0, 0.0, 0.0)  # of these, when it was written

    def on_train_batch_begin(self, batch, logs=None):
        self.began = time.perf_counter(), self.model.seconds_waiting

    def on_step(self, step, logs):
        ends = step % self.steps_per_epoch == 0 or step == self.total
        writes = ends or step % self.config.log_every == 0
        if writes:
            # The epoch's running means so far, of which the model now forgets.
            values = {name: float(value) for name, value in logs.items()}
            self.model.reset_metrics()
        if writes or step > self.start + 1:
            self.steps += 1
            self.seconds += time.perf_counter() - self.began[0]
            self.seconds_waiting += self.model.seconds_waiting - self.began[1]
        if writes:
            now = self.steps, self.seconds, self.seconds_waiting
            steps, seconds, waiting = np.subtract(now, self.line_before)
            self.line_before = now
            values["images_per_second"] = float(steps * self.config.batch_size / seconds)
            values["waiting_for_data"] = round(float(waiting / seconds), 4)
            self.write(step, values)
            with self.summaries.as_default(step):
                tf.summary.scalar("chance_loss", chance_loss(self.config))

    def on_train_end(self, logs=None):
        self.summaries.flush()

    def write(self, step, values):
        """Appends a line of `values`, `{name: number}`, and their scalars."""
        line = {"step": step, "epoch": round(step / self.steps_per_epoch, 4), **values}
        with tf.io.gfile.GFile(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        with self.summaries.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)


class UnreadableImages(GlobalStep):
    """Counts and names, at the end of an epoch or run, the images that could not be read."""

    def __init__(self, batches, start, fail):
        super().__init__(start)
        self.batches = batches
        self.fail = fail
        self.told = set()

    def on_step(self, step, logs):
        source = self.batches.source
        if self.fail and self.batches.unreadable:
            name = source.describe(min(self.batches.unreadable))
            raise UserError(
                f"{name} cannot be read as an image: remove it, or set --config.data.on_error=skip"
            )
        if step % self.batches.steps_per_epoch == 0:
            self.tell()

    def on_train_end(self, logs=None):
        self.tell()

    def tell(self):
        source = self.batches.source
        unreadable = [source.describe(i) for i in sorted(self.batches.unreadable)]
        skipped = set(unreadable + source.ignored)
        if skipped - self.told:
            self.told |= skipped
            names = sorted(skipped)
            shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            tqdm.write(f"skipped {len(names)} files that cannot be read as images: {shown}")


class StopAt(GlobalStep):
    """Ends the run after its last step, which may lie in the midst of an epoch."""

    def __init__(self, start, total):
        super().__init__(start)
        self.total = total

    def on_step(self, step, logs):
        if step == self.total:
            self.model.stop_training = True


class Progress(GlobalStep):
    """A progress bar with loss, contrastive accuracy and time left, and for each epoch a line that
    also says where the time went."""

    def __init__(self, log, start, total, steps_per_epoch, refresh_every):
        super().__init__(start)
        self.log = log
        self.epoch_before = (0.0, 0.0)
        self.total = total
        self.steps_per_epoch = steps_per_epoch
        self.refresh_every = refresh_every
        self.bar = None
        self.clock = None

    def on_step(self, step, logs):
        if self.bar is None:
            # The first step is spent compiling: a clock that starts after it is honest.
            self.clock = (step, time.perf_counter())
            self.bar = tqdm(
                total=self.total,
                initial=step,
                unit="step",
                disable=not sys.stderr.isatty(),
                dynamic_ncols=True,
                smoothing=0.05,
            )
        else:
            self.bar.update(1)
        epoch_ends = step % self.steps_per_epoch == 0 or step == self.total
        if not (epoch_ends or step % self.refresh_every == 0):
            return
        words = f"loss {logs['loss']:.3f}, contrastive top-1 {logs['contrastive_top1']:.3f}"
        epoch, epochs = (-(-n // self.steps_per_epoch) for n in (step, self.total))
        epoch = f"epoch {epoch}/{epochs}"
        self.bar.set_description(epoch, refresh=False)
        self.bar.set_postfix_str(words, refresh=False)
        if epoch_ends:
            first, since = self.clock
            pace = (time.perf_counter() - since) / max(step - first, 1)
            left = tqdm.format_interval(pace * (self.total - step))
            now = self.log.seconds, self.log.seconds_waiting
            seconds, waiting = np.subtract(now, self.epoch_before)
            self.epoch_before = now
            share = f"waited {waiting / max(seconds, 1e-9):.0%} of the time for data"
            tqdm.write(f"{epoch}, step {step}/{self.total}: {words}; {share}; {left} left")
            sys.stdout.flush()

    def on_train_end(self, logs=None):
        if self.bar is not None and self.step == self.total:
            self.bar.close()
