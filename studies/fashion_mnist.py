"""The command `python -m studies.fashion_mnist`: MoCo on Fashion-MNIST against its baselines."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from absl import flags

from moco_tf.cli import app
from moco_tf.errors import UserError

HELP = """Pre-train on Fashion-MNIST without labels, and compare with the baselines.

    python -m studies.fashion_mnist
    python -m studies.fashion_mnist --encoders=resnet18 --seeds=0

For each seed, the features of MoCo are compared with those of the same network with random
weights and with the pixels: by nearest neighbors, a linear probe, and 1, 5 and 10 labels a class.
Then all layers are fine-tuned with 1, 10 and 100 % of the labels. From random weights, that is the
supervised baseline; it is trained three times as long as well.

Each step is a command of this project, which is printed. results.json is written after every step.
Run the same command again to continue a study that was stopped.
"""

CONFIG = "configs/fashion_mnist.py"
FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
SHOTS = (1, 5, 10)
# Fraction of the labels and number of epochs, chosen so that the numbers of steps are similar.
FINETUNED = ((0.01, 200), (0.1, 40), (1.0, 10))
FINETUNING = ("--learning_rate=0.1", "--head_learning_rate=1", "--crop_scale=0.7,1")
LONGER = 3  # How many times as long the supervised baseline is trained.
PIXELS, RANDOM, MOCO = "raw pixels", "random initialization", "MoCo"
LONGER_SUPERVISED = f"random initialization, {LONGER} times as many epochs"


class Step(NamedTuple):
    """One command of the study.

    Attributes:
        name: Its name, by which a finished step is found.
        command: The script and its arguments.
        result: Path of the JSON file that it writes, or None for a training.
        features: What is evaluated, such as `MOCO`; "" for a training.
    """

    name: str
    command: list[str]
    result: str | None = None
    features: str = ""


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
    flags.DEFINE_list("encoders", ["resnet8"], "Networks, separated by commas.", flag_values=values)
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds, separated by commas.", flag_values=values)
    flags.DEFINE_integer(
        "epochs", 0, "Epochs of pre-training; 0 for those of the config.", 0, flag_values=values
    )
    flags.DEFINE_float(
        "share",
        1.0,
        "Factor of the epochs of fine-tuning, for a quick look; at least one epoch is trained.",
        0.0,
        flag_values=values,
    )


def steps(values: flags.FlagValues, encoder: str, seed: str) -> Iterator[Step]:
    """Yield the steps of a network and a seed, in their order."""
    run = os.path.join(values.workdir, encoder, f"seed{seed}")
    config = [
        *(f"--config={CONFIG}", f"--config.data.source=idx:{values.data}"),
        *(f"--config.encoder={encoder}", f"--config.seed={seed}"),
    ]
    epochs = [f"--config.epochs={values.epochs}"] if values.epochs else []
    yield Step("train", ["train.py", *config, *epochs, f"--workdir={run}"])

    def evaluate(protocol: str, out: str, *arguments: str) -> tuple[list[str], str]:
        name = "linear_cached" if "--cached" in arguments else protocol
        name = "finetune_comparison" if "--compare" in arguments else name
        command = ["evaluate.py", f"--protocol={protocol}", *arguments, f"--output_dir={out}"]
        return command, os.path.join(out, "eval", f"{name}.json")

    backbones = {
        MOCO: [f"--workdir={run}"],
        RANDOM: ["--random_init", *config],
    }
    for features, backbone in backbones.items():
        out = os.path.join(run, features.replace(" ", "_"))
        for protocol, *arguments in (
            ("knn",),
            ("linear", "--cached"),
            ("few-shot", f"--shots={','.join(map(str, SHOTS))}", f"--seed={seed}"),
        ):
            command, result = evaluate(protocol, out, *backbone, *arguments)
            yield Step(f"{features}: {protocol}", command, result, features)
    for fraction, num_epochs in FINETUNED:
        out = os.path.join(run, f"finetuned_{fraction:g}")
        arguments = _finetuning(values, fraction, num_epochs, seed)
        command, result = evaluate("finetune", out, "--compare", *backbones[MOCO], *arguments)
        yield Step(f"fine-tuned: {fraction:g}", command, result, MOCO)
    out = os.path.join(run, "supervised_longer")
    arguments = _finetuning(values, 1.0, LONGER * FINETUNED[-1][1], seed)
    command, result = evaluate("finetune", out, *backbones[RANDOM], *arguments)
    yield Step(LONGER_SUPERVISED, command, result, LONGER_SUPERVISED)


def _finetuning(values: flags.FlagValues, fraction: float, epochs: int, seed: str) -> list[str]:
    """Return the arguments of a fine-tuning with a fraction of the labels."""
    num_epochs = max(1, round(values.share * epochs))
    batch_size = 64 if fraction < 1 else 256
    return [
        *(f"--label_fraction={fraction:g}", f"--epochs={num_epochs}", f"--seed={seed}"),
        *(f"--batch_size={batch_size}", *FINETUNING),
    ]


def accuracies(features: str, result: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Return the accuracies in a result: features, column of the table and top-1.

    Args:
        features: What was evaluated: `PIXELS`, `RANDOM`, `MOCO` or `LONGER_SUPERVISED`.
        result: The result of a protocol. In a comparison of fine-tunings, it names the features.
    """
    protocol = result["protocol"]
    if protocol == "few-shot":
        return [(features, f"{row['shots']}-shot", row["top1"]) for row in result["few_shot"]]
    if protocol == "finetune_comparison":
        return [
            (
                RANDOM if curve["initialisation"].startswith("random") else MOCO,
                f"finetune {curve['label_fraction']:g}",
                curve["top1"],
            )
            for curve in result["curves"]
            if curve["layers"] == "all"
        ]
    if protocol == "finetune":
        return [(features, f"finetune {result['label_fraction']:g}", result["top1"])]
    return [(features, protocol, result["top1"])]


def run(values: flags.FlagValues, arguments: Sequence[str]) -> int:
    """Run the study as the flags say, and return the exit status."""
    for seed in values.seeds or [""]:
        if not re.fullmatch("[0-9]+", seed):
            raise UserError(f"--seeds={seed}: use integers, separated by commas")
    import keras
    import numpy as np
    import tensorflow as tf

    from moco_tf import config_files
    from moco_tf.config import flatten
    from studies import results

    config = config_files.load(CONFIG)
    config.epochs = values.epochs or config.epochs
    config.data.source = f"idx:{values.data}"
    study = results.start(
        values.out,
        flatten(config),
        [int(seed) for seed in values.seeds],
        shlex.join(["python", "-m", "studies.fashion_mnist", *arguments]),
        versions={module.__name__: module.__version__ for module in (tf, keras, np)},
        data={"source": config.data.source},
    )
    results.write(values.out, study)  # Now, so that an error does not appear after hours.
    for seed in study["seeds"]:
        if results.find(study, PIXELS, seed) is None:
            study["runs"].append(_evaluate_pixels(config.data.source, config.image_size, seed))
            results.write(values.out, study)
    planned = [
        (f"{encoder}: {step.name}", int(seed), step)
        for seed in values.seeds
        for encoder in values.encoders
        for step in steps(values, encoder, seed)
    ]
    for number, (name, seed, step) in enumerate(planned, start=1):
        if results.find(study, name, seed) is not None:
            continue
        command = shlex.join(["python", *step.command])
        print(f"step {number}/{len(planned)}: {name}, seed {seed}\n{command}", flush=True)
        start = time.perf_counter()
        status = _call([sys.executable, *step.command])
        if status:
            return status if status > 0 else 128 - status
        seconds = round(time.perf_counter() - start, 1)
        record: dict[str, Any] = {"name": name, "seed": seed, "seconds": seconds}
        if step.result:
            with open(step.result, encoding="utf-8") as file:
                record["accuracies"] = accuracies(step.features, json.load(file))
        study["runs"].append({**record, "command": command})
        study["seconds"] = round(study["seconds"] + seconds, 1)
        results.write(values.out, study)
    return 0


def _call(command: Sequence[str]) -> int:
    """Run a command, and return its exit status, which is negative after a signal.

    Ctrl-C reaches the command too, and SIGTERM is passed on to it. It then saves and stops.
    """
    with subprocess.Popen(command) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:
                    continue
        finally:
            signal.signal(signal.SIGTERM, before)


def _evaluate_pixels(name: str, image_size: int, seed: int) -> dict[str, Any]:
    """Return the record of the pixels as features; the seed is that of the labeled images."""
    import keras

    from moco_tf.data import sources
    from moco_tf.evaluation import protocols
    from moco_tf.evaluation.settings import FewShotSettings

    print(f"{PIXELS}, seed {seed}", flush=True)
    source = sources.load(name)
    shape = (image_size, image_size, source.channels)
    pixels = keras.Sequential([keras.Input(shape), keras.layers.Flatten()])
    train, test = protocols.extract_both(pixels, source, image_size)
    values = []
    for protocol, settings in (
        ("knn", None),
        ("linear_cached", None),
        ("few-shot", FewShotSettings(shots=SHOTS, seed=seed)),
    ):
        result = protocols.evaluate(protocol, train, test, settings)
        values += accuracies(PIXELS, result)
    return {"name": PIXELS, "seed": seed, "accuracies": values}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = app.Command(
        "studies.fashion_mnist",
        "python -m studies.fashion_mnist",
        HELP,
        define_flags,
        lambda values: run(values, arguments),
    )
    return app.run(command, arguments)


if __name__ == "__main__":
    sys.exit(main())
