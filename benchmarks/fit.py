"""Times `train.py` on JPEG files beside its two halves, the input pipeline and the training step.

    python benchmarks/fit.py                               (some seven minutes)

MoCo v2's augmentation and head around ResNet-18 at 224, batches of 16, on this machine's CPU. The
three run one after the other, several times; the medians are compared. The table goes to
benchmarks/fit.json as well.

    pipeline        batches of two views alone, as `train.py` draws them
    step            the whole step alone, on one batch, again and again
    train.py        the script, from the second line of its metrics.jsonl on
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import turns
from absl import app, flags
from jpeg_files import write_images

HERE = pathlib.Path(__file__).parent

IMAGES = 1024
BATCH = 16
STEPS = 10  # in a turn, and between two lines of metrics.jsonl

ROUNDS = flags.DEFINE_integer("rounds", 3, "Turns of each half, and runs.", lower_bound=1)
BE = flags.DEFINE_string("be", None, "Be this one; for the script itself.")
DATA = flags.DEFINE_string("data", None, "The folder of the images; for the script itself.")


def main(_):
    if BE.value:
        turns.serve({"pipeline": pipeline, "step": step}[BE.value]())
        return
    with tempfile.TemporaryDirectory() as folder:
        write_images(folder, IMAGES)
        rates = {"pipeline": [], "step": [], "train.py": []}
        for _ in range(ROUNDS.value):
            for name in ("pipeline", "step"):
                command = [__file__, f"--be={name}", f"--data={folder}"]
                median, _ = turns.compare([name], lambda _, command=command: command, rounds=3)
                rates[name].append(STEPS * BATCH / median[name])
            rates["train.py"].append(train(folder))
    median = {name: statistics.median(values) for name, values in rates.items()}
    slower = min(median["pipeline"], median["step"])
    print(f"medians of {ROUNDS.value} rounds, images/s:")
    for name, rate in median.items():
        print(f"{name:10}{rate:8.1f}")
    print(f"train.py reaches {median['train.py'] / slower:.3f} of the slower of the two halves")
    (HERE / "fit.json").write_text(json.dumps({"images_per_second": rates}, indent=2) + "\n")


def config():
    sys.path.insert(0, str(HERE.parent))
    from moco_tf.configs.imagenet_v2 import get_config

    config = get_config()
    config.encoder = "resnet18"
    config.batch_size = BATCH
    config.data.source = f"folder:{DATA.value}"
    return config


def pipeline():
    from moco_tf.training.run import _open_data

    _, batches = _open_data(config())
    iterator = iter(batches.between(0, 1000 * batches.steps_per_epoch))

    def turn():
        for _ in range(STEPS):
            next(iterator)

    return turn


def step():
    import tensorflow as tf

    from moco_tf.training.build import build_model
    from moco_tf.training.run import _open_data

    _, batches = _open_data(config())
    model = build_model(config(), batches.steps_per_epoch)
    model.make_train_function()
    [batch] = batches.between(0, 1)
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())

    def turn():
        for _ in range(STEPS):
            logs = model.train_function(iterator)
        float(logs["loss"])

    return turn


def train(folder):
    """Images a second of a run of four lines, without the first."""
    with tempfile.TemporaryDirectory() as workdir:
        subprocess.run(
            [
                sys.executable,
                "train.py",
                "--config=configs/imagenet_v2.py",
                "--config.encoder=resnet18",
                f"--config.batch_size={BATCH}",
                f"--config.data.source=folder:{folder}",
                f"--config.steps={4 * STEPS}",
                f"--config.log_every={STEPS}",
                f"--workdir={workdir}",
            ],
            cwd=HERE.parent,
            check=True,
            capture_output=True,
        )
        lines = pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines()
    rates = [line["images_per_second"] for line in map(json.loads, lines) if "loss" in line]
    return statistics.median(rates[1:])


if __name__ == "__main__":
    app.run(main)
