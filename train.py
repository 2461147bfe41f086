"""Pre-trains MoCo.

    python train.py --config=configs/photos.py --workdir=runs/photos

The same command again goes on where the run was stopped. Any setting can be changed on the way:

    python train.py --config=configs/folder.py --config.data.source=folder:PATH --workdir=DIR
"""

from absl import flags
from ml_collections import config_flags

from moco_tf import command_line

CONFIG = config_flags.DEFINE_config_file("config", help_string="The experiment, configs/NAME.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run directory, new or to go on with.")
STRATEGY = flags.DEFINE_string("strategy", "default", "tf.distribute strategy: default, mirrored.")
VIRTUAL_DEVICES = flags.DEFINE_integer(
    "virtual_devices", 1, "Logical devices to split the CPU into, for --strategy=mirrored."
)


def main(_):
    from moco_tf import distribution, training

    command_line.require("config", "workdir")
    if VIRTUAL_DEVICES.value != 1:
        distribution.split_cpu(VIRTUAL_DEVICES.value)
    strategy = distribution.make_strategy(STRATEGY.value)
    outcome = training.train(CONFIG.value, WORKDIR.value, strategy)
    if outcome.stopped_by is not None:
        print(
            f"stopped at step {outcome.step} of {outcome.total_steps}, saved in {WORKDIR.value}; "
            "the same command goes on from there"
        )
        return 128 + outcome.stopped_by
    print(f"wrote {WORKDIR.value}/checkpoints, metrics.jsonl, tensorboard and curves.png")


if __name__ == "__main__":
    command_line.run(main)
