"""Pre-training from a config to a run directory, and the resumption of a run that was stopped."""

import contextlib
import dataclasses
import os
import tempfile
from typing import Any

import keras
import ml_collections
import tensorflow as tf

from moco_tf import (
    interrupts,
    paths,
    run_data,
    run_directory,
    run_lock,
    run_metrics,
    run_pixels,
    workers,
)
from moco_tf.backbones import descriptions, warm_start
from moco_tf.config import (
    evaluation_size,
    flatten,
    total_steps,
)
from moco_tf.config_checks import (
    check,
)
from moco_tf.config_files import require_settings
from moco_tf.data import sources
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.sources.source import Source
from moco_tf.plan import plan
from moco_tf.run_data import RunData
from moco_tf.training import announcement
from moco_tf.training.accessory import Accessory
from moco_tf.training.best import BestCheckpoint, require_not_best
from moco_tf.training.build import (
    build_data,
    build_model,
    restored_globals,
)
from moco_tf.training.callbacks import Callbacks, StopAt, UnreadableImages
from moco_tf.training.checkpoints import Checkpoints
from moco_tf.training.failures import data_may_vanish, memory_may_run_out, require_end
from moco_tf.training.knn_monitor import KNNMonitor, monitored_source
from moco_tf.training.metrics_log import MetricsLog
from moco_tf.training.printing import printing_may_fail
from moco_tf.training.progress import Progress
from moco_tf.training.signals import StopOnSignals
from moco_tf.training.tensorboard import Projector, ViewImages


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: Global step of the last checkpoint.
        total_steps: Number of steps of the whole run.
        stopped_by: Number of the signal that stopped the run, or None if it finished.
    """

    step: int
    total_steps: int
    stopped_by: int | None


def train(
    config: ml_collections.ConfigDict,
    workdir: str,
    strategy: tf.distribute.Strategy | None = None,
) -> Outcome:
    """Pre-train an encoder, or resume the run in `workdir`.

    SIGINT, SIGTERM and SIGHUP stop the run after its current step with a checkpoint; a second
    signal stops it at once. After any interruption, SIGKILL included, the same call resumes from
    the last checkpoint, and on the CPU the result is bit-identical to that of an uninterrupted
    run. (With several replicas the moving statistics round differently, because a checkpoint holds
    their mean.)

    Args:
        config: A config with the keys of `moco_tf.default_config`. The settings that are None in
            configs/auto.py are planned, and printed with their reasons, unless `workdir` holds a
            run, which has them.
        workdir: Path of the run directory.
        strategy: A `tf.distribute.Strategy`; by default the current one.

    Returns:
        An `Outcome`.

    Raises:
        UserError: If a setting is invalid, the data source cannot be read, or the run directory
            cannot be written, is in use or holds a run with another config, or if the training
            diverges.

    Example:
        >>> import moco_tf
        >>> config = moco_tf.default_config()
        >>> config.data.source = "photos"
        >>> config.update(dict(encoder="resnet8", stem="small", image_size=32, queue_size=256))
        >>> config.update(dict(batch_size=32, steps=2, knn_every=0))
        >>> from moco_tf.training.run import train
        >>> train(config, "runs/mine")  # doctest: +ELLIPSIS
        photos: 9,934 images...
        Outcome(step=2, total_steps=2, stopped_by=None)
    """
    strategy = strategy or tf.distribute.get_strategy()
    workdir = paths.expand(workdir, "workdir")
    require_settings(config)
    with workers.scope(strategy), printing_may_fail():
        config = plan.resolve(config, workdir)
    check(config, strategy.num_replicas_in_sync)
    with (
        workers.scope(strategy),
        printing_may_fail(),
        memory_may_run_out(config),
        restored_globals(),
    ):
        return _train(config, workdir)


def _train(config: ml_collections.ConfigDict, workdir: str) -> Outcome:
    require_not_best(workdir)
    if not run_directory.exists(workdir):
        sources.require_effect(config)
    config = run_pixels.resolve(warm_start.resolve(config, workdir), workdir)
    source, batches = build_data(config)
    monitored = monitored_source(config, source)
    data = run_data.of_source(source)
    _require_identical_workers(config, workdir, data, monitored)
    run_directory.require_same_run(workdir, config, data)
    description = descriptions.of_run(workdir, config, data.channels)
    callbacks: list[keras.callbacks.Callback] = []
    chief = workers.is_chief()
    with contextlib.ExitStack() as stack:
        # Building the model and compiling its step runs code that loses interrupts.
        interrupted = stack.enter_context(interrupts.remembered())
        if chief:
            output_dir = workdir
            lock = stack.enter_context(run_lock.hold(workdir))
            callbacks.append(
                keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: lock.require())
            )
        else:
            # Every worker saves, since each holds a part of the moving statistics. Only the
            # chief's checkpoints are kept.
            output_dir = stack.enter_context(tempfile.TemporaryDirectory(prefix="moco_tf_"))
        model = build_model(
            config, batches.steps_per_epoch, data.channels, data.num_images, description
        )
        is_new = not run_directory.checkpoints(workdir)
        initial_weights = warm_start.start(model, config) if config.init and is_new else ""
        if chief:
            # An encoder or weights that are refused do not leave a run behind, so the corrected
            # command can use the directory.
            run_directory.open_for_training(workdir, config, data)
            descriptions.write(workdir, description)
        checkpoints = Checkpoints(model, output_dir, config.checkpoint_every)
        start = checkpoints.restore(workdir)
        workers.require_same({"the restored step": start})
        total = total_steps(config, batches.steps_per_epoch)
        if start < total:
            if chief:
                lines = announcement.lines(config, source, batches.steps_per_epoch, description)
                lines += [initial_weights] if initial_weights else []
                lines += [f"resuming from step {start} in {workdir}"] if start else []
                print("\n".join(lines))
            # A run that starts again from step 0 evaluates that step again.
            logged = run_metrics.rewind_metrics(output_dir, start or -1)
            if chief and logged < start - start % batches.steps_per_epoch:
                print(
                    f"warning: the lines of metrics.jsonl after step {logged} are lost; the run "
                    f"resumes from step {start} without them"
                )
            stop = StopOnSignals(start, checkpoints, interrupted)
            stack.callback(stop.restore)
            callbacks.append(stop)
            best = None
            if config.keep_best:
                best = BestCheckpoint(
                    checkpoints,
                    workdir,
                    output_dir,
                    config.keep_best,
                    monitored.name,
                    evaluation_size(config),
                    config.image_size,
                )
            callbacks += _callbacks(
                config, workdir, output_dir, monitored, batches, checkpoints, best, start, total
            )
            with data_may_vanish(source, checkpoints):
                _fit(model, batches, start, total, callbacks)
            require_end(checkpoints, total)
        elif chief:
            print(f"{workdir}: already finished at step {total}")
        if chief and (start < total or not run_metrics.has_curves(workdir)):
            with Accessory("curves.png").may_fail():
                # Imports Matplotlib, for which the first step need not wait.
                from moco_tf.plots.run import plot_curves

                plot_curves(workdir)
        return Outcome(checkpoints.step, total, checkpoints.stop_signal)


def _callbacks(
    config: ml_collections.ConfigDict,
    workdir: str,
    output_dir: str,
    monitored: Source,
    batches: TwoViews,
    checkpoints: Checkpoints,
    best: BestCheckpoint | None,
    start: int,
    total: int,
) -> list[keras.callbacks.Callback]:
    """Return the callbacks in the order in which Keras calls them.

    The log of a step is on disk before its checkpoint.
    """
    steps_per_epoch, chief = batches.steps_per_epoch, workers.is_chief()
    log = MetricsLog(output_dir, start, config, steps_per_epoch, checkpoints.finite)
    projector = Projector(output_dir, monitored, evaluation_size(config)) if chief else None
    callbacks: list[keras.callbacks.Callback] = [
        log,
        KNNMonitor(log, start, config, steps_per_epoch, monitored, projector, best, batches),
        UnreadableImages(batches, start, config.data.on_error == "fail", workdir),
        checkpoints,
        StopAt(start, total),
    ]
    if chief:
        callbacks.append(ViewImages(log, start, config, batches))
        callbacks.append(Progress(log, start, total, steps_per_epoch, config.log_every))
    return callbacks


def _require_identical_workers(
    config: ml_collections.ConfigDict, workdir: str, data: RunData, monitored: Source
) -> None:
    """Raise a `UserError` unless all workers have the same config, images and checkpoint.

    Args:
        config: The config of this worker.
        workdir: The run directory.
        data: The images of the run.
        monitored: The images of the kNN monitor.
    """
    checkpoint = run_directory.latest_checkpoint(workdir)
    facts: dict[str, Any] = {f"config.{key}": value for key, value in flatten(config).items()}
    facts |= {
        "the newest checkpoint": os.path.basename(checkpoint) if checkpoint else "none",
        "the number of images": data.num_images,
        "the number of channels": data.channels,
        "the checksum of the images": data.checksum,
    }
    images = labels = None
    if config.monitor_source and config.knn_every:
        images = [monitored.size, run_data.of_source(monitored).checksum]
        labels = run_data.labels_checksum(monitored)
    facts |= {"the images of the kNN monitor": images, "the labels of the kNN monitor": labels}
    workers.require_same(facts)


def _fit(
    model: keras.Model,
    batches: TwoViews,
    start: int,
    total: int,
    callbacks: list[keras.callbacks.Callback],
) -> None:
    """Train from step `start` to `total`.

    To Keras, this is a single epoch. The callbacks count global steps, so that a run can go on from
    any step.
    """
    data = model.distribute_strategy.distribute_datasets_from_function(
        lambda context: batches.between(start, total, context)
    )
    model.fit(
        data,
        steps_per_epoch=total - start,
        callbacks=Callbacks(callbacks, add_history=True, model=model),
        shuffle=False,  # The data is in its final order.
        verbose=0,
    )
