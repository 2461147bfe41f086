"""The command moco-train, which is `python train.py` in a checkout."""

from collections.abc import Sequence

from absl import flags

from moco_tf.cli import app

HELP = """Pre-train an encoder with MoCo.

    python train.py --config=configs/photos.py --workdir=runs/photos

If the run was stopped, the same command resumes it. Any setting of the config
can be changed on the command line:

    python train.py --config=configs/folder.py \\
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
        "PNG file to write, with the first images and their augmented views, instead of training.",
        flag_values=values,
    )
    app.define_strategy_flags(values)


def train(values: flags.FlagValues) -> int:
    """Train or preview as the flags say, and return the exit status."""
    app.require(values, "config")
    if values.preview:
        from moco_tf.training.run import preview

        preview(values.config, values.preview)
        print(f"wrote {values.preview}")
        return 0
    app.require(values, "workdir")
    strategy = app.make_strategy(values)
    from moco_tf import distribution, run_directory
    from moco_tf.training.run import train

    previous = run_directory.latest_checkpoint(values.workdir)
    outcome = train(values.config, values.workdir, strategy)
    has_trained = run_directory.latest_checkpoint(values.workdir) != previous
    with strategy.scope():
        if distribution.is_chief():
            if outcome.stopped_by is None and has_trained:
                print(
                    f"wrote checkpoints, metrics.jsonl, curves.png and tensorboard to "
                    f"{values.workdir}"
                )
            elif outcome.stopped_by is not None:
                print(
                    f"stopped at step {outcome.step} of {outcome.total_steps} and saved to "
                    f"{values.workdir}; run the same command again to resume"
                )
    return 0 if outcome.stopped_by is None else 128 + outcome.stopped_by


COMMAND = app.Command(
    "moco-train", "python train.py", HELP, define_flags, train, lists_settings=True
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    return app.run(COMMAND, argv)
