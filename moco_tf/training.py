"""A pre-training run, from a config to a run directory; it goes on where it was stopped."""

import contextlib
import dataclasses
import json
import math
import os
import signal
import tempfile
import zlib

import keras
import tensorflow as tf

from moco_tf import distribution, encoders, run_directory
from moco_tf.augment import RECIPES, Augment
from moco_tf.callbacks import (
    Checkpoints,
    MetricsLog,
    Progress,
    StopAt,
    UnreadableImages,
)
from moco_tf.config import chance_loss, check, flatten, require_moco, total_steps
from moco_tf.data import sources
from moco_tf.data.pipeline import TwoViews
from moco_tf.end_to_end import EndToEnd
from moco_tf.errors import UserError
from moco_tf.memory_bank import MemoryBank, room_for_bank, size_of_bank
from moco_tf.model import MoCo
from moco_tf.monitor import KNNMonitor
from moco_tf.optimizers import SGD
from moco_tf.pictures import draw_curves, draw_preview
from moco_tf.schedules import Cosine, Step, exponential
from moco_tf.tensorboard import Projector, ViewImages


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: at `step` of `total_steps`, by the signal number `stopped_by` or None."""

    step: int
    total_steps: int
    stopped_by: int | None


def train(config, workdir, strategy=None):
    """Pre-trains, or goes on with, the run in `workdir`.

    SIGINT and SIGTERM end it after the current step, with a checkpoint; a second one ends it at
    once. After any end, even SIGKILL, the same call goes on from the last checkpoint, and on the
    CPU the result is bit-identical to that of a run that was never stopped. (With several replicas
    the moving statistics round differently, since a checkpoint holds their mean.)

    Args:
        config: a config of `moco_tf.config.default_config`'s keys.
        workdir: str, the run directory.
        strategy: a `tf.distribute.Strategy`, or None for the default one.

    Returns:
        `Outcome`.

    Raises:
        UserError: a setting that cannot work, a source that cannot be read, a directory that
            cannot be written or that another config made.
    """
    strategy = strategy or tf.distribute.get_strategy()
    check(config, strategy.num_replicas_in_sync)
    with distribution.scope(strategy):
        return _train(config, workdir)


def preview(config, path):
    """Draws the first images of a run beside the views that it would train on.

    Args:
        config: a config of `moco_tf.config.default_config`'s keys.
        path: str, the PNG to write.

    Raises:
        UserError: a setting that cannot work, a source that cannot be read, a file that cannot be
            written.
    """
    check(config)
    source, batches = _open_data(config)
    try:
        draw_preview(path, config, source, batches, _augment(config, source.channels))
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"--preview={path} cannot be written: {_first_line(error)}") from error


def _train(config, workdir):
    source, batches = _open_data(config)
    num_images, channels = len(source.pretrain), source.channels
    _require_same_everywhere(config, workdir, num_images, channels)
    chief = distribution.is_chief()
    with contextlib.ExitStack() as stack:
        if chief:
            written = workdir
            run_directory.open_for_training(workdir, config, num_images, channels)
        else:
            # All workers save, since they hold parts of the moving statistics; one save remains.
            written = stack.enter_context(tempfile.TemporaryDirectory())
            run_directory.require_same_run(workdir, config, num_images, channels)
        model = build_model(config, batches.steps_per_epoch, channels, num_images)
        checkpoints = Checkpoints(model, written, config.checkpoint_every)
        start = checkpoints.restore(workdir)
        total = total_steps(config, batches.steps_per_epoch)
        if start >= total:
            if chief:
                print(f"{workdir}: finished already, at step {total}")
            return Outcome(start, total, None)
        if chief:
            _announce(config, workdir, source, start, total, batches.steps_per_epoch)
        run_directory.rewind_metrics(written, start)

        # In the order in which they see a step: what a checkpoint follows is on disk before it.
        log = MetricsLog(written, start, config, batches.steps_per_epoch)
        projector = Projector(workdir, source, config.image_size) if chief else None
        callbacks = [
            log,
            KNNMonitor(log, start, config, batches.steps_per_epoch, source, projector),
            UnreadableImages(batches, start, fail=config.data.on_error == "fail"),
            checkpoints,
            StopAt(start, total),
        ]
        if chief:
            callbacks.append(ViewImages(log.summaries, start, config, batches))
            callbacks.append(Progress(log, start, total, batches.steps_per_epoch, config.log_every))
        with _stop_on_signals(checkpoints):
            _fit(model, batches, start, total, callbacks)
        if chief:
            draw_curves(workdir)
        return Outcome(checkpoints.step, total, checkpoints.stop_signal)


def _require_same_everywhere(config, workdir, num_images, channels):
    """Raises a `UserError` unless all workers are about to do the same."""
    saved = run_directory.latest_checkpoint(workdir)
    saved = os.path.basename(saved) if saved else "nothing"
    mine = zlib.crc32(json.dumps([flatten(config), saved, num_images, channels]).encode())
    if len(set(distribution.gather_from_workers(mine))) > 1:
        raise UserError(
            f"the workers differ; here, {workdir} holds {saved}, and '{config.data.source}' has "
            f"{num_images} images of {channels} channels: give all workers the same settings and "
            "images, and a --workdir that they share"
        )


def _announce(config, workdir, source, start, total, steps_per_epoch):
    chance = "ln(N)" if config.mechanism == "end_to_end" else "ln(K+1)"
    print(
        f"{config.mechanism}: {config.encoder}, {len(source.pretrain)} images of {source.name}, "
        f"{total / steps_per_epoch:g} epochs of {steps_per_epoch} steps; "
        f"the loss of pure chance is {chance} = {chance_loss(config):.2f}"
    )
    if config.mechanism == "memory_bank":
        print(
            f"the memory bank takes {size_of_bank(len(source.pretrain), config.dim)} on each device"
        )
    elif config.queue_size > len(source.pretrain):
        print(
            f"note: the queue of {config.queue_size} keys is larger than the data set, so that "
            "queries meet their own images among the negatives; --config.queue_size sets it"
        )
    if start:
        print(f"going on from step {start}, saved in {workdir}")


def build_model(config, steps_per_epoch, channels=3, num_images=None):
    """The compiled model that a config describes, under the current strategy's scope.

    Args:
        config: a config that `moco_tf.config.check` passes.
        steps_per_epoch: int, for the schedule of the learning rate.
        channels: int, of the images; 3 is RGB.
        num_images: int, that it trains on; read for the memory bank only.

    Returns:
        A `MoCo`, or the `EndToEnd` or `MemoryBank` that `config.mechanism` asks for.

    Raises:
        UserError: a memory bank that does not fit into the device's memory.
    """
    keras.config.set_dtype_policy(config.precision)
    keras.utils.set_random_seed(config.seed)
    groups = config.bn_groups // tf.distribute.get_strategy().num_replicas_in_sync

    def build_encoder():
        return encoders.build(
            config.encoder,
            config.head,
            config.dim,
            stem=config.stem,
            bn_groups=groups,
            channels=channels,
        )

    settings = dict(
        temperature=config.temperature, augment=_augment(config, channels), seed=config.seed
    )
    if config.mechanism == "memory_bank":
        with room_for_bank(num_images, config.dim):
            model = MemoryBank(
                build_encoder, num_images, config.queue_size, config.bank_momentum, **settings
            )
    else:
        settings |= dict(shuffle_bn=config.shuffle_bn, symmetric_loss=config.symmetric_loss)
        if config.mechanism == "end_to_end":
            model = EndToEnd(build_encoder, **settings)
        else:
            model = MoCo(build_encoder, config.queue_size, config.momentum, **settings)
    rate = config.learning_rate
    if config.scale_learning_rate:
        rate *= config.batch_size / 256  # the paper's own: 0.03 for 256 images, 0.12 for 1024
    if config.schedule == "cosine":
        epochs = total_steps(config, steps_per_epoch) / steps_per_epoch
        schedule = Cosine(rate, steps_per_epoch, epochs)
    elif config.schedule == "exponential":
        schedule = exponential(rate, config.decay_every)
    else:
        schedule = Step(rate, steps_per_epoch, config.milestones)
    model.compile(
        SGD(schedule, config.sgd_momentum, config.weight_decay), jit_compile=config.jit_compile
    )
    return model


def _augment(config, channels):
    recipe = RECIPES[config.augmentation]
    return Augment(recipe if config.rgb_operations else recipe.without_rgb_operations(), channels)


def start_from(fill, config, workdir):
    """Makes a run whose first checkpoint is a model from elsewhere.

    Args:
        fill: called with the newly built `MoCo`; sets its weights, its step and its optimizer.
        config: a config of `moco_tf.config.default_config`'s keys.
        workdir: str, a directory that does not exist or is empty.

    Returns:
        The `MoCo`, and the steps of an epoch, int.

    Raises:
        UserError: a setting that cannot work, another mechanism, a source that cannot be read, a
            directory that holds something or cannot be written; and what `fill` raises. Nothing is
            in the directory then.
    """
    check(config)
    require_moco(config)
    run_directory.require_empty(workdir)
    source, batches = _open_data(config)
    model = build_model(config, batches.steps_per_epoch, source.channels)
    fill(model)
    with run_directory.whole_or_not_at_all(workdir) as unfinished:
        run_directory.open_for_training(unfinished, config, len(source.pretrain), source.channels)
        checkpoints = Checkpoints(model, unfinished, config.checkpoint_every)
        checkpoints.step = int(model.step.numpy())
        checkpoints.save()
    return model, batches.steps_per_epoch


def _open_data(config):
    source = sources.load(config.data.source, **sources.options(config.data))
    operations = RECIPES[config.augmentation].rgb_operations
    if source.channels != 3 and config.rgb_operations and operations:
        raise UserError(
            f"config.augmentation={config.augmentation!r} has operations of RGB "
            f"({', '.join(operations)}), and the images of '{source.name}' have {source.channels} "
            "channels: set --config.rgb_operations=False to leave these out"
        )
    others = len(source.pretrain) - 1
    if config.mechanism == "memory_bank" and config.queue_size > others:
        raise UserError(
            f"config.queue_size={config.queue_size} is more than the {others} other images that "
            f"the memory bank of '{source.name}' holds beside a query's own: set it to {others} or "
            "less"
        )
    batches = TwoViews(
        source,
        config.image_size,
        RECIPES[config.augmentation].crop_scale,
        config.batch_size,
        config.seed,
        with_positions=config.mechanism == "memory_bank",
    )
    return source, batches


def _fit(model, batches, start, total, callbacks):
    """Trains from step `start` to `total`: first what is left of its epoch, then the others."""
    steps = batches.steps_per_epoch
    epoch, done = divmod(start, steps)

    def distributed(start):
        return model.distribute_strategy.distribute_datasets_from_function(
            lambda context: batches.between(start, total, context)
        )

    data = distributed(start)
    if done:
        model.fit(
            data,
            steps_per_epoch=steps - done,
            callbacks=callbacks,
            shuffle=False,  # `data` has its order
            verbose=0,
        )
        epoch += 1
        data = distributed(epoch * steps)
    if not model.stop_training:
        model.fit(
            data,
            steps_per_epoch=steps,
            initial_epoch=epoch,
            epochs=math.ceil(total / steps),
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
        )


@contextlib.contextmanager
def _stop_on_signals(checkpoints):
    """Lets the first SIGINT or SIGTERM stop the run after its step, and a second one at once."""

    def stop(number, _):
        checkpoints.stop_signal = number
        signal.signal(number, previous[number])

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _first_line(error):
    return str(error).strip().splitlines()[0]
