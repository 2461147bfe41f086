"""Pre-trains MoCo.

    python train.py --config=configs/photos.py --workdir=runs/photos

The same command again goes on where the run was stopped. Any setting can be changed on the way:

    python train.py --config=configs/folder.py --config.data.source=folder:PATH --workdir=DIR

With --preview=FILE.png it only draws what would go in.
"""

from absl import flags

from moco_tf import command_line

CONFIG = command_line.define_config_flag("The experiment, configs/NAME.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run directory, new or to go on with.")
PREVIEW = flags.DEFINE_string(
    "preview",
    None,
    "Only write this PNG, of the first images beside the views that are made of them.",
)
command_line.define_strategy_flags()


def main(_):
    from moco_tf import distribution, training

    command_line.require("config")
    if PREVIEW.value:
        training.preview(CONFIG.value, PREVIEW.value)
        print(f"wrote {PREVIEW.value}")
        return 0
    command_line.require("workdir")
    strategy = command_line.make_strategy()
    outcome = training.train(CONFIG.value, WORKDIR.value, strategy)
    if outcome.stopped_by is None:
        line, status = (
            f"wrote {WORKDIR.value}/checkpoints, metrics.jsonl, tensorboard, curves.png",
            0,
        )
    else:
        line = (
            f"stopped at step {outcome.step} of {outcome.total_steps}, saved in {WORKDIR.value}; "
            "the same command goes on from there"
        )
        status = 128 + outcome.stopped_by
    with strategy.scope():
        if distribution.is_chief():
            print(line)
    return status


if __name__ == "__main__":
    command_line.run(main)
