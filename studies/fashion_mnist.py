"""The command `python -m studies.fashion_mnist`: MoCo on Fashion-MNIST and its test images."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
schedule and with one of twice the epochs.

The command writes results.json to the directory --out after every run. Run the same command again
to continue a study that was stopped: a training continues from its last checkpoint, and finished
fine-tunings are kept.
"""

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
# Settings of fine-tuning by the fraction of the labels. The learning rates are those of the
# fine-tuning of the demo. Whole images were more accurate than crops on training images that were
# set aside, from both initializations.
SCHEDULES: dict[float, dict[str, Any]] = {
    0.01: {"epochs": 40, "batch_size": 64},
    0.1: {"epochs": 20, "batch_size": 64},
    1.0: {"epochs": 10, "batch_size": 256},
}
SHARED = {"learning_rate": 0.1, "head_learning_rate": 1.0, "crop_scale": [1.0, 1.0]}
# Factor of the epochs of the longer supervised training. With all labels, these epochs take as long
# as the pre-training, so MoCo and the rival have about the same time.
LONGER = 2
NUM_TRAIN, NUM_TEST = 60_000, 10_000


# Images per second of pre-training on two idle cores, for the estimate of the time: resnet8 as
# measured, resnet18 by its share of the speed in the benchmark of the training step.
SPEEDS = {"resnet8": 2300, "resnet18": 115}
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
        f"Encoders, separated by commas: {' and '.join(SPEEDS)}.",
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


def finetunings(is_longer: bool = False) -> dict[str, dict[str, Any]]:
    """Return the settings of fine-tuning for each fraction of the labels.

    Args:
        is_longer: Whether to train longer.

    Returns:
        Settings by names such as `"0.1"`, or `"0.1 longer"`.
    """
    factor = LONGER if is_longer else 1
    return {
        f"{fraction:g}{' longer' if is_longer else ''}": {
            **SHARED,
            **schedule,
            "epochs": factor * schedule["epochs"],
            "label_fraction": fraction,
        }
        for fraction, schedule in SCHEDULES.items()
    }


def plan(encoders: Sequence[str], pretrain_steps: int, batch_size: int) -> "dict[str, Planned]":
    """Return the runs of the study by their names.

    Args:
        encoders: Names of the encoders.
        pretrain_steps: Number of steps of pre-training.
        batch_size: Batch size of pre-training.

    Returns:
        Runs, whose costs are estimated seconds on two idle cores.
    """
    from studies.labels import Labels
    from studies.study import Planned

    untrained = {"epochs": 0, "steps": 0}
    planned = {"pixels": Planned(untrained, FIXED_SECONDS, labels=Labels(is_pixels=True))}
    same, longer = finetunings(), finetunings(is_longer=True)
    for encoder in encoders:
        speed = SPEEDS[encoder]
        fixed = FIXED_SECONDS + (NUM_TRAIN + NUM_TEST) / (FEATURES_SPEED * speed)
        cost = fixed + _images(same) / speed
        planned[f"{encoder}-moco"] = Planned(
            {"encoder": encoder},
            cost + pretrain_steps * batch_size / speed,
            is_monitored=True,
            labels=Labels(finetunings=same),
        )
        planned[f"{encoder}-random"] = Planned(
            {"encoder": encoder, **untrained},
            cost + _images(longer) / speed,
            labels=Labels(finetunings={**same, **longer}),
        )
    return planned


def _images(settings: dict[str, dict[str, Any]]) -> float:
    """Return the images whose pre-training takes as long as some fine-tunings."""
    return sum(
        one["epochs"]
        * (one["label_fraction"] * NUM_TRAIN / FINETUNE_SPEED + NUM_TEST / FEATURES_SPEED)
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
        if encoder not in SPEEDS:
            raise UserError(f"--encoders={encoder}: choose from {', '.join(SPEEDS)}")

    from moco_tf.config import flatten, total_steps
    from moco_tf.plots.run import plot_curves
    from studies import experiments, study

    config = base_config(values.data, values.steps)
    num_steps = total_steps(config, NUM_TRAIN // config.batch_size)
    base = flatten(config)
    planned = {
        name: run._replace(settings=experiments.differences(base, run.settings))
        for name, run in plan(values.encoders, num_steps, config.batch_size).items()
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
