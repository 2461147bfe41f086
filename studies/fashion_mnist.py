"""The command `python -m studies.fashion_mnist`: MoCo on Fashion-MNIST and its test images."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from moco_tf.cli import app
from moco_tf.errors import UserError
from studies import seeds

if TYPE_CHECKING:
    from studies.study import Planned

HELP = """Pre-train on Fashion-MNIST, and evaluate on its test images with few and all labels.

    python -m studies.fashion_mnist
    python -m studies.fashion_mnist --encoders=resnet8,resnet18 --seeds=0

For each seed, the study evaluates an encoder that MoCo pre-trained with the settings of
configs/fashion_mnist.py, the same encoder at random initialization, and raw pixels: by kNN, by a
linear probe, with 1, 5 and 10 labels per class, and by fine-tuning with 1, 10 and 100 % of the
labels. Fine-tuning from random initialization is supervised training. It is done with the same
schedule and with one of four times the epochs.

ResNet-18 takes about ten times as long. To finish in a few hours, it is pre-trained for a sixth of
the epochs, and fine-tuned with 1 % of the labels only. Its learning rates are smaller.

The command writes results.json to the directory --out after every run. Run the same command again
to continue a study that was stopped: a training continues from its last checkpoint, and finished
fine-tunings are kept.
"""

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
# Settings of fine-tuning by the fraction of the labels. Whole images were more accurate than crops
# on training images that were set aside, from both initializations.
SCHEDULES: dict[float, dict[str, Any]] = {
    0.01: {"epochs": 40, "batch_size": 64},
    0.1: {"epochs": 20, "batch_size": 64},
    1.0: {"epochs": 10, "batch_size": 256},
}
CROP_SCALE = [1.0, 1.0]
# Factor of the epochs of the longer supervised training. With all labels, these epochs of resnet8
# take about as long as its pre-training. With fewer labels, they take less time.
LONGER = 4
NUM_TRAIN, NUM_TEST = 60_000, 10_000


class Encoder(NamedTuple):
    """What the study does with an encoder.

    Attributes:
        settings: Settings of its pre-training that differ from the config.
        fractions: Fractions of the labels for fine-tuning.
        rates: Learning rates of fine-tuning, of the backbone and of the new layer.
        speed: Measured images per second of pre-training on two idle cores, for the estimate of
            the time.
    """

    settings: dict[str, Any]
    fractions: tuple[float, ...]
    rates: tuple[float, float]
    speed: float


ENCODERS = {
    # The rates of fine-tuning are those of the demo.
    "resnet8": Encoder({}, fractions=(0.01, 0.1, 1.0), rates=(0.1, 1.0), speed=2300),
    # With the learning rate of the config, 0.24, this network learned worse features than random
    # weights have. Of 0.24, 0.06 and 0.015, 0.06 gave the best linear probe after 150 steps, on
    # training images.
    #
    # A rate of 0.2 or more for the new layer is too large for the features of this network, whose
    # norms are large: 20 epochs of fine-tuning with 602 training images ended with 20.9 to 54.6 %
    # on other training images from MoCo after half of its epochs, and with 42.1 to 46.0 % from
    # random weights. With 0.03 for both it was 83.9 % and 79.5 %, and with 0.01 82.5 % from MoCo.
    "resnet18": Encoder(
        {"epochs": 10, "learning_rate": 0.06}, fractions=(0.01,), rates=(0.03, 0.03), speed=190
    ),
}
# How many times as fast fine-tuning and the extraction of features are. Pre-training takes four
# times the arithmetic of a forward pass and fine-tuning three times, but the views of fine-tuning
# are twice as wide, which was measured to take 2.3 times as long.
FINETUNE_SPEED, FEATURES_SPEED = 4 / 3 / 2.3, 4 / 2.3
FIXED_SECONDS = 120  # Of a run, besides training and features: its start, kNN, probes.


def define_flags(values: flags.FlagValues, arguments: list[str]) -> None:
    """Define the flags of the command."""
    flags.DEFINE_string(
        "data", FASHION_MNIST, "Folder of the IDX files of Fashion-MNIST.", flag_values=values
    )
    flags.DEFINE_string(
        "out", "studies/fashion_mnist", "Directory of the results.", flag_values=values
    )
    flags.DEFINE_string(
        "workdir",
        "runs/fashion_mnist",
        "Local directory for the run directories.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "encoders",
        ["resnet8"],
        f"Encoders, separated by commas: {' and '.join(ENCODERS)}.",
        flag_values=values,
    )
    seeds.define_flag(values, default=[0, 1, 2])
    flags.DEFINE_integer(
        "steps",
        0,
        "Number of steps of pre-training, to try the study; 0 for the epochs of the config.",
        lower_bound=0,
        flag_values=values,
    )


def finetunings(encoder: Encoder, is_longer: bool = False) -> dict[str, dict[str, Any]]:
    """Return the settings of fine-tuning for each fraction of the labels.

    Args:
        encoder: The encoder.
        is_longer: Whether to train longer.

    Returns:
        Settings by names such as `"0.1"`, or `"0.1 longer"`.
    """
    settings = {}
    learning_rate, head_learning_rate = encoder.rates
    for fraction in encoder.fractions:
        epochs = SCHEDULES[fraction]["epochs"] * (LONGER if is_longer else 1)
        settings[f"{fraction:g}{' longer' if is_longer else ''}"] = {
            "learning_rate": learning_rate,
            "head_learning_rate": head_learning_rate,
            "crop_scale": CROP_SCALE,
            **SCHEDULES[fraction],
            "epochs": epochs,
            "evaluate_every": epochs,  # After the last epoch only.
            "label_fraction": fraction,
        }
    return settings


def plan(encoders: Sequence[str], config: Any) -> "dict[str, Planned]":
    """Return the runs of the study by their names.

    Args:
        encoders: Names of the encoders.
        config: The base config.

    Returns:
        Runs, whose costs are estimated seconds on two idle cores.
    """
    from moco_tf.config import total_steps
    from studies.labels import Labels
    from studies.runs import with_settings
    from studies.study import Planned

    untrained = {"epochs": 0, "steps": 0}
    planned = {"pixels": Planned(untrained, FIXED_SECONDS, labels=Labels(is_pixels=True))}
    for name in encoders:
        encoder = ENCODERS[name]
        same, longer = (finetunings(encoder, is_longer) for is_longer in (False, True))
        settings = {"encoder": name, **encoder.settings}
        pretraining = with_settings(config, settings)
        num_steps = total_steps(pretraining, NUM_TRAIN // config.batch_size)
        features = (NUM_TRAIN + NUM_TEST) / FEATURES_SPEED
        cost = FIXED_SECONDS + (features + _images(same)) / encoder.speed
        planned[f"{name}-moco"] = Planned(
            settings,
            cost + num_steps * config.batch_size / encoder.speed,
            is_monitored=True,
            labels=Labels(finetunings=same),
        )
        planned[f"{name}-random"] = Planned(
            {"encoder": name, **untrained},
            cost + _images(longer) / encoder.speed,
            labels=Labels(finetunings={**same, **longer}),
        )
    return planned


def _images(settings: dict[str, dict[str, Any]]) -> float:
    """Return the images whose pre-training takes as long as some fine-tunings."""
    return sum(
        one["epochs"] * one["label_fraction"] * NUM_TRAIN / FINETUNE_SPEED
        + NUM_TEST / FEATURES_SPEED
        for one in settings.values()
    )


def base_config(folder: str, steps: int = 0) -> Any:
    """Return the config that the runs have in common.

    Args:
        folder: Folder of the IDX files.
        steps: Number of steps of pre-training, or 0 for the epochs of the config.
    """
    from moco_tf.configs.fashion_mnist import get_config

    config = get_config()
    config.data.source = f"idx:{folder}"
    config.steps = steps
    config.log_every = 100
    return config


def run(values: flags.FlagValues, arguments: Sequence[str]) -> int:
    """Run the study as the flags say, and return the exit status."""
    chosen_seeds = seeds.parse(values)
    for encoder in values.encoders or [""]:
        if encoder not in ENCODERS:
            raise UserError(f"--encoders={encoder}: choose from {', '.join(ENCODERS)}")

    from moco_tf.config import flatten
    from moco_tf.plots.run import plot_curves
    from studies import experiments, study

    config = base_config(values.data, values.steps)
    base = flatten(config)
    planned = {
        name: run._replace(settings=experiments.differences(base, run.settings))
        for name, run in plan(values.encoders, config).items()
    }
    hours = sum(run.cost for run in planned.values()) / 3600
    print(
        f"the whole study takes about {hours:.1f} hours for each of {len(chosen_seeds)} seeds on "
        "two idle CPU cores; finished runs are not run again",
        flush=True,
    )
    command = shlex.join(["python", "-m", "studies.fashion_mnist", *arguments])
    stopped_by = study.run(config, planned, chosen_seeds, values.out, values.workdir, command)
    for encoder in values.encoders:
        run_dir = os.path.join(values.workdir, f"{encoder}-moco", f"seed{chosen_seeds[0]}")
        if os.path.exists(os.path.join(run_dir, "metrics.jsonl")):
            shutil.copy(plot_curves(run_dir), os.path.join(values.out, f"curves-{encoder}.png"))
    return 0 if stopped_by is None else 128 + stopped_by


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = app.Command(
        "studies.fashion_mnist",
        HELP,
        define_flags,
        lambda values: run(values, arguments),
    )
    return app.run(command, arguments)


if __name__ == "__main__":
    sys.exit(main())
