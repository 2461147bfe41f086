"""The time and the memory of real training steps, and the size of the run directory."""

import dataclasses
import math
import resource
import sys
import time
from typing import Any

import keras
import ml_collections
import numpy as np
import tensorflow as tf

from moco_tf import run_directory, run_pixels, workers
from moco_tf.backbones import descriptions, warm_start
from moco_tf.config import evaluation_size, total_steps
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.sources.source import Source
from moco_tf.evaluation.knn import MAX_TEST
from moco_tf.mechanisms.base import Mechanism
from moco_tf.plan import printing
from moco_tf.progress_bar import progress_bar
from moco_tf.training import announcement
from moco_tf.training.build import build_data, build_model, restored_globals
from moco_tf.training.failures import memory_may_run_out
from moco_tf.training.knn_monitor import monitored_source

# Steps that do not count after the first one, which compiles: the pipeline has a few batches ready
# by then. If steps are slow, half of them do not count.
WARM_UP = 5
MOST_STEPS = 40  # Number of steps that count.
# After the first step, the timing ends after this number of seconds, but not before this number of
# steps.
SECONDS = 25.0
FEWEST_STEPS = 4
KEPT_CHECKPOINTS = 3


@dataclasses.dataclass(frozen=True)
class Timing:
    """What a few steps of a run took.

    Attributes:
        steps: Number of steps that were measured.
        images_per_second: Mean rate of these steps.
        slow: Rate at the 90th percentile of the seconds of a step.
        fast: Rate at the 10th percentile.
        first_step: Seconds of the first step, which compiles.
        waiting: Share of the time that the steps waited for data.
        total_images: Number of images that the whole run trains on.
        memory: Peak memory in bytes: of the GPU that took most, or of the process on a CPU.
        memory_of: What this is the memory of, in words.
        run_directory: Estimated size of the run directory at its end, in bytes.
        checkpoint: Size of a checkpoint in bytes.
        notes: What the run would say about its weights and its settings, one line each.
    """

    steps: int
    images_per_second: float
    slow: float
    fast: float
    first_step: float
    waiting: float
    total_images: int
    memory: int
    memory_of: str
    run_directory: int
    checkpoint: int
    notes: list[str]

    @property
    def seconds(self) -> float:
        """Estimated seconds of all steps of the run."""
        return self.total_images / self.images_per_second


class _Clock(keras.callbacks.Callback):
    """Notes when each step ends, and stops the training when enough is known.

    Args:
        steps: Number of steps at most.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.ends: list[float] = []
        self.waiting: list[float] = []
        self.progress = progress_bar(steps, "timing", "step", brief=True)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the time once the device has finished the step."""
        int(self.model.step.numpy())
        self.ends.append(time.perf_counter())
        self.waiting.append(self.model.seconds_waiting)
        self.progress.update()
        is_late = len(self.ends) > FEWEST_STEPS and self.ends[-1] - self.ends[0] > SECONDS
        # All workers have to stop after the same step.
        if any(workers.gather_from_workers(int(is_late))):
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the progress bar."""
        self.progress.close()


def measure(config: ml_collections.ConfigDict, workdir: str | None = None) -> Timing:
    """Train a new model for a few steps, as a run does, and save nothing.

    The model, its data and the strategy are those of the run.

    Args:
        config: A config that passes `moco_tf.config_checks.check`.
        workdir: Path of the run directory, or None without one. If it holds a run, the weights that
            the run started from are not read.

    Raises:
        UserError: If a setting does not work with the data, the images of the kNN monitor or the
            weights that the run starts from, or memory runs out.
    """
    with memory_may_run_out(config), restored_globals():
        if not warm_start.may_be_download(config):
            config = warm_start.resolve(config, workdir)
        config = run_pixels.resolve(config, workdir)
        source, batches = build_data(config)
        monitored_source(config, source)
        description = descriptions.of_run(workdir, config, source.channels)
        model = build_model(
            config, batches.steps_per_epoch, source.channels, len(source.pretrain), description
        )
        notes = announcement.setting_notes(config, description)
        is_new = workdir is None or not run_directory.checkpoints(workdir)
        if config.init and is_new and not warm_start.may_be_download(config):
            notes += warm_start.start(model, config).splitlines()
        total = total_steps(config, batches.steps_per_epoch)
        gpus = tf.config.list_logical_devices("GPU")
        for gpu in gpus:
            tf.config.experimental.reset_memory_stats(_short_name(gpu))
        steps = 1 + WARM_UP + MOST_STEPS
        clock = _Clock(steps)
        data = model.distribute_strategy.distribute_datasets_from_function(
            lambda context: batches.between(0, steps, context)
        )
        start = time.perf_counter()
        model.fit(data, steps_per_epoch=steps, callbacks=[clock], shuffle=False, verbose=0)
    first = min(WARM_UP, (len(clock.ends) - 1) // 2)
    ends = np.array(clock.ends[first:])
    seconds = np.diff(ends)
    memory, memory_of = _peak_memory(gpus)
    checkpoint = _checkpoint_size(model)
    return Timing(
        steps=len(seconds),
        images_per_second=config.batch_size * len(seconds) / float(ends[-1] - ends[0]),
        slow=config.batch_size / float(np.quantile(seconds, 0.9)),
        fast=config.batch_size / float(np.quantile(seconds, 0.1)),
        first_step=clock.ends[0] - start,
        waiting=(clock.waiting[-1] - clock.waiting[first]) / float(ends[-1] - ends[0]),
        total_images=total * config.batch_size,
        memory=memory,
        memory_of=memory_of,
        run_directory=_run_directory_size(config, source, batches, model, total, checkpoint),
        checkpoint=checkpoint,
        notes=notes,
    )


def lines(measured: Timing) -> str:
    """Return lines about what a few steps took and about the whole run, and the notes."""
    longest = printing.duration(measured.total_images / measured.slow)
    shortest = printing.duration(measured.total_images / measured.fast)
    whole = printing.duration(measured.seconds)
    return "\n".join(
        [
            f"{measured.images_per_second:,.4g} images/s over {measured.steps} steps, "
            f"{measured.waiting:.0%} of the time waiting for data; the first step took "
            f"{measured.first_step:.0f} s",
            f"{whole} for the {measured.total_images:,} images of the run; {shortest} to {longest} "
            "at the rates of the fastest and the slowest tenth of the steps",
            "not included: kNN monitor, checkpoints and whatever else slows the machine down later",
            f"peak memory {measured.memory_of}: {printing.size(measured.memory)}",
            f"run directory: about {printing.size(measured.run_directory)}, with checkpoints of "
            f"{printing.size(measured.checkpoint)}",
            *measured.notes,
        ]
    )


def _peak_memory(gpus: list[tf.config.LogicalDevice]) -> tuple[int, str]:
    """Return the peak memory in bytes, and what it is the memory of."""
    if gpus:
        peaks = [tf.config.experimental.get_memory_info(_short_name(gpu))["peak"] for gpu in gpus]
        return max(peaks), "of a GPU"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024), "of the process"


def _short_name(gpu: tf.config.LogicalDevice) -> str:
    """Return a name such as `"GPU:0"`."""
    return ":".join(gpu.name.split(":")[-2:])


def _checkpoint_size(model: Mechanism) -> int:
    variables = [*model.variables, *model.optimizer.variables]
    return sum(
        math.prod(variable.shape) * tf.as_dtype(variable.dtype).size for variable in variables
    )


def _run_directory_size(
    config: ml_collections.ConfigDict,
    source: Source,
    batches: TwoViews,
    model: Mechanism,
    total: int,
    checkpoint: int,
) -> int:
    """Estimate the size of a finished run directory in bytes.

    The checkpoints are exact. The other files are small, except for many files of a source and many
    images of views; their constants were measured on runs of the demo.
    """
    kept = min(KEPT_CHECKPOINTS, math.ceil(total / config.checkpoint_every))
    # A line of metrics.jsonl, and the scalars of TensorBoard.
    size = kept * checkpoint + 800 * (total // config.log_every)
    size += 130_000  # curves.png
    every = config.knn_every * batches.steps_per_epoch
    if every:
        # Four pairs of views as PNG, at the start, every few epochs and at the end.
        size += (total // every + 2) * 4 * 2 * config.image_size**2 * source.channels * 7 // 10
        features = model.query_encoder.backbone.output_shape[-1]
        num_test = min(len(source.test), MAX_TEST)
        # Features as text and thumbnails, for TensorBoard's projector.
        thumbnail = 400 if evaluation_size(config) <= 32 else 1_500
        size += num_test * (7 * features + thumbnail)
    # The list of the files, which is compressed.
    return size + sum(map(len, source.list_contents())) // 4
