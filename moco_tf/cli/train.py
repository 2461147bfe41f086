"""The command moco-train, which is `python train.py` in a checkout."""

from collections.abc import Sequence

from absl import flags

from moco_tf.cli import app

HELP = """Pre-train an encoder with MoCo.

    python train.py --config=configs/photos.py --workdir=runs/photos

The same command again resumes the run where it was stopped. Every setting of the config can be
changed on the command line:

    python train.py --config=configs/folder.py --config.data.source=folder:PATH --workdir=DIR

--preview=FILE.png plots the first images and their views instead of training.
"""


def define_flags(values: flags.FlagValues, arguments: list[str]) -> None:
    """Define the flags of the command."""
    app.define_config_flag(values, arguments, "Config file of the run, such as configs/photos.py.")
    flags.DEFINE_string(
        "workdir",
        None,
        "Run directory. A new one is created; an existing run is resumed.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "preview",
        None,
        "Write this PNG file, with the first images beside their augmented views, and exit.",
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
    from moco_tf import distribution
    from moco_tf.training.run import train

    outcome = train(values.config, values.workdir, strategy)
    with strategy.scope():
        if distribution.is_chief():
            if outcome.stopped_by is None:
                print(
                    f"wrote checkpoints, metrics.jsonl, curves.png and tensorboard to "
                    f"{values.workdir}"
                )
            else:
                print(
                    f"stopped at step {outcome.step} of {outcome.total_steps} and saved to "
                    f"{values.workdir}; run the same command again to resume"
                )
    return 0 if outcome.stopped_by is None else 128 + outcome.stopped_by


COMMAND = app.Command("moco-train", "python train.py", HELP, define_flags, train)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    return app.run(COMMAND, argv)
