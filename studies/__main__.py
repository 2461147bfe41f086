"""The command `python -m studies`, which `make study` runs."""

import shlex
import sys
from collections.abc import Sequence

from absl import flags

from moco_tf.cli import app
from moco_tf.errors import UserError
from studies import seeds

HELP = """Run the paper's experiments, and report which of its findings they reproduce.

    python -m studies                            (make study)
    python -m studies --only=momentum,width --seeds=0
    python -m studies --figures_only             (figures and README.md only)

The experiments are mechanisms, momentum, shuffling, v2, epochs and width; studies/experiments.py
defines the settings of every run. By default they train on the sample photographs, which takes
an hour and a half on two idle CPU cores. A run corresponds to these commands:

    python train.py --config=studies/config.py --config.epochs=8 --config.KEY=VALUE --workdir=DIR
    python evaluate.py --protocol=knn --workdir=DIR
    python evaluate.py --protocol=linear --cached --workdir=DIR

The command writes results.json to the directory --out after every run, and the figures and
README.md at the end. Run the same command again to continue a study that was stopped. Checkpoints
of finished runs are deleted.
"""

# Settings that are controlled by the study.
CONTROLLED_SETTINGS = {
    "epochs": "use --epochs",
    "steps": "use --epochs",
    "seed": "use --seeds",
    "knn_every": "leave it out, since the kNN monitor runs where a figure needs it",
}


def define_flags(values: flags.FlagValues, arguments: list[str]) -> None:
    """Define the flags of the command."""
    app.define_config_flag(
        values, arguments, "Config file that all runs have in common.", "studies/config.py"
    )
    flags.DEFINE_string(
        "out",
        "studies/photos",
        "Directory for results.json, the figures and README.md.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "workdir", "runs/study", "Local directory for the run directories.", flag_values=values
    )
    seeds.define_flag(values, default=[0, 1, 2])
    flags.DEFINE_integer(
        "epochs",
        8,
        "Epochs of the base config; some experiments train for a multiple of it.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_list(
        "only", [], "Experiments to run, separated by commas; by default all.", flag_values=values
    )
    flags.DEFINE_bool(
        "figures_only",
        False,
        "Whether to only write the figures and README.md, from the results in --out.",
        flag_values=values,
    )


def run_or_plot(values: flags.FlagValues, arguments: Sequence[str]) -> int:
    """Run a study, or only write its figures and README.md, and return the exit status."""
    for key, remedy in CONTROLLED_SETTINGS.items():
        if f"config.{key}" in values:
            raise UserError(f"--config.{key} is controlled by the study: {remedy}")
    if values.figures_only:
        for name in ("config", "workdir", "seeds", "epochs", "only"):
            if values[name].present:
                raise UserError(
                    f"--{name} has no effect with --figures_only, which reads everything from "
                    "results.json: leave it out"
                )
    else:
        stopped_by = _run(values, arguments)
        if stopped_by is not None:
            return 128 + stopped_by
    from studies import readme

    for path in readme.write(values.out):
        print(f"wrote {path}")
    return 0


def _run(values: flags.FlagValues, arguments: Sequence[str]) -> int | None:
    from moco_tf.config import flatten
    from moco_tf.data import sources
    from studies import experiments, study
    from studies.experiments import NAMES

    for name in values.only:
        if name not in NAMES:
            raise UserError(f"--only={name}: choose from {', '.join(NAMES)}")
    chosen_seeds = seeds.parse(values)
    config = values.config.copy_and_resolve_references()
    config.epochs, config.steps = values.epochs, 0
    names = values.only or NAMES
    base = flatten(config)
    num_images = len(sources.from_config(config).pretrain)
    experiments.require_enough_images(base, names, num_images)
    planned = {
        name: study.Planned(
            settings,
            experiments.cost(base, settings),
            experiments.is_monitored(base, settings),
        )
        for name, settings in experiments.plan(base, names).items()
    }
    return study.run(
        config,
        planned,
        seeds=chosen_seeds,
        out=values.out,
        workdir=values.workdir,
        command=shlex.join(["python", "-m", "studies", *arguments]),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return app.run(
        app.Command(
            "studies",
            HELP,
            define_flags,
            lambda values: run_or_plot(values, arguments),
        ),
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
