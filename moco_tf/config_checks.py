"""Checks of the config of a run: mistakes, and settings that do not do what they seem to.

This module loads without TensorFlow, so that flags can be checked quickly.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from moco_tf.config import INIT_SCHEMES, default_config, value_of
from moco_tf.data import pixels, recipes
from moco_tf.data.sources.source import SOURCE_NAMES
from moco_tf.errors import UserError
from moco_tf.settings import SETTINGS


def check(config: ml_collections.ConfigDict, num_replicas: int = 1) -> None:
    """Check a config for values that cannot work.

    Args:
        config: A config with the keys of `default_config`.
        num_replicas: Number of devices that share the global batch.

    Raises:
        UserError: For the first mistake, with its key, its value and the remedy.
    """
    check_values(config)
    _check_mechanism(config)
    _check_augment(config)
    is_monitored = config.knn_every > 0 or not config.keep_best
    _require(is_monitored, config, "keep_best", "it has no effect with config.knn_every=0")
    size = config.image_size
    _require(
        not config.evaluation_size or config.evaluation_size >= size,
        config,
        "evaluation_size",
        f"it is smaller than config.image_size={size}: set it to {size} or more, or to 0",
    )

    batch, groups = config.batch_size, config.bn_groups
    if batch < groups or batch % groups:
        divisors = ", ".join(str(g) for g in range(1, batch + 1) if batch % g == 0 and g <= 64)
        raise UserError(
            f"config.batch_size={batch} cannot be split into config.bn_groups={groups} equal "
            f"groups: for this batch size set bn_groups to one of {divisors}"
        )
    if groups % num_replicas:
        raise UserError(
            f"config.bn_groups={groups} cannot be split equally among {num_replicas} devices: set "
            f"it to a multiple of {num_replicas}, or use {_divisors(groups)} devices"
        )
    if config.shuffle_bn and groups == 1 and config.mechanism != "memory_bank":
        raise UserError(
            "config.shuffle_bn=True shuffles keys among BatchNormalization groups, but "
            "config.bn_groups=1: set bn_groups to 2 or more, or shuffle_bn to False"
        )


def single_image_groups(config: ml_collections.ConfigDict) -> str | None:
    """Return a warning if each BatchNormalization group holds a single image, or None.

    Where a feature map has a single pixel, such a group normalizes it to 0, so nothing is learned.

    Args:
        config: A config whose encoder has BatchNormalization.
    """
    if config.batch_size > config.bn_groups or config.bn_groups == 1:
        return None
    return (
        f"config.bn_groups={config.bn_groups} leaves a single image in each BatchNormalization "
        f"group of config.batch_size={config.batch_size}, where a feature map of one pixel becomes "
        "0: use a larger batch, or fewer groups"
    )


def check_values(config: ml_collections.ConfigDict, unset: Sequence[str] = ()) -> None:
    """Check each setting of a config by itself.

    Args:
        config: A config with the keys of `default_config`.
        unset: The settings that may be None, because a plan chooses them.

    Raises:
        UserError: For the first mistake.
    """
    for setting in SETTINGS:
        value = value_of(config, setting.key)
        if value is None and setting.key in unset:
            continue
        if value is None and setting.default is not None:
            raise UserError(
                f"config.{setting.key} is None: set it to a value. Only a training, a preview and "
                "a plan choose settings, such as those that are None in configs/auto.py"
            )
        if problem := setting.error(value):
            raise UserError(f"config.{setting.key}={value!r}: {problem}")
    if config.encoder is not None:
        _check_encoder(config)
    _require(bool(config.data.source), config, "data.source", f"set it to {SOURCE_NAMES}")
    _check_init(config)
    pixels.check(config)


def _check_encoder(config: ml_collections.ConfigDict) -> None:
    # Imported here because it imports Keras, and this module has to load without.
    from moco_tf.encoders.names import check_name, is_foreign

    check_name(config.encoder, config.stem or "imagenet")
    for name in ("mean", "std"):
        if is_foreign(config.encoder) and config.data[name] != pixels.IMAGENET:
            raise UserError(
                f"config.data.{name}={config.data[name]} has no effect with config.encoder="
                f"{config.encoder}, which normalizes its images itself: leave it at "
                f"{pixels.IMAGENET}"
            )
    scheme = (config.init or "").partition(":")[0]
    if is_foreign(config.encoder) and scheme == "checkpoint":
        raise UserError(
            f"config.init={config.init}: PyTorch's weights fit this project's ResNets only, not "
            f"config.encoder={config.encoder}: use run:DIR, saved_model:DIR or keras:FILE"
        )
    if not is_foreign(config.encoder) and scheme == "keras_hub":
        raise UserError(
            f"config.init={config.init}: weights of KerasHub do not fit this project's ResNets "
            f"such as config.encoder={config.encoder}: set config.encoder to {config.init}"
        )


def _check_mechanism(config: ml_collections.ConfigDict) -> None:
    if config.mechanism != "end_to_end":
        _require(config.queue_size > 0, config, "queue_size", "must be greater than 0")
    elif config.queue_size:
        raise UserError(
            f"config.queue_size={config.queue_size} applies to mechanism='moco' and "
            "'memory_bank'. mechanism='end_to_end' has no queue: its negatives are the "
            f"{config.batch_size - 1} other images of the batch. Set queue_size to 0"
        )
    elif config.batch_size == 1:
        raise UserError(
            "config.batch_size=1 leaves mechanism='end_to_end' without negatives: set it to 2 or "
            "more"
        )
    if config.mechanism == "memory_bank" and config.data.key_frame_seconds:
        raise UserError(
            f"config.data.key_frame_seconds={config.data.key_frame_seconds} chooses the frame of "
            "the key view, but mechanism='memory_bank' has no key views: set it to 0"
        )
    if config.mechanism != "moco" and config.data.neighbor_seconds:
        raise UserError(
            f"config.data.neighbor_seconds={config.data.neighbor_seconds} leaves keys of the queue "
            f"out, but mechanism={config.mechanism!r} has no queue: set it to 0"
        )
    if config.mechanism == "memory_bank" and config.symmetric_loss:
        raise UserError(
            "config.symmetric_loss=True exchanges the query view and the key view, but "
            "mechanism='memory_bank' has no key views: set it to False"
        )


def _check_init(config: ml_collections.ConfigDict) -> None:
    scheme, _, path = config.init.partition(":")
    is_valid = not config.init or (scheme in INIT_SCHEMES and path != "")
    remedy = "use run:DIR, saved_model:DIR, keras:FILE, keras_hub:PRESET or checkpoint:FILE"
    _require(is_valid, config, "init", remedy)
    _require(
        config.init != "" or config.init_checksum == "",
        config,
        "init_checksum",
        "it has no effect without config.init, the weights to check",
    )


def _check_augment(config: ml_collections.ConfigDict) -> None:
    """Check that each change of the preset has an effect."""
    changes, preset = recipes.changes(config), recipes.RECIPES[config.augmentation]
    for name in recipes.RGB_SETTINGS:
        if not config.rgb_operations and changes.get(name):
            raise UserError(
                f"config.augment.{name}={changes[name]} has no effect, because "
                "config.rgb_operations=False leaves this operation out: remove one of the two"
            )
    for probability, names in recipes.STRENGTHS.items():
        # A probability that is set to 0 may be one of several that are compared.
        if probability in changes or getattr(preset, probability) > 0:
            continue
        for name in names:
            if name in changes:
                raise UserError(
                    f"config.augment.{name}={changes[name]} has no effect, because the probability "
                    f"of this operation is 0 in config.augmentation={config.augmentation!r}: set "
                    f"config.augment.{probability} too"
                )


def require_moco(config: ml_collections.ConfigDict) -> None:
    """Raise a `UserError` unless the config's mechanism is MoCo.

    Checkpoints of facebookresearch/moco hold a momentum encoder and a queue, which the other
    mechanisms do not have.
    """
    if config.mechanism != "moco":
        raise UserError(
            f"config.mechanism={config.mechanism!r} has no momentum encoder and no queue, which "
            "checkpoints of facebookresearch/moco consist of: use a run or a config of 'moco'"
        )


def without_effect(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Return the settings that differ from their defaults and have no effect.

    They are no errors, because a config file may set them for the mechanism or the schedule that a
    flag changes.

    Args:
        config: A config with the keys of `default_config`.

    Returns:
        A dict from the name of each setting to the setting because of which it has no effect.

    Example:
        >>> config = default_config()
        >>> config.schedule, config.milestones = "cosine", (60, 80)
        >>> without_effect(config)
        {'milestones': "config.schedule='cosine'"}
    """
    mechanism, schedule = config.mechanism, config.schedule
    unused = {
        "momentum": mechanism != "moco" and f"config.{mechanism=}",
        "bank_momentum": mechanism != "memory_bank" and f"config.{mechanism=}",
        "shuffle_bn": mechanism == "memory_bank" and f"config.{mechanism=}",
        "milestones": schedule != "step" and f"config.{schedule=}",
        "decay_every": schedule != "exponential" and f"config.{schedule=}",
        "monitor_source": config.knn_every == 0 and "config.knn_every=0",
    }
    defaults = default_config()
    return {
        key: reason
        for key, reason in unused.items()
        if reason and value_of(config, key) != value_of(defaults, key)
    }


def late_decay(values: Mapping[str, Any], steps_per_epoch: int) -> str | None:
    """Return a warning about a decay of the learning rate that the run is too short for.

    It is no error, because a few steps of a long recipe are a usual first look.

    Args:
        values: A config as `flatten` returns it.
        steps_per_epoch: Number of steps in an epoch.

    Returns:
        The warning, or None if the learning rate decays as the settings say.

    Example:
        >>> from moco_tf.config import default_config, flatten
        >>> late_decay({**flatten(default_config()), "epochs": 150}, steps_per_epoch=10)
        'config.milestones=(120, 160): the run ends after epoch 150, so the learning rate does not \
decay at epoch 160; set earlier milestones, or config.schedule=cosine, which fits any length'
    """
    steps = values["steps"] or values["epochs"] * steps_per_epoch
    is_within_one_epoch = steps <= steps_per_epoch
    remedy = "" if is_within_one_epoch else ", or config.schedule=cosine, which fits any length"
    if values["schedule"] == "cosine" and is_within_one_epoch:
        return (
            f"config.schedule=cosine: it changes the learning rate at the end of an epoch, and the "
            f"run ends after epoch {steps / steps_per_epoch:.4g}, so the learning rate does not "
            "decay; train for more epochs"
        )
    if values["schedule"] == "step":
        milestones = tuple(values["milestones"])
        late = [epoch for epoch in milestones if epoch * steps_per_epoch >= steps]
        if late:
            return (
                f"config.milestones={milestones}: the run ends after epoch "
                f"{steps / steps_per_epoch:.4g}, so the learning rate does not decay at epoch "
                f"{' and '.join(map(str, late))}; set earlier milestones{remedy}"
            )
    if values["schedule"] == "exponential" and values["decay_every"] >= steps:
        return (
            f"config.decay_every={values['decay_every']}: the run ends after {steps} steps, so the "
            f"learning rate does not decay; set a smaller number{remedy}"
        )
    return None


def _require(condition: bool, config: ml_collections.ConfigDict, key: str, remedy: str) -> None:
    if not condition:
        raise UserError(f"config.{key}={value_of(config, key)!r}: {remedy}")


def _divisors(number: int) -> str:
    return " or ".join(str(d) for d in range(1, number + 1) if number % d == 0)
