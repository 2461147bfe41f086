"""Compare the speed of train.py on JPEG files with its input pipeline and its training step.

    python benchmarks/fit.py                               (about seven minutes)

The run trains a ResNet-18 at 224 pixels with the augmentation and the head of MoCo v2, in batches
of 16, on the CPU. The three contestants run one after the other, several times, and their medians
are compared. The results are also written to benchmarks/fit.json.

    pipeline        only the batches of two views, as train.py reads them
    step            only the whole step, on the same batch again and again
    train.py        the script, from the second line of its metrics.jsonl on
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import turns

HERE = pathlib.Path(__file__).parent

IMAGES = 1024
BATCH = 16
STEPS = 10  # In a turn, and between two lines of metrics.jsonl.


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements of each")
    # In a child: the contestant, and the folder of the images.
    parser.add_argument("--contestant", choices=("pipeline", "step"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        make_turn = {"pipeline": make_pipeline_turn, "step": make_step_turn}[options.contestant]
        turns.serve(make_turn(options.folder))
        return
    with tempfile.TemporaryDirectory() as folder:
        from jpeg_files import write_images

        write_images(folder, IMAGES)

        def command(name):
            return [__file__, f"--contestant={name}", f"--folder={folder}"]

        rates = {"pipeline": [], "step": [], "train.py": []}
        for _ in range(options.rounds):
            for name in ("pipeline", "step"):
                median, _ = turns.compare([name], command, rounds=3)
                rates[name].append(STEPS * BATCH / median[name])
            rates["train.py"].append(train(folder))
    median = {name: statistics.median(values) for name, values in rates.items()}
    slower = min(median["pipeline"], median["step"])
    print(f"medians of {options.rounds} rounds, images/s:")
    for name, rate in median.items():
        print(f"{name:10}{rate:8.1f}")
    print(f"train.py reaches {median['train.py'] / slower:.3f} of the slower of the other two")
    (HERE / "fit.json").write_text(json.dumps({"images_per_second": rates}, indent=2) + "\n")


def make_config(folder):
    """Return the config of the run."""
    from moco_tf.configs.imagenet_v2 import get_config

    config = get_config()
    config.encoder = "resnet18"
    config.batch_size = BATCH
    config.data.source = f"folder:{folder}"
    return config


def make_pipeline_turn(folder):
    """Return a function that reads the batches of one turn."""
    from moco_tf.training.build import build_data

    _, batches = build_data(make_config(folder))
    iterator = iter(batches.between(0, 1000 * batches.steps_per_epoch))

    def take_turn():
        for _ in range(STEPS):
            next(iterator)

    return take_turn


def make_step_turn(folder):
    """Return a function that trains for the steps of one turn."""
    import tensorflow as tf

    from moco_tf.training.build import build_data, build_model

    config = make_config(folder)
    _, batches = build_data(config)
    model = build_model(config, batches.steps_per_epoch)
    model.make_train_function()
    [batch] = batches.between(0, 1)
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())

    def take_turn():
        for _ in range(STEPS):
            logs = model.train_function(iterator)
        float(logs["loss"])

    return take_turn


def train(folder):
    """Return the images per second of a run with four lines of metrics, without the first."""
    with tempfile.TemporaryDirectory() as workdir:
        subprocess.run(
            [
                *(sys.executable, str(HERE.parent / "train.py")),
                "--config=configs/imagenet_v2.py",
                "--config.encoder=resnet18",
                f"--config.batch_size={BATCH}",
                f"--config.data.source=folder:{folder}",
                f"--config.steps={4 * STEPS}",
                f"--config.log_every={STEPS}",
                f"--workdir={workdir}",
            ],
            check=True,
            capture_output=True,
        )
        lines = pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines()
    rates = [line["images_per_second"] for line in map(json.loads, lines) if "loss" in line]
    return statistics.median(rates[1:])


if __name__ == "__main__":
    main()
