"""Compare a whole training with lightly's MoCo: images per second, time and kNN accuracy.

    python benchmarks/training.py                                           (about nine minutes)
    python benchmarks/training.py --data=photos,fashion-mnist --seeds=0,1,2 --epochs=8

All contestants train the same network (resnet8 with the small stem and an MLP head) on the same PNG
files with the settings of configs/photos.py: its batches, queue, momentum, temperature, optimizer,
schedule and augmentation. Each training is a process of its own; they run one after the other. The
time is that from the start of the process to the end of its training. The kNN accuracy after each
epoch is that of the same classifier and is computed afterwards. The results are also written to
benchmarks/training.json; --output names another file. `make benchmark-packages` installs lightly.

    ours                     one BatchNormalization group, as lightly
    ours, shuffled           eight groups and shuffled keys, as configs/photos.py
    lightly                  MoCo as in lightly's documentation, with color jitter on each image
    lightly, jitter p = 0.8  with the color jitter's probability that is lightly's default

These differences remain: lightly moves the momentum encoder before the step and moco-tf after it;
lightly converts to grayscale after the color jitter and moco-tf before it, which is the same
for gray images; and moco-tf writes its run directory with checkpoints and metrics.

    photos                   the patches of the `photos` source
    fashion-mnist            the first 8,192 images; needs Debian's package dataset-fashion-mnist
"""

import argparse
import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import machine
import numpy as np
import training_data
import training_summary

CONTESTANTS = {
    "ours": ("training_ours", dict(bn_groups=1)),
    "ours, shuffled": ("training_ours", dict(bn_groups=8)),
    "lightly": ("training_lightly", dict(jitter_probability=1.0)),
    "lightly, jitter p = 0.8": ("training_lightly", dict(jitter_probability=0.8)),
}
# Threads of PyTorch that wait for each other then leave the cores to the workers of the DataLoader,
# which makes the training faster.
ENVIRONMENT = {"training_lightly": {"OMP_WAIT_POLICY": "passive"}}
DATA = {
    "photos": (training_data.write_photos, dict(image_size=32)),
    "fashion-mnist": (training_data.write_fashion_mnist, dict(image_size=28)),
}
# The names are those of moco-tf's config. The rate is for 256 images, as in the papers.
SETTINGS = dict(
    head="mlp",
    dim=128,
    batch_size=128,
    queue_size=1024,
    momentum=0.99,
    temperature=0.1,
    learning_rate=0.24,
    schedule="cosine",
    sgd_momentum=0.9,
    weight_decay=1e-4,
)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=names_of_data, default=["photos"], help=f"{', '.join(DATA)}, or both"
    )
    parser.add_argument("--seeds", type=numbers, default=[0], help="seeds, as in 0,1,2")
    parser.add_argument("--epochs", type=int, default=5, help="number of epochs")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path(__file__).with_suffix(".json"),
        help="the JSON file; the results of other data in it are kept",
    )
    parser.add_argument("--contestant", help=argparse.SUPPRESS)  # In a child, with one seed.
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # In a child.
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error(f"--epochs={options.epochs}: give at least 2")
    if options.contestant:
        train(options)
        return
    if importlib.util.find_spec("lightly") is None:
        sys.exit("error: lightly is not installed: make benchmark-packages installs it")
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    for data in options.data:
        if data == "fashion-mnist" and not pathlib.Path(training_data.FASHION_MNIST).is_dir():
            print("without fashion-mnist: Debian's package dataset-fashion-mnist is not installed")
            continue
        results[data] = compare(data, options.seeds, options.epochs)
        options.output.write_text(json.dumps(results, indent=2) + "\n")


def names_of_data(text):
    """Parse the names of data sets."""
    names = text.split(",")
    if unknown := [name for name in names if name not in DATA]:
        raise argparse.ArgumentTypeError(f"unknown data {unknown[0]!r}: use {' or '.join(DATA)}")
    return names


def numbers(text):
    """Parse numbers that are separated by commas."""
    return [int(number) for number in text.split(",")]


def compare(data, seeds, epochs):
    """Train all contestants on a data set; print and return the results."""
    write, settings = DATA[data]
    runs = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory, "images")
        write(folder)
        images = sum(1 for _ in (folder / "train").glob("*/*.png"))
        for seed in seeds:
            for name in CONTESTANTS:
                runs[name].append(run_child(name, data, folder, seed, epochs))
    if len(counts := {run.pop("parameters") for group in runs.values() for run in group}) > 1:
        sys.exit(f"error: the encoders have different numbers of parameters: {counts}")
    batch = SETTINGS["batch_size"]
    result = {
        "machine": machine.describe("tensorflow", "torch", "lightly"),
        "settings": SETTINGS | settings,
        "images": images,
        "images_per_epoch": images // batch * batch,
        "parameters": counts.pop(),
        "runs": runs,
    }
    result |= training_summary.summarize(result)
    training_summary.show(data, result)
    return result


def run_child(name, data, folder, seed, epochs):
    """Train in a process of its own, and return its times, in seconds, and its accuracies."""
    arguments = [f"--contestant={name}", f"--data={data}", f"--folder={folder}"]
    arguments += [f"--seeds={seed}", f"--epochs={epochs}"]
    with tempfile.TemporaryDirectory() as directory:
        output = pathlib.Path(directory, "result.npz")
        start = time.time()
        child = subprocess.run(
            [sys.executable, __file__, *arguments, f"--output={output}"],
            capture_output=True,
            text=True,
            env=os.environ | ENVIRONMENT.get(CONTESTANTS[name][0], {}),
        )
        if child.returncode:
            sys.exit(f"error: the training of {name!r} failed:\n{child.stderr}")
        result = dict(np.load(output))
    accuracies = [knn(result, epoch) for epoch in range(epochs)]
    run = {
        "seed": seed,
        "seconds": float(result["end"]) - start,
        "seconds_of_epochs": (result["times"] - start).tolist(),
        "knn_top1": accuracies,
        "parameters": int(result["parameters"]),
    }
    print(
        f"{data}, {name}, seed {seed}: {run['seconds']:.0f} s, kNN top-1 "
        f"{', '.join(f'{100 * accuracy:.1f}' for accuracy in accuracies)}",
        flush=True,
    )
    return run


def train(options):
    """Train in this process, and write the result to the output."""
    module_name, arguments = CONTESTANTS[options.contestant]
    [data], [seed] = options.data, options.seeds
    settings = SETTINGS | DATA[data][1]
    module = importlib.import_module(module_name)
    result = module.train(options.folder, settings, options.epochs, seed, **arguments)
    np.savez(options.output, **result)


def knn(result, epoch):
    """Return the kNN accuracy after an epoch, counted from 0."""
    from moco_tf.evaluation.features import Features
    from moco_tf.evaluation.knn import classify

    train, test = (
        Features(
            features=result[f"{part}_features"][epoch],
            indices=np.arange(len(result[f"{part}_labels"])),
            labels=result[f"{part}_labels"],
            num_classes=int(result["train_labels"].max()) + 1,
        )
        for part in ("train", "test")
    )
    return classify(train, test)["top1"]


if __name__ == "__main__":
    main()
