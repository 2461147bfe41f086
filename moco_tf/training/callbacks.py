"""Keras callbacks that count global steps, name unreadable images and end the training.

All callbacks count global steps, so that a resumed run behaves like an uninterrupted one.
"""

import os
from typing import Any

import keras
from tqdm.auto import tqdm

from moco_tf import workers
from moco_tf.data import unreadable
from moco_tf.data.pipeline import TwoViews
from moco_tf.training.accessory import Accessory


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
            logs: The results of `train_step`, scalar tensors. Reading one waits for the device.
        """
        raise NotImplementedError


class Callbacks(keras.callbacks.CallbackList):
    """Callbacks that get the results of a step as tensors.

    The list that `fit` makes converts the results of every step to numbers, for which the host
    waits for the device. With these callbacks it waits only when one of them reads a result, so
    the next step is prepared while the device computes.
    """

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Pass the results on."""
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)


class UnreadableImages(GlobalStep):
    """Counts and names the images that could not be read, at the end of every epoch.

    All their names go to unreadable_images.txt in the run directory. With several workers, each
    reads a part of the images, and the others than the chief write a file of their own beside it.

    Args:
        batches: Batches of the run.
        start: Global step that the run starts from.
        fail: Whether to raise a `UserError` after the first such image.
        workdir: Run directory.
    """

    def __init__(self, batches: TwoViews, start: int, fail: bool, workdir: str) -> None:
        super().__init__(start)
        self.batches = batches
        self.fail = fail
        worker = "" if workers.is_chief() else f"_worker{workers.task_id()}"
        self.path = os.path.join(workdir, f"unreadable_images{worker}.txt")
        # A run that is resumed does not read the images of before again.
        self._before = unreadable.read(self.path) if start else []
        self._reported: set[int] = set()

    def on_step(self, step: int, logs: dict[str, Any]) -> None:
        """Report at the end of an epoch.

        Raises:
            UserError: If `fail` is set and an image could not be read.
        """
        if self.fail:
            self.batches.require_readable()
        if step % self.batches.steps_per_epoch == 0:
            self.report()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Report at the end of the run."""
        self.report()

    def report(self) -> None:
        """Print the number of these images and some of their names, if there are new ones."""
        if self.batches.unreadable == self._reported:
            return
        self._reported = set(self.batches.unreadable)
        source = self.batches.source
        names = [*self._before, *(source.describe(index) for index in self._reported)]
        with Accessory(os.path.basename(self.path)).may_fail():
            unreadable.write(names, self.path)
        tqdm.write(unreadable.line(names, len(source.pretrain), self.path))


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
