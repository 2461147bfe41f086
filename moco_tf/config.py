"""The config of a pre-training run: its defaults, and what follows from its values.

`moco_tf/settings.py` lists the settings, and `moco_tf/config_checks.py` checks them. This module
loads without TensorFlow, so that config files and flags can be checked quickly.
"""

import dataclasses
import json
import math
from typing import Any

import ml_collections
from ml_collections.config_dict import placeholder

from moco_tf.data import recipes
from moco_tf.settings import SETTINGS

# Settings that may change when a run is resumed.
OPERATIONAL = tuple(setting.key for setting in SETTINGS if setting.operational)
# What the setting `init` can name, as in "run:DIR".
INIT_SCHEMES = ("run", "saved_model", "keras", "keras_hub", "checkpoint")


def default_config() -> ml_collections.ConfigDict:
    """Return the config of MoCo v1 on ImageNet (section 4 of the paper).

    Only `data.source` has no default.

    Returns:
        A locked `ml_collections.ConfigDict`: its values can be changed, but no keys can be added.

    Example:
        >>> import moco_tf
        >>> config = moco_tf.default_config()
        >>> config.encoder, config.queue_size, config.momentum, config.temperature
        ('resnet50', 65536, 0.999, 0.07)
    """
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        *groups, name = setting.key.split(".")
        parent = values
        for group in groups:
            parent = parent.setdefault(group, {})
        # A placeholder is None until a value of its type is set. It belongs to one config.
        parent[name] = (
            placeholder(setting.value_type) if setting.default is None else setting.default
        )
    return ml_collections.ConfigDict(values).lock()


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


def evaluation_size(config: ml_collections.ConfigDict) -> int:
    """Return the side of the central views of evaluations in pixels."""
    return config.evaluation_size or config.image_size


def suggested_queue_size(num_images: int) -> int:
    """Return a queue size for a data set: the power of two nearest to an eighth of its images.

    Example:
        >>> suggested_queue_size(8116)
        1024
    """
    return 2 ** round(math.log2(max(num_images / 8, 1)))


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


def resolve(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return a config as `flatten` does, with the preset's numbers where it does not change them.

    Example:
        >>> config = default_config()
        >>> flatten(config)["augment.hue"], resolve(config)["augment.hue"]
        (None, 0.4)
    """
    preset = dataclasses.asdict(recipes.RECIPES[config.augmentation])
    values = {}
    for key, value in flatten(config).items():
        number = preset.get(key.removeprefix("augment."))
        values[key] = number if value is None else value
    return json.loads(json.dumps(values))


def value_of(config: ml_collections.ConfigDict, key: str) -> Any:
    """Return the value of a setting by its name, such as `"data.source"`."""
    for part in key.split("."):
        config = config[part]
    return config
