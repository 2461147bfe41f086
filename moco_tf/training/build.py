"""Build what a config describes: the data source, the batches, the augmentation and the model."""

import contextlib
from collections.abc import Iterator

import keras
import ml_collections
import tensorflow as tf

from moco_tf import encoders, seeds
from moco_tf.config import total_steps
from moco_tf.data import pixels, recipes, sources
from moco_tf.data.augment import Augment
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.sources.source import Source
from moco_tf.distribution import replicas_in_main_memory
from moco_tf.encoders import foreign
from moco_tf.encoders.cloning import has_batch_normalization
from moco_tf.encoders.names import is_foreign
from moco_tf.errors import UserError
from moco_tf.machine import main_memory
from moco_tf.mechanisms.base import Mechanism
from moco_tf.mechanisms.end_to_end import EndToEnd
from moco_tf.mechanisms.memory_bank import MemoryBank
from moco_tf.mechanisms.moco import MoCo
from moco_tf.optimizers import SGD
from moco_tf.schedules import Cosine, Step, exponential


def build_data(config: ml_collections.ConfigDict) -> tuple[Source, TwoViews]:
    """Open the data source of a config and set up its batches of two views.

    Args:
        config: A config that passes `moco_tf.config_checks.check`.

    Returns:
        The source and its `TwoViews`.

    Raises:
        UserError: If the source cannot be read, has too few images, or has channels that the
            augmentation cannot handle.
    """
    source = sources.from_config(config)
    recipe = recipes.from_config(config)
    if (source.channels != 3 or source.dtype != "uint8") and recipe.rgb_operations:
        have = f"{source.channels} channels" if source.channels != 3 else f"{source.dtype} pixels"
        raise UserError(
            f"config.augmentation={config.augmentation!r} includes RGB operations "
            f"({', '.join(recipe.rgb_operations)}), but the images of '{source.name}' have "
            f"{have}: set config.rgb_operations=False to leave these operations out"
        )
    pixels.from_config(config, source.channels)  # Reports numbers that do not fit the channels.
    num_others = len(source.pretrain) - 1
    if config.mechanism == "memory_bank" and config.queue_size > num_others:
        raise UserError(
            f"config.queue_size={config.queue_size} exceeds the {num_others} images of "
            f"'{source.name}' that a query can be compared with in the memory bank: set it to "
            f"{num_others} or less"
        )
    batches = TwoViews(
        source,
        config.image_size,
        recipe,
        config.batch_size,
        config.seed,
        with_positions=config.mechanism == "memory_bank",
        key_frame_seconds=config.data.key_frame_seconds,
        neighbor_seconds=config.data.neighbor_seconds,
    )
    return source, batches


def build_augment(config: ml_collections.ConfigDict, channels: int) -> Augment:
    """Build the photometric augmentation of a config for images with `channels` channels."""
    return Augment(recipes.from_config(config), channels, pixels.from_config(config, channels))


def build_model(
    config: ml_collections.ConfigDict,
    steps_per_epoch: int,
    channels: int = 3,
    num_images: int | None = None,
    description: str | None = None,
) -> Mechanism:
    """Build and compile the model of a config under the current strategy's scope.

    Args:
        config: A config that passes `moco_tf.config_checks.check`.
        steps_per_epoch: Number of steps in an epoch, for the learning rate schedule.
        channels: Number of image channels.
        num_images: Number of training images; required for the memory bank only.
        description: That of an encoder that is not one of our ResNets, as for
            `moco_tf.encoders.build`; by default it is made from `config.encoder`.

    Returns:
        A `MoCo`, or the `EndToEnd` or `MemoryBank` that `config.mechanism` names.

    Raises:
        UserError: If a memory bank does not fit into memory, or the encoder cannot be used.
    """
    if description is None and is_foreign(config.encoder):
        description = foreign.describe(config.encoder, channels, config.image_size)
    keras.config.set_dtype_policy(config.precision)
    keras.utils.set_random_seed(config.seed)
    groups = config.bn_groups // tf.distribute.get_strategy().num_replicas_in_sync

    def build_encoder() -> keras.Model:
        return encoders.build(
            config.encoder,
            config.head,
            config.dim,
            stem=config.stem,
            bn_groups=groups,
            channels=channels,
            description=description,
            pixels=pixels.from_config(config, channels),
        )

    augment = build_augment(config, channels)
    model: Mechanism
    if config.mechanism == "memory_bank":
        if num_images is None:
            raise ValueError("the memory bank needs num_images")
        with _memory_for_bank(num_images, config.dim):
            model = MemoryBank(
                build_encoder,
                num_images,
                config.queue_size,
                config.bank_momentum,
                temperature=config.temperature,
                augment=augment,
                seed=config.seed,
            )
    elif config.mechanism == "end_to_end":
        model = EndToEnd(
            build_encoder,
            temperature=config.temperature,
            shuffle_bn=config.shuffle_bn,
            symmetric_loss=config.symmetric_loss,
            augment=augment,
            seed=config.seed,
        )
    else:
        model = MoCo(
            build_encoder,
            config.queue_size,
            config.momentum,
            temperature=config.temperature,
            shuffle_bn=config.shuffle_bn,
            symmetric_loss=config.symmetric_loss,
            exclude_neighbors=config.data.neighbor_seconds > 0,
            augment=augment,
            seed=config.seed,
        )
    if not has_batch_normalization(model.query_encoder):
        model.shuffle_bn = False  # There are no groups to shuffle the keys among.
    optimizer = SGD(
        build_schedule(config, steps_per_epoch), config.sgd_momentum, config.weight_decay
    )
    model.compile(optimizer, jit_compile=config.jit_compile)
    return model


@contextlib.contextmanager
def restored_globals() -> Iterator[None]:
    """Restore what `build_model` sets for the whole process at the end of the block.

    These are Keras' dtype policy and the random numbers of Python and NumPy. The seed of TensorFlow
    cannot be restored.
    """
    policy = keras.config.dtype_policy()
    try:
        with seeds.restored_generators():
            yield
    finally:
        keras.config.set_dtype_policy(policy)


def build_schedule(
    config: ml_collections.ConfigDict, steps_per_epoch: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Build the learning rate schedule of a config.

    Args:
        config: A config that passes `moco_tf.config_checks.check`.
        steps_per_epoch: Number of steps in an epoch.
    """
    rate = config.learning_rate
    if config.scale_learning_rate:
        # The paper's own scaling: 0.03 for 256 images, 0.12 for 1024.
        rate *= config.batch_size / 256
    if config.schedule == "cosine":
        epochs = total_steps(config, steps_per_epoch) / steps_per_epoch
        return Cosine(rate, steps_per_epoch, epochs)
    if config.schedule == "exponential":
        return exponential(rate, config.decay_every)
    return Step(rate, steps_per_epoch, config.milestones)


def memory_bank_size(num_images: int, dim: int) -> str:
    """Describe the memory that a memory bank takes.

    Example:
        >>> memory_bank_size(1_281_167, 128)
        '1281167 x 128 x 4 bytes = 656.0 MB'
    """
    return f"{num_images} x {dim} x 4 bytes = {num_images * dim * 4 / 1e6:,.1f} MB"


@contextlib.contextmanager
def _memory_for_bank(num_images: int, dim: int) -> Iterator[None]:
    """Raise a `UserError` if a memory bank that is built in the block does not fit into memory."""
    size = memory_bank_size(num_images, dim)
    remedy = (
        f"set config.dim below {dim}, or config.mechanism='moco', whose queue does not grow with "
        "the data set"
    )
    # A checkpoint passes through main memory, whichever device holds the bank.
    copies = max(replicas_in_main_memory(), 1)
    memory = main_memory()
    if copies * num_images * dim * 4 > memory:
        raise UserError(
            f"config.mechanism='memory_bank' takes {size} for each of {copies} replicas, but this "
            f"process may use {memory / 1e6:,.1f} MB: {remedy}"
        )
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise UserError(
            f"config.mechanism='memory_bank' takes {size} on each device, which has less memory "
            f"left: {remedy}"
        ) from error
