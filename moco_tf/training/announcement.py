"""What a run says about itself before it starts."""

import ml_collections

from moco_tf.config import (
    chance_formula,
    chance_loss,
    flatten,
    suggested_queue_size,
    total_steps,
)
from moco_tf.config_checks import late_decay, single_image_groups, without_effect
from moco_tf.data.sources.source import Source
from moco_tf.encoders import foreign
from moco_tf.encoders.names import is_foreign, is_small
from moco_tf.training.build import memory_bank_size

# A learning rate for 256 images with which a ResNet-18 failed (`large_learning_rate`).
LARGE_RATE = 0.24


def lines(
    config: ml_collections.ConfigDict,
    source: Source,
    steps_per_epoch: int,
    description: str | None,
) -> list[str]:
    """Return lines about a run: its images, its model, and notes on settings that may be mistakes.

    Args:
        config: Config of the run.
        source: The images of the run.
        steps_per_epoch: Number of steps in an epoch.
        description: That of an encoder that is not one of our ResNets, as for
            `moco_tf.encoders.build`.
    """
    num_images = len(source.pretrain)
    epochs = total_steps(config, steps_per_epoch) / steps_per_epoch
    found = [
        source.summary,
        f"{config.mechanism}: {config.encoder}, {epochs:.4g} {'epoch' if epochs == 1 else 'epochs'}"
        f" of {steps_per_epoch} steps; chance-level loss {chance_formula(config)} = "
        f"{chance_loss(config):.2f}",
    ]
    if config.mechanism == "memory_bank":
        size = memory_bank_size(num_images, config.dim)
        found.append(f"the memory bank takes {size} on each device")
    notes: list[str | None] = []
    if config.mechanism != "memory_bank" and config.queue_size > num_images:
        notes.append(
            f"the queue of {config.queue_size} keys is larger than the data set of {num_images} "
            "images, so queries find their own images among the negatives; set "
            f"config.queue_size={suggested_queue_size(num_images)}, for example"
        )
    notes.append(late_decay(flatten(config), steps_per_epoch))
    if not is_foreign(config.encoder):
        notes.append(single_image_groups(config))
    return [
        *found,
        *(f"note: {note}" for note in notes if note),
        *setting_notes(config, description),
    ]


def setting_notes(config: ml_collections.ConfigDict, description: str | None) -> list[str]:
    """Return the notes on settings that a plan has no warnings about.

    Args:
        config: A config that passes `moco_tf.config_checks.check`.
        description: As for `lines`.
    """
    notes = [large_learning_rate(config)]
    for key, reason in without_effect(config).items():
        notes.append(f"config.{key} has no effect, because {reason}")
    found = [f"note: {note}" for note in notes if note]
    return found + (foreign.notes(config.encoder, description) if description is not None else [])


def large_learning_rate(config: ml_collections.ConfigDict) -> str | None:
    """Return a warning about a learning rate that suits small ResNets only, or None.

    Args:
        config: A config that passes `moco_tf.config_checks.check`.

    Example:
        >>> config = moco_tf.default_config()
        >>> config.update(dict(encoder="resnet18", learning_rate=0.24))
        >>> large_learning_rate(config)[:57]
        'config.learning_rate=0.24 suits small networks such as re'
    """
    rate = config.learning_rate
    if not config.scale_learning_rate:
        rate *= 256 / config.batch_size
    if is_small(config.encoder) or rate < LARGE_RATE:
        return None
    return (
        f"config.learning_rate={config.learning_rate:g} suits small networks such as resnet8; with "
        f"{LARGE_RATE:g} for 256 images, a resnet18 learned worse features of Fashion-MNIST than "
        "random weights have. Set a quarter of it, for example"
    )
