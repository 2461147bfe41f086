"""The command moco-train, which is `python train.py` in a checkout."""

import sys
from collections.abc import Sequence

from absl import flags

from moco_tf.cli import app
from moco_tf.errors import UserError

HELP = """Pre-train an encoder with MoCo.

    python train.py --config=configs/photos.py --workdir=runs/photos

If the run was stopped, the same command resumes it. Any setting of the config
can be changed on the command line:

    python train.py --config=configs/folder.py \\
        --config.data.source=folder:PATH --workdir=DIR

Let a plan choose the settings from your images and devices, and time a few
steps before you train:

    python train.py --plan --config=configs/auto.py \\
        --config.data.source=folder:PATH
    python train.py --config=configs/auto.py \\
        --config.data.source=folder:PATH --workdir=DIR

Before a long run, plot the first images with their augmented views:

    python train.py --config=configs/folder.py \\
        --config.data.source=folder:PATH --preview=views.png
"""


def define_flags(values: flags.FlagValues, arguments: list[str]) -> None:
    """Define the flags of the command."""
    app.define_config_flag(
        values, arguments, "Config file of the run, such as configs/photos.py; required."
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "Run directory, which is created if it does not exist; an existing run is resumed.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "preview",
        None,
        "PNG file to write, with the first images and their augmented views, instead of training. "
        "If --workdir holds a run, its planned settings and measured values are used.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "plan",
        False,
        "Whether to print the settings with their reasons, warnings, and the time and memory of a "
        "few steps, instead of training. It writes only the index of record files and videos.",
        flag_values=values,
    )
    app.define_strategy_flags(values)


def train(values: flags.FlagValues) -> int:
    """Train, plan or preview as the flags say, and return the exit status."""
    app.require(values, "config")
    if values.plan and values.preview:
        raise UserError(f"--plan and --preview={values.preview}: give one of them")
    if values.plan:
        _plan(values)
        return 0
    if values.preview:
        _preview(values)
        return 0
    app.require(values, "workdir")
    strategy = app.make_strategy(values)
    from moco_tf import run_directory, run_metrics, workers
    from moco_tf.training.run import train

    previous = run_directory.latest_checkpoint(values.workdir)
    outcome = train(values.config, values.workdir, strategy)
    has_trained = run_directory.latest_checkpoint(values.workdir) != previous
    with strategy.scope():
        if workers.is_chief():
            if outcome.stopped_by is None and has_trained:
                curves = ", curves.png" if run_metrics.has_curves(values.workdir) else ""
                print(
                    f"wrote checkpoints, metrics.jsonl{curves} and tensorboard to {values.workdir}"
                )
            elif outcome.stopped_by is not None:
                print(
                    f"stopped at step {outcome.step} of {outcome.total_steps} and saved to "
                    f"{values.workdir}; run the same command again to resume"
                )
    return 0 if outcome.stopped_by is None else 128 + outcome.stopped_by


def _preview(values: flags.FlagValues) -> None:
    """Plot the first images of the run that the flags describe, and say where the plot is."""
    # The devices decide which planned settings a run has, and which ones it refuses.
    strategy = app.make_strategy(values)
    from moco_tf import workers
    from moco_tf.training.preview import preview

    with workers.scope(strategy):
        preview(values.config, values.preview, values.workdir)
        if workers.is_chief():
            print(f"wrote {values.preview}")


def _plan(values: flags.FlagValues) -> None:
    """Print a plan, the time of a few steps, and the command that trains with it."""
    strategy = app.make_strategy(values)
    from moco_tf import workers
    from moco_tf.plan import plan, printing, timing
    from moco_tf.training.best import require_not_best

    if values.workdir:
        require_not_best(values.workdir)
    with workers.scope(strategy):
        chief = workers.is_chief()
        planned = plan.make(values.config, values.workdir)
        if chief:
            print(f"{planned.summary}\n{planned}", flush=True)
        if planned.exceeds_memory:
            raise UserError(f"the steps are not timed: {planned.exceeds_memory}")
        if chief:
            print("\ntiming a few steps of this run ...", flush=True)
        measured = timing.measure(planned.config, values.workdir)
    if chief:
        print(f"{timing.lines(measured)}\n\nto train:")
        program = "python train.py" if sys.argv[0].endswith(".py") else COMMAND.name
        print(printing.command(program, _training_flags(values)))


def _training_flags(values: flags.FlagValues) -> list[str]:
    """Return the flags of the command that trains with a plan."""
    names = [name for name in values if values[name].present and name not in ("plan", "workdir")]
    arguments = []
    for name in sorted(names, key=lambda name: (name != "config", name)):
        if values[name].boolean:
            arguments.append(f"--{name}={values[name].value}")
            continue
        # A list has a line for each of its items.
        items = [line.partition("=")[2] for line in values[name].serialize().splitlines()]
        arguments.append(f"--{name}={','.join(items)}")
    return [*arguments, f"--workdir={values.workdir or 'DIR'}"]


COMMAND = app.Command("moco-train", HELP, define_flags, train, lists_settings=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    return app.run(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
