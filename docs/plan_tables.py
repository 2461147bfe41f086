"""The tables of the plans, made from their rules, for docs/result_tables.py."""

import dataclasses

from moco_tf import markdown
from moco_tf.config import flatten
from moco_tf.configs.auto import get_config
from moco_tf.plan.facts import Devices, Images
from moco_tf.plan.rules import RULES, apply

GB = 10**9
LAPTOP = Devices("cpu", "CPU", replicas=1, memory=16 * GB, has_bfloat16=False, cores=4)
GPU = Devices("gpu", "GPU", replicas=1, memory=24 * GB, has_bfloat16=True, cores=16)
LARGE_GPU = dataclasses.replace(GPU, memory=80 * GB)
EIGHT_GPUS = dataclasses.replace(GPU, replicas=8, memory=16 * GB, has_bfloat16=False)
EXAMPLES = {
    "2,000 photos, a laptop": (2_000, LAPTOP),
    "50,000 photos, a laptop": (50_000, LAPTOP),
    "2,000 photos, a GPU with 24 GB": (2_000, GPU),
    "50,000 photos, a GPU with 24 GB": (50_000, GPU),
    "50,000 photos, a GPU with 80 GB": (50_000, LARGE_GPU),
    "ImageNet, 8 GPUs with 16 GB": (1_281_167, EIGHT_GPUS),
}
COLUMNS = {
    "network": "encoder",
    "views": "image_size",
    "precision": "precision",
    "batch": "batch_size",
    "groups": "bn_groups",
    "K": "queue_size",
    "m": "momentum",
    "epochs": "epochs",
}


def rules() -> str:
    """Return the rules of a plan with their sources."""
    rows = [
        [f"[`{rule.setting}`](configuration.md#setting-{rule.setting})", rule.text, rule.source]
        for rule in RULES
    ]
    return markdown.table(["setting", "value", "source"], rows)


def examples() -> str:
    """Return some settings that a plan chooses for photos on different devices."""
    rows = []
    for name, (number, devices) in EXAMPLES.items():
        chosen = apply(_photos(number), devices, flatten(get_config()))
        values = [chosen[key][0] for key in COLUMNS.values()]
        cells = [f"{value:,}" if isinstance(value, int) else str(value) for value in values]
        rows.append([name, *cells])
    return markdown.table(["images and device", *COLUMNS], rows)


def _photos(number: int) -> Images:
    """Return the facts of different color photos with a shorter side of 375 pixels."""
    return Images(
        number=number,
        channels=3,
        sampled=1_024,
        unreadable=0,
        side=375,
        smallest=(375, 500),
        largest=(375, 500),
        sides=(375,) * 1_024,
        is_gray=False,
        consecutive=0.0,
        random=0.0,
        copies=0.0,
        stride=1,
    )
