"""The settings of a pre-training run, with the paper's as defaults."""

import json
import math

import ml_collections

from moco_tf.augment import RECIPES
from moco_tf.data.source import KINDS
from moco_tf.encoders.heads import HEADS
from moco_tf.encoders.resnet import STEMS, parse_name
from moco_tf.errors import UserError
from moco_tf.schedules import SCHEDULES

# What may change when a run goes on: it alters what is looked at and saved, not what is computed.
OPERATIONAL = ("checkpoint_every", "knn_every", "log_every", "data.on_error")

CHOICES = {
    "mechanism": ("moco", "memory_bank", "end_to_end"),
    "stem": STEMS,
    "head": HEADS,
    "augmentation": tuple(RECIPES),
    "schedule": SCHEDULES,
    "precision": ("float32", "mixed_bfloat16", "mixed_float16"),
    "data.on_error": ("skip", "fail"),
}
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


def default_config():
    """MoCo v1 on ImageNet, section 4 of the paper.

    Returns:
        A locked `ml_collections.ConfigDict`.
    """
    config = ml_collections.ConfigDict()
    config.seed = 0
    # The method (sections 3.2 and 3.3).
    config.mechanism = "moco"  # or "memory_bank", "end_to_end": what it is compared with
    config.encoder = "resnet50"
    config.stem = "imagenet"  # or "small", for images of about 32 pixels
    config.head = "linear"  # or "mlp", MoCo v2's
    config.dim = 128
    config.queue_size = 65536  # K, negatives of a query; 0 for end_to_end, which takes the batch's
    config.momentum = 0.999  # of moco: the key encoder's
    config.bank_momentum = 0.5  # of memory_bank: its representations'
    config.temperature = 0.07
    config.bn_groups = 8  # of the global batch: the paper's 8 GPUs
    config.shuffle_bn = True
    config.symmetric_loss = False  # True: each view of an image is query and key in turn
    # The data.
    config.data = ml_collections.ConfigDict()
    config.data.source = ""
    config.data.on_error = "skip"  # or "fail": stop at an image that cannot be read
    config.data.image_feature = "image/encoded"  # of tfrecord: what holds an image's bytes
    config.data.label_feature = "image/class/label"  # of tfrecord: its label; empty for none
    config.data.tfds_dir = ""  # of tfds: where its data sets lie; empty for its own default
    config.augmentation = "v1"  # or "v2", or "cifar10", the reference's for its CIFAR-10 recipe
    config.rgb_operations = True  # False leaves saturation, hue and grey out of the augmentation
    config.image_size = 224
    # The optimisation (section 4).
    config.batch_size = 256  # over all devices
    config.epochs = 200
    config.steps = 0  # of the whole run; 0 for as many as the epochs have
    config.learning_rate = 0.03  # for 256 images; scaled linearly with batch_size
    config.scale_learning_rate = True  # False: learning_rate is the rate, whatever the batch
    config.schedule = "step"  # or "cosine", MoCo v2's; or "exponential", the billion images'
    config.milestones = (120, 160)  # epochs at which "step" multiplies the rate by 0.1
    config.decay_every = 62500  # steps after which "exponential" multiplies the rate by 0.9
    config.sgd_momentum = 0.9
    config.weight_decay = 1e-4
    config.precision = "float32"  # or "mixed_bfloat16", "mixed_float16"
    config.jit_compile = False  # XLA for the whole step, on one device
    # What is looked at and kept.
    config.log_every = 10  # steps between lines of metrics.jsonl
    config.checkpoint_every = 1000  # steps
    config.knn_every = 10  # epochs between looks of the kNN monitor; 0 for none
    return config.lock()


def check(config, num_replicas=1):
    """Looks for settings that cannot work.

    Args:
        config: a config of `default_config`'s keys.
        num_replicas: int, devices that share the global batch.

    Raises:
        UserError: the first mistake, with the key, its value and the remedy.
    """
    for key, values in CHOICES.items():
        _require(_get(config, key) in values, config, key, f"choose {' or '.join(values)}")
    parse_name(config.encoder)
    for key in POSITIVE:
        _require(_get(config, key) > 0, config, key, "give a number above 0")
    for key in ("seed", "steps", "knn_every", "weight_decay"):
        _require(_get(config, key) >= 0, config, key, "give 0 or more")
    for key in ("momentum", "bank_momentum", "sgd_momentum"):
        _require(0 <= _get(config, key) <= 1, config, key, "give a number from 0 to 1")
    _require(config.data.source, config, "data.source", f"give {KINDS}")
    _check_mechanism(config)

    batch, groups = config.batch_size, config.bn_groups
    if batch < groups or batch % groups:
        fitting = ", ".join(str(g) for g in range(1, batch + 1) if batch % g == 0 and g <= 64)
        raise UserError(
            f"config.batch_size={batch} cannot be cut into config.bn_groups={groups} equal groups: "
            f"for this batch set bn_groups to one of {fitting}"
        )
    if groups % num_replicas:
        raise UserError(
            f"config.bn_groups={groups} cannot be shared equally by {num_replicas} devices: set it "
            f"to a multiple of {num_replicas}, or use {_divisors(groups)} devices"
        )
    if config.shuffle_bn and groups == 1 and config.mechanism != "memory_bank":
        raise UserError(
            "config.shuffle_bn=True shuffles among groups of BatchNormalization, and "
            "config.bn_groups=1 leaves one: set bn_groups to 2 or more, or shuffle_bn to False"
        )
    if config.jit_compile and num_replicas > 1:
        raise UserError(
            f"config.jit_compile=True works on one device, and there are {num_replicas}: "
            "leave it False"
        )


def _check_mechanism(config):
    if config.mechanism != "end_to_end":
        _require(config.queue_size > 0, config, "queue_size", "give a number above 0")
    elif config.queue_size:
        raise UserError(
            f"config.queue_size={config.queue_size} is of mechanism=moco or memory_bank; that of "
            "mechanism=end_to_end has no queue, its negatives being the batch's "
            f"{config.batch_size - 1} others: set queue_size to 0"
        )
    elif config.batch_size == 1:
        raise UserError(
            "config.batch_size=1 leaves mechanism=end_to_end without a negative: give 2 or more"
        )
    if config.mechanism == "memory_bank" and config.symmetric_loss:
        raise UserError(
            "config.symmetric_loss=True exchanges a query with its key view, and "
            "mechanism=memory_bank has no key views: leave it False"
        )


def require_moco(config):
    """Raises a `UserError` unless a config is of MoCo, which alone other implementations know."""
    if config.mechanism != "moco":
        raise UserError(
            f"config.mechanism={config.mechanism!r} has no momentum encoder and queue, of which "
            "checkpoints of facebookresearch/moco are made: give a run, or a config, of moco"
        )


def chance_loss(config):
    """The loss of pure chance in nats: ln(K+1), which is ln(N) for the end-to-end mechanism."""
    return math.log(num_negatives(config) + 1)


def num_negatives(config):
    """The negatives of each query, int."""
    return config.batch_size - 1 if config.mechanism == "end_to_end" else config.queue_size


def total_steps(config, steps_per_epoch):
    """The steps of a whole run, int."""
    return config.steps or config.epochs * steps_per_epoch


def flatten(config):
    """A config as one flat dict: `{"data.source": "photos", ...}`."""
    flat = {}
    for key, value in json.loads(config.to_json_best_effort()).items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": v for inner, v in value.items()})
        else:
            flat[key] = value
    return flat


def _get(config, key):
    for part in key.split("."):
        config = config[part]
    return config


def _require(condition, config, key, remedy):
    if not condition:
        raise UserError(f"config.{key}={_get(config, key)!r}: {remedy}")


def _divisors(number):
    return " or ".join(str(d) for d in range(1, number + 1) if number % d == 0)
