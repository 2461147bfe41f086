"""A summary of a run for people to read, and its settings that differ from the paper's."""

from collections.abc import Sequence
from typing import Any

import ml_collections

from moco_tf.config import OPERATIONAL, default_config, resolve
from moco_tf.config_checks import without_effect
from moco_tf.data import recipes
from moco_tf.data.pixels import from_config, range_text

MECHANISMS = {"moco": "MoCo", "end_to_end": "end-to-end", "memory_bank": "memory bank"}
# Settings that the paper does not state. The settings of the data are left out by their prefix.
OF_METHOD = ("data.key_frame_seconds", "data.neighbor_seconds")
NOT_IN_PAPER = (*OPERATIONAL, "seed", "steps", "jit_compile", "bank_momentum")


def summarize(
    config: ml_collections.ConfigDict,
    num_images: int,
    data: str,
    channels: int,
    metrics: Sequence[dict[str, Any]],
) -> dict[str, str]:
    """Return a summary of a run for people to read.

    Args:
        config: Config of the run.
        num_images: Number of images that the run trains on.
        data: Name of the data source.
        channels: Number of channels of the images.
        metrics: Lines of metrics.jsonl.

    Returns:
        A dict from the name of each fact to its description.

    Example:
        >>> from moco_tf.config import default_config
        >>> facts = summarize(default_config(), 1_281_167, "folder:imagenet", 3, [])
        >>> facts["Dictionary"], facts["Length"]
        ('queue of 65,536 keys, m = 0.999', '200 epochs of 5,004 steps')
    """
    steps_per_epoch = num_images // config.batch_size
    stem = "" if config.stem == "imagenet" else f", {config.stem} stem"
    channels_note = "" if channels == 3 else f", {channels} channels"
    pixels = from_config(config, channels)
    if not pixels.are_bytes:
        channels_note += f", {pixels.dtype} values in [{range_text(pixels)}]"
    if config.data.weights:
        weights = ", ".join(f"{weight:g}" for weight in config.data.weights)
        channels_note += f", with the weights {weights}"
    views = f"views of {config.image_size} px"
    if config.evaluation_size:
        views += f", of {config.evaluation_size} px in evaluations"
    dictionary = {
        "moco": f"queue of {config.queue_size:,} keys, m = {config.momentum:g}",
        "memory_bank": f"memory bank of {num_images:,} keys, {config.queue_size:,} of them sampled",
        "end_to_end": f"batch of {config.batch_size:,} keys",
    }[config.mechanism]
    per_images = " per 256 images" if config.scale_learning_rate else ""
    facts = {
        "Mechanism": MECHANISMS[config.mechanism],
        "Encoder": f"{config.encoder}{stem}, {config.head} head with {config.dim} outputs",
        "Images": f"{num_images:,} of {data}{channels_note}, {views}",
        "Dictionary": dictionary,
        "Temperature": f"{config.temperature:g}",
        "Batch": f"{config.batch_size:,} images, {config.bn_groups} BatchNormalization groups",
        "Learning rate": f"{config.learning_rate:g}{per_images}, {config.schedule} schedule",
        "Augmentation": recipes.describe(config),
        "Length": _length(config, steps_per_epoch),
    }
    if seconds := _seconds(metrics, config.batch_size):
        facts["Time in training steps"] = _duration(seconds)
    return facts


def differing_settings(config: ml_collections.ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ from the paper's (MoCo v1 on ImageNet).

    Settings that the paper does not state, such as the seed, are left out, and so are settings
    without an effect, such as the number of epochs of a run whose length is a number of steps.

    Args:
        config: Config of a run.

    Returns:
        A dict from the name of each setting to the run's value and the paper's value.

    Example:
        >>> from moco_tf.config import default_config
        >>> config = default_config()
        >>> config.temperature, config.seed = 0.2, 5
        >>> differing_settings(config)
        {'temperature': (0.2, 0.07)}
    """
    values, paper = resolve(config), resolve(default_config())
    left_out = {*NOT_IN_PAPER, *without_effect(config), *(["epochs"] if config.steps else [])}
    return {
        key: (value, paper[key])
        for key, value in values.items()
        if value != paper[key]
        and key not in left_out
        and (key in OF_METHOD or not key.startswith("data."))
    }


def _length(config: ml_collections.ConfigDict, steps_per_epoch: int) -> str:
    if config.steps:
        epochs = config.steps / steps_per_epoch
        return f"{config.steps:,} steps ({epochs:.3g} epochs of {steps_per_epoch:,} steps)"
    return f"{config.epochs:,} epochs of {steps_per_epoch:,} steps"


def _seconds(metrics: Sequence[dict[str, Any]], batch_size: int) -> float:
    """Return the time that the steps in metrics.jsonl took, computed from the rates in it."""
    seconds, previous_step = 0.0, 0
    for line in metrics:
        if line.get("images_per_second", 0) > 0:
            seconds += (line["step"] - previous_step) * batch_size / line["images_per_second"]
            previous_step = line["step"]
    return seconds


def _duration(seconds: float) -> str:
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole_seconds} s" if minutes else f"{whole_seconds} s"
