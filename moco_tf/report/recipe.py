"""What the report says of how a run was trained, beside what the paper did."""

import html
import json

from moco_tf.config import OPERATIONAL, default_config, flatten, total_steps

MECHANISMS = {"moco": "MoCo", "end_to_end": "end to end", "memory_bank": "memory bank"}
# Settings of which the paper says nothing, as of those in OPERATIONAL and of the data.
NOT_THE_PAPERS = (*OPERATIONAL, "seed", "steps", "jit_compile")


def facts(evidence, data, channels):
    """A few facts, as an HTML list.

    Args:
        evidence: a `moco_tf.report.findings.Evidence`.
        data: str, the source's name.
        channels: int, of its images.
    """
    e = evidence
    said = summary(e.config, e.num_images, data, channels, e.metrics)
    items = "".join(
        f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd></div>" for name, value in said.items()
    )
    return f"<dl>{items}</dl>"


def summary(config, num_images, data, channels, metrics):
    """A few facts, in words.

    Args:
        config: the run's config.
        num_images: int, that it trains on.
        data: str, the source's name.
        channels: int, of its images.
        metrics: the lines of metrics.jsonl, dicts.

    Returns:
        `{what it is about: words}`.
    """
    steps_per_epoch = num_images // config.batch_size
    epochs = total_steps(config, steps_per_epoch) / steps_per_epoch
    stem = "" if config.stem == "imagenet" else f", {config.stem} stem"
    of_channels = "" if channels == 3 else f", {channels} channels"
    dictionary = {
        "moco": f"queue of {config.queue_size:,} keys, m = {config.momentum:g}",
        "memory_bank": f"memory bank of {num_images:,}, {config.queue_size:,} of them drawn",
        "end_to_end": f"the batch, {config.batch_size:,} keys",
    }[config.mechanism]
    said = {
        "Mechanism": MECHANISMS[config.mechanism],
        "Encoder": f"{config.encoder}{stem}, {config.head} head to {config.dim}",
        "Images": f"{num_images:,} of {data}{of_channels}, views of {config.image_size} px",
        "Dictionary": dictionary,
        "Temperature": f"{config.temperature:g}",
        "Batch": f"{config.batch_size:,} images, {config.bn_groups} BatchNormalization groups",
        "Learning rate": f"{config.learning_rate:g} for 256 images, {config.schedule} schedule"
        if config.scale_learning_rate
        else f"{config.learning_rate:g}, {config.schedule} schedule",
        "Augmentation": config.augmentation,
        "Length": f"{epochs:g} epochs of {steps_per_epoch:,} steps",
    }
    if seconds := _seconds(metrics, config.batch_size):
        said["Time in steps"] = _duration(seconds)
    return said


def _seconds(metrics, batch_size):
    """How long the steps of metrics.jsonl took, by the rates that its lines say."""
    seconds, before = 0.0, 0
    for line in metrics:
        if line.get("images_per_second", 0) > 0:
            seconds += (line["step"] - before) * batch_size / line["images_per_second"]
            before = line["step"]
    return seconds


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def settings(config):
    """HTML tables: the settings that differ from the paper's, beside these, and all settings."""
    mine, differing = flatten(config), differing_settings(config)

    def row(key):
        value = differing[key][1] if key in differing else ""
        return (
            f"<tr><td><code>{key}</code></td><td>{_value(mine[key])}</td>"
            f"<td>{_value(value)}</td></tr>"
        )

    def table(keys):
        head = "<tr><th>setting</th><th>this run</th><th>the paper (MoCo v1, ImageNet)</th></tr>"
        return f'<div class="wide"><table>{head}{"".join(map(row, keys))}</table></div>'

    text = f'<div id="differing">{table(differing)}</div>' if differing else ""
    if not differing:
        text = '<p class="note">Every setting is the paper\'s.</p>'
    return f"{text}<details><summary>All {len(mine)} settings</summary>{table(mine)}</details>"


def differing_settings(config):
    """The settings that differ from the paper's: `{key: (the run's value, the paper's)}`."""
    mine, papers = flatten(config), flatten(default_config())
    return {
        key: (mine[key], papers[key])
        for key in mine
        if mine[key] != papers[key] and key not in NOT_THE_PAPERS and not key.startswith("data.")
    }


def _value(value):
    return html.escape(value if isinstance(value, str) else json.dumps(value))
