"""The experiments of the study: the settings of every run, what a run is called, what it costs.

A run is its settings, as far as they differ from the base's. What two experiments share is one run.
"""

from moco_tf.config import OPERATIONAL
from moco_tf.encoders.resnet import parse_name
from moco_tf.errors import UserError

NAMES = ("mechanisms", "momentum", "shuffling", "v2", "epochs", "width")

UNTRAINED = {"epochs": 0}  # the random initialisation
MOMENTA = (0.0, 0.9, 0.99, 0.999, 0.9999)  # the paper's
CURVES = "shuffling"  # the experiment whose runs the kNN monitor looks at after every epoch

# Of a run beside what its training steps take: relative to an epoch of the base, as measured.
FIXED_COST = 1.5
MONITOR_COST = 0.5
STEP_COST = {"moco": 1.0, "end_to_end": 1.4, "memory_bank": 0.8}
WIDTH_COST = 1.8  # of twice the channels


def experiments(base):
    """The table of experiments.

    Args:
        base: dict, what `moco_tf.config.flatten` makes of the base's config.

    Returns:
        `{name of NAMES: [settings, ...]}`; settings are `{key of a config: value}`, in the order of
        the paper's figure or table. `epochs` is 0 for the random initialisation.
    """
    sizes = [max(1, base["queue_size"] * times // 16) for times in (1, 4, 16, 64)]
    batches = [max(1, base["batch_size"] * times // 2) for times in (1, 2, 4, 8)]
    wide = base["encoder"] + "w2"
    return {
        # Figure 3.
        "mechanisms": [
            *[{"mechanism": "moco", "queue_size": size} for size in sizes],
            *[{"mechanism": "memory_bank", "queue_size": size} for size in sizes],
            *[{"mechanism": "end_to_end", "queue_size": 0, "batch_size": n} for n in batches],
        ],
        # Section 4.1, "Ablation: momentum".
        "momentum": [UNTRAINED, *[{"momentum": momentum} for momentum in MOMENTA]],
        # Section 3.3. Smaller groups give more away.
        "shuffling": [
            {"shuffle_bn": shuffle, "bn_groups": groups}
            for groups in (base["bn_groups"], base["bn_groups"] * 4)
            for shuffle in (True, False)
        ],
        "v2": _from_v1_to_v2(base),
        "epochs": [
            UNTRAINED,
            *[{"epochs": max(1, base["epochs"] * times // 2)} for times in (1, 2, 4, 8)],
        ],
        # Table 1.
        "width": [UNTRAINED, {}, {"encoder": wide, "epochs": 0}, {"encoder": wide}],
    }


def _from_v1_to_v2(base):
    epochs = base["epochs"]
    steps = [
        {
            "head": "linear",
            "augmentation": "v1",
            "schedule": "step",
            # At 60 and 80 % of the run, as the paper's 120 and 160 of 200 epochs.
            "milestones": [round(0.6 * epochs), round(0.8 * epochs)],
            "temperature": 0.07,
        },
        {"head": "mlp"},
        {"augmentation": "v2"},
        {"schedule": "cosine", "milestones": base["milestones"]},
        {"temperature": 0.2},
    ]
    found = [steps[0]]
    for step in steps[1:]:
        found.append({**found[-1], **step})
    return found


def differences(base, settings):
    """What of some settings is not the base's: `{key: value}`, sorted by key."""
    return {key: settings[key] for key in sorted(settings) if settings[key] != base[key]}


def run_name(base, settings):
    """What a run is called, such as "base" or "mechanism=memory_bank,queue_size=64"; it can be part
    of a path."""

    def word(value):
        return "-".join(map(str, value)) if isinstance(value, list) else str(value)

    found = differences(base, settings)
    return ",".join(f"{key}={word(value)}" for key, value in found.items()) or "base"


def plan(base, names):
    """The runs of some experiments, each once.

    Args:
        base: of `experiments`.
        names: some of `NAMES`.

    Returns:
        `{name of the run: settings that differ from the base's}`, in the order of the table.
    """
    table = experiments(base)
    return {
        run_name(base, settings): differences(base, settings)
        for name in NAMES
        if name in names
        for settings in table[name]
    }


def is_monitored(base, settings):
    """Whether a run's kNN curve is wanted, bool; whatever experiments are run."""
    return run_name(base, settings) in plan(base, [CURVES])


def cost(base, settings):
    """What a run takes, float: about as many epochs of the base."""
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


def identity(config):
    """What of a flat config makes two studies the same: all but what is only looked at, and the
    seed, which each run has its own of."""
    return {key: config[key] for key in sorted(config) if key not in (*OPERATIONAL, "seed")}


def require_enough_images(base, names, num_images):
    """Looks whether the largest dictionaries can be filled, before hours have passed.

    Args:
        base, names: of `plan`.
        num_images: int, that a run trains on.

    Raises:
        UserError: a memory bank's negatives, or a batch, are more than there are images.
    """
    if "mechanisms" not in names:
        return
    for key in ("queue_size", "batch_size"):
        if 4 * base[key] >= num_images:
            raise UserError(
                f"--config.{key}={base[key]} makes runs of four times that, and "
                f"'{base['data.source']}' has {num_images} images: give less than a quarter of that"
            )
