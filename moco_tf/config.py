"""The settings of a pre-training run. Every default is the paper's.

This module loads without TensorFlow, so that config files and flags can be checked quickly.
"""

import json
import math
from typing import Any

import ml_collections

from moco_tf.data.recipes import RECIPES
from moco_tf.data.sources.source import SOURCE_NAMES
from moco_tf.errors import UserError

# Settings that may change when a run is resumed: they affect what is logged and saved, not what is
# computed.
OPERATIONAL = ("checkpoint_every", "knn_every", "log_every", "data.on_error")

POSITIVE = (
    "dim",
    "temperature",
    "bn_groups",
    "image_size",
    "batch_size",
    "epochs",
    "learning_rate",
    "decay_every",
    "log_every",
    "checkpoint_every",
)
NOT_NEGATIVE = ("seed", "steps", "knn_every", "weight_decay")
FRACTIONS = ("momentum", "bank_momentum", "sgd_momentum")


def default_config() -> ml_collections.ConfigDict:
    """Return the config of MoCo v1 on ImageNet (section 4 of the paper).

    Only `data.source` has no default.

    Returns:
        A locked `ml_collections.ConfigDict`: its values can be changed, but no keys can be added.

    Example:
        >>> config = default_config()
        >>> config.encoder, config.queue_size, config.momentum, config.temperature
        ('resnet50', 65536, 0.999, 0.07)
    """
    config = ml_collections.ConfigDict()
    config.seed = 0
    # The method (sections 3.2 and 3.3).
    config.mechanism = "moco"  # or "memory_bank" or "end_to_end", which the paper compares it with
    config.encoder = "resnet50"
    config.stem = "imagenet"  # or "small", for images of about 32 pixels
    config.head = "linear"  # or "mlp", the projection head of MoCo v2
    config.dim = 128  # length of queries and keys
    config.queue_size = 65536  # K, number of negatives; 0 for end_to_end, which uses the batch
    config.momentum = 0.999  # m, of the key encoder (moco only)
    config.bank_momentum = 0.5  # of the stored representations (memory_bank only)
    config.temperature = 0.07
    config.bn_groups = 8  # BatchNormalization groups of the global batch: the paper's 8 GPUs
    config.shuffle_bn = True
    config.symmetric_loss = False  # True: each view of an image is query and key in turn
    # The data.
    config.data = ml_collections.ConfigDict()
    config.data.source = ""
    config.data.on_error = "skip"  # or "fail": stop at an image that cannot be read
    config.data.image_feature = "image/encoded"  # tfrecord: feature with the encoded image
    config.data.label_feature = "image/class/label"  # tfrecord: feature with the label, or ""
    config.data.tfds_dir = ""  # tfds: directory of the data sets; "" for the default directory
    config.augmentation = "v1"  # or "v2", or "cifar10", the reference's recipe for CIFAR-10
    config.rgb_operations = True  # False: no saturation, hue and grayscale in the augmentation
    config.image_size = 224  # side of a view in pixels
    # The optimization (section 4).
    config.batch_size = 256  # over all devices
    config.epochs = 200
    config.steps = 0  # length of the run in steps; 0 for `epochs`
    config.learning_rate = 0.03  # for 256 images; scaled linearly with batch_size
    config.scale_learning_rate = True  # False: learning_rate is used for every batch size
    config.schedule = "step"  # or "cosine" (MoCo v2) or "exponential" (Instagram-1B)
    config.milestones = (120, 160)  # epochs at which "step" multiplies the rate by 0.1
    config.decay_every = 62500  # steps after which "exponential" multiplies the rate by 0.9
    config.sgd_momentum = 0.9
    config.weight_decay = 1e-4
    config.precision = "float32"  # or "mixed_bfloat16" or "mixed_float16"
    config.jit_compile = False  # True: compile the whole step with XLA (one device only)
    # Logging and saving.
    config.log_every = 10  # steps between lines of metrics.jsonl
    config.checkpoint_every = 1000  # steps
    config.knn_every = 10  # epochs between evaluations by the kNN monitor; 0 for none
    return config.lock()


def check(config: ml_collections.ConfigDict, num_replicas: int = 1) -> None:
    """Check a config for values that cannot work.

    Args:
        config: A config with the keys of `default_config`.
        num_replicas: Number of devices that share the global batch.

    Raises:
        UserError: For the first mistake, with its key, its value and the remedy.
    """
    for key, choices in _choices().items():
        _require(_get(config, key) in choices, config, key, f"choose {' or '.join(choices)}")
    _parse_encoder_name(config.encoder)
    for key in POSITIVE:
        _require(_get(config, key) > 0, config, key, "must be greater than 0")
    for key in NOT_NEGATIVE:
        _require(_get(config, key) >= 0, config, key, "must be 0 or greater")
    for key in FRACTIONS:
        _require(0 <= _get(config, key) <= 1, config, key, "must be between 0 and 1")
    _require(bool(config.data.source), config, "data.source", f"set it to {SOURCE_NAMES}")
    _check_mechanism(config)

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
    if config.jit_compile and num_replicas > 1:
        raise UserError(
            f"config.jit_compile=True is supported on one device, but there are {num_replicas}: "
            "set it to False"
        )


def _choices() -> dict[str, tuple[str, ...]]:
    # Imported here because these modules need Keras; see the first lines of this module.
    from moco_tf.encoders.heads import HEADS
    from moco_tf.encoders.resnet import STEMS
    from moco_tf.schedules import SCHEDULES

    return {
        "mechanism": ("moco", "memory_bank", "end_to_end"),
        "stem": STEMS,
        "head": HEADS,
        "augmentation": tuple(RECIPES),
        "schedule": SCHEDULES,
        "precision": ("float32", "mixed_bfloat16", "mixed_float16"),
        "data.on_error": ("skip", "fail"),
    }


def _parse_encoder_name(name: str) -> None:
    from moco_tf.encoders.resnet import parse_name

    parse_name(name)


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
    if config.mechanism == "memory_bank" and config.symmetric_loss:
        raise UserError(
            "config.symmetric_loss=True exchanges the query view and the key view, but "
            "mechanism='memory_bank' has no key views: set it to False"
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


def chance_loss(config: ml_collections.ConfigDict) -> float:
    """Return the loss, in nats, of a model that cannot tell the positive from the negatives.

    Example:
        >>> round(chance_loss(default_config()), 2)
        11.09
    """
    return math.log(num_negatives(config) + 1)


def chance_formula(config: ml_collections.ConfigDict) -> str:
    """Return the formula of `chance_loss`: `"ln(N)"` for a batch of N images, or `"ln(K+1)"`."""
    return "ln(N)" if config.mechanism == "end_to_end" else "ln(K+1)"


def num_negatives(config: ml_collections.ConfigDict) -> int:
    """Return the number of negatives of each query."""
    return config.batch_size - 1 if config.mechanism == "end_to_end" else config.queue_size


def total_steps(config: ml_collections.ConfigDict, steps_per_epoch: int) -> int:
    """Return the number of steps of the whole run."""
    return config.steps or config.epochs * steps_per_epoch


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return a config as one flat dict of JSON values: `{"data.source": "photos", ...}`."""
    flat = {}
    for key, value in json.loads(config.to_json_best_effort()).items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": v for inner, v in value.items()})
        else:
            flat[key] = value
    return flat


def _get(config: ml_collections.ConfigDict, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def _require(condition: bool, config: ml_collections.ConfigDict, key: str, remedy: str) -> None:
    if not condition:
        raise UserError(f"config.{key}={_get(config, key)!r}: {remedy}")


def _divisors(number: int) -> str:
    return " or ".join(str(d) for d in range(1, number + 1) if number % d == 0)
