"""The experiments of the study: the settings of every run, its name and its cost.

A run is defined by the settings in which it differs from the base config. Runs that belong to two
experiments are trained once.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from moco_tf.config import OPERATIONAL
from moco_tf.encoders.resnet import parse_name
from moco_tf.errors import UserError

Settings = dict[str, Any]

NAMES = ("mechanisms", "momentum", "shuffling", "v2", "epochs", "width")

# Settings that may change in a run, because training does not depend on them, but not in a study,
# whose records are compared: the views and the images that the backbones are evaluated on.
OF_EVALUATION = ("evaluation_size", "monitor_source")

UNTRAINED: Settings = {"epochs": 0}  # Random initialization.
MOMENTA = (0.0, 0.9, 0.99, 0.999, 0.9999)  # The values in the paper's table.
MONITORED_EXPERIMENT = "shuffling"  # Its figure shows kNN accuracy after every epoch.

# Measured costs in units of one epoch of the base config: the cost of a run besides its training
# steps, the additional cost of the kNN monitor in each epoch, and factors of the cost of an epoch.
FIXED_COST = 1.5
MONITOR_COST = 0.5
STEP_COST = {"moco": 1.0, "end_to_end": 1.4, "memory_bank": 0.8}
WIDTH_COST = 1.8  # The factor of an encoder with twice the channels.


def experiments(base: Mapping[str, Any]) -> dict[str, list[Settings]]:
    """Return the settings of the runs of each experiment.

    Args:
        base: The base config, as `moco_tf.config.flatten` returns it.

    Returns:
        For each of `NAMES` a list of settings, `{config key: value}`, in the order of the paper's
        figure or table. `epochs` is 0 for random initialization.
    """
    sizes = [max(1, base["queue_size"] * factor // 16) for factor in (1, 4, 16, 64)]
    batch_sizes = [max(1, base["batch_size"] * factor // 2) for factor in (1, 2, 4, 8)]
    wide = base["encoder"] + "w2"
    return {
        # Figure 3.
        "mechanisms": [
            *[{"mechanism": "moco", "queue_size": size} for size in sizes],
            *[{"mechanism": "memory_bank", "queue_size": size} for size in sizes],
            *[
                {"mechanism": "end_to_end", "queue_size": 0, "batch_size": size}
                for size in batch_sizes
            ],
        ],
        # Section 4.1, "Ablation: momentum".
        "momentum": [UNTRAINED, *[{"momentum": momentum} for momentum in MOMENTA]],
        # Section 3.3. Smaller groups leak more information.
        "shuffling": [
            {"shuffle_bn": shuffle, "bn_groups": groups}
            for groups in (base["bn_groups"], base["bn_groups"] * 4)
            for shuffle in (True, False)
        ],
        "v2": _steps_from_v1_to_v2(base),
        "epochs": [
            UNTRAINED,
            *[{"epochs": max(1, base["epochs"] * factor // 2)} for factor in (1, 2, 4, 8)],
        ],
        # Table 1.
        "width": [UNTRAINED, {}, {"encoder": wide, "epochs": 0}, {"encoder": wide}],
    }


def _steps_from_v1_to_v2(base: Mapping[str, Any]) -> list[Settings]:
    epochs = base["epochs"]
    changes: list[Settings] = [
        {
            "head": "linear",
            "augmentation": "v1",
            "schedule": "step",
            # At 60 and 80 % of the run, like the paper's 120 and 160 of 200 epochs.
            "milestones": [round(0.6 * epochs), round(0.8 * epochs)],
            "temperature": 0.07,
        },
        {"head": "mlp"},
        {"augmentation": "v2"},
        {"schedule": "cosine", "milestones": base["milestones"]},
        {"temperature": 0.2},
    ]
    rows = [changes[0]]
    for change in changes[1:]:
        rows.append({**rows[-1], **change})
    return rows


def differences(base: Mapping[str, Any], settings: Settings) -> Settings:
    """Return the settings that differ from the base config, sorted by key."""
    return {key: settings[key] for key in sorted(settings) if settings[key] != base[key]}


def run_name(base: Mapping[str, Any], settings: Settings) -> str:
    """Return the name of a run, which can be part of a path.

    Example:
        >>> base = {"mechanism": "moco", "queue_size": 1024}
        >>> run_name(base, {"mechanism": "memory_bank", "queue_size": 64})
        'mechanism=memory_bank,queue_size=64'
        >>> run_name(base, {"mechanism": "moco"})
        'base'
    """

    def format_value(value: Any) -> str:
        return "-".join(map(str, value)) if isinstance(value, list) else str(value)

    pairs = differences(base, settings).items()
    return ",".join(f"{key}={format_value(value)}" for key, value in pairs) or "base"


def plan(base: Mapping[str, Any], names: Collection[str]) -> dict[str, Settings]:
    """Return the runs of some experiments, each once.

    Args:
        base: The base config, as for `experiments`.
        names: Names of experiments, among `NAMES`.

    Returns:
        `{name of the run: settings that differ from the base}`, in the order of `experiments`.
    """
    table = experiments(base)
    return {
        run_name(base, settings): differences(base, settings)
        for name in NAMES
        if name in names
        for settings in table[name]
    }


def is_monitored(base: Mapping[str, Any], settings: Settings) -> bool:
    """Return whether a run needs a kNN curve, whichever experiments are selected."""
    return run_name(base, settings) in plan(base, [MONITORED_EXPERIMENT])


def cost(base: Mapping[str, Any], settings: Settings) -> float:
    """Return the estimated cost of a run, in epochs of the base config."""
    config = {**base, **settings}
    if not config["epochs"]:
        return FIXED_COST
    epoch = STEP_COST[config["mechanism"]]
    _, width = parse_name(config["encoder"])
    if width > parse_name(base["encoder"])[1]:
        epoch *= WIDTH_COST
    if is_monitored(base, settings):
        epoch += MONITOR_COST
    return FIXED_COST + config["epochs"] * epoch


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a flat config that must be equal for two studies to be the same.

    That is everything but the settings of logging and saving, and the seed, which differs between
    the runs of a study.
    """
    ignored = {*OPERATIONAL, "seed"}.difference(OF_EVALUATION)
    return {key: config[key] for key in sorted(config) if key not in ignored}


def require_enough_images(base: Mapping[str, Any], names: Sequence[str], num_images: int) -> None:
    """Check that the largest dictionaries of the study can be filled, before any run starts.

    Args:
        base: The base config, as for `experiments`.
        names: Names of the selected experiments.
        num_images: Number of training images.

    Raises:
        UserError: If a memory bank would need more negatives, or a batch more images, than there
            are.
    """
    if "mechanisms" not in names:
        return
    for key in ("queue_size", "batch_size"):
        if 4 * base[key] >= num_images:
            raise UserError(
                f"--config.{key}={base[key]}: the experiment 'mechanisms' has runs with four times "
                f"that number, but '{base['data.source']}' has {num_images} images; set it below "
                f"{-(-num_images // 4)}"
            )
