"""The study: the paper's experiments on the embedded photographs, and which of its findings show.

    python study.py                                    (make study: about two hours on two cores)
    python study.py --only=momentum,width --seeds=0    (some experiments: mechanisms, momentum,
                                                        shuffling, v2, epochs, width)
    python study.py --draw                             (pictures and README again, of what there is)

studies/experiments.py has the settings of every run. A run is what these commands do:

    python train.py --config=configs/photos.py --config.epochs=8 --config.KEY=VALUE --workdir=DIR
    python evaluate.py --protocol=knn --workdir=DIR
    python evaluate.py --protocol=linear --cached --workdir=DIR

OUT gets results.json after every run, and at the end the pictures and README.md. The same command
goes on where the study was stopped. Checkpoints of finished runs are deleted.
"""

import os
import sys
import time

from absl import flags

from moco_tf.cli import app

CONFIG = app.define_config_flag("What all runs have in common.", "configs/photos.py")
OUT = flags.DEFINE_string("out", "studies/photos", "Where results.json, pictures and README go.")
WORKDIR = flags.DEFINE_string("workdir", "runs/study", "Where the run directories go.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds, separated by commas.")
EPOCHS = flags.DEFINE_integer("epochs", 8, "Epochs of the base.", lower_bound=1)
ONLY = flags.DEFINE_list("only", [], "Experiments, separated by commas; by default all.")
DRAW = flags.DEFINE_bool("draw", False, "Only draw, from OUT/results.json, finished or not.")

# TensorFlow keeps the graph of every training step that it has built, 40 MB a run as measured:
# after so many runs the study goes on in a new process.
RUNS_OF_A_PROCESS = 16

# Settings of a run that the study gives itself.
GIVEN_ELSEWHERE = {
    "epochs": "give --epochs",
    "steps": "give --epochs",
    "seed": "give --seeds",
    "knn_every": "it looks where a picture needs it",
}


def main(_):
    for key, instead in GIVEN_ELSEWHERE.items():
        if f"config.{key}" in flags.FLAGS:
            raise app.UserError(f"--config.{key} is not for the study: {instead}")
    if DRAW.value:
        for name in ("config", "workdir", "seeds", "epochs", "only"):
            if flags.FLAGS[name].present:
                raise app.UserError(
                    f"--{name} means nothing to --draw, which takes all from results.json: leave "
                    "it out"
                )
        return _draw()
    return _run_all(_experiments(), _seeds()) or _draw()


def _draw():
    from studies import readme

    for path in readme.write(OUT.value):
        print(f"wrote {path}")
    return 0


def _experiments():
    from studies.experiments import NAMES

    for name in ONLY.value:
        if name not in NAMES:
            raise app.UserError(f"--only={name}: choose among {', '.join(NAMES)}")
    return ONLY.value or NAMES


def _seeds():
    for seed in SEEDS.value:
        if not seed.isdigit():
            raise app.UserError(f"--seeds={seed}: give whole numbers of 0 or more")
    return [int(seed) for seed in SEEDS.value]


def _run_all(names, seeds):
    """Runs what is not finished; the exit status."""
    import keras
    import numpy as np
    import tensorflow as tf
    from tqdm.auto import tqdm

    from moco_tf.config import check, flatten
    from moco_tf.data import sources
    from moco_tf.evaluation import protocols
    from studies import experiments, results, runs

    config = CONFIG.value.copy_and_resolve_references()
    config.epochs, config.steps = EPOCHS.value, 0
    base = flatten(config)
    source = sources.from_config(config)
    protocols.require_two_labelled_parts(source)
    experiments.require_enough_images(base, names, len(source.pretrain))
    planned = experiments.plan(base, names)
    for settings in planned.values():
        if settings.get("epochs") != 0:
            check(runs.with_settings(config, settings))

    found = results.start(
        OUT.value,
        base,
        seeds,
        command=" ".join(["python", os.path.basename(sys.argv[0]), *sys.argv[1:]]),
        versions={m.__name__: m.__version__ for m in (tf, keras, np)},
        data={
            "source": source.name,
            "num_images": len(source.pretrain),
            "num_train": len(source.train),
            "num_test": len(source.test),
            "num_classes": len(source.class_names),
        },
    )
    results.write(OUT.value, found)  # before hours have passed, if it cannot be
    # Seed by seed, so that what there is of a study that was stopped covers all experiments.
    todo = [
        (name, settings, seed)
        for seed in seeds
        for name, settings in planned.items()
        if results.find(found, name, seed) is None
    ]
    costs = [experiments.cost(base, settings) for _, settings, _ in todo]
    began, before = time.perf_counter(), found["seconds"]
    bar = tqdm(
        total=sum(costs),
        desc="study",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        smoothing=0,
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
    )
    with bar:
        for number, (name, settings, seed) in enumerate(todo):
            bar.set_postfix_str(f"run {number + 1}/{len(todo)}: {name}, seed {seed}")
            run_config = runs.with_settings(config, settings, seed)
            run_config.knn_every = int(experiments.is_monitored(base, settings))
            workdir = os.path.join(WORKDIR.value, name, f"seed{seed}")
            record, stopped_by = runs.run(run_config, workdir, source)
            found["seconds"] = round(before + time.perf_counter() - began, 1)
            if stopped_by is not None:
                results.write(OUT.value, found)
                tqdm.write(f"stopped in run {number + 1}; the same command goes on from there")
                return 128 + stopped_by
            found["runs"].append({"name": name, "seed": seed, "settings": settings, **record})
            results.write(OUT.value, found)
            runs.delete_checkpoints(workdir)
            bar.update(costs[number])
            pace = (time.perf_counter() - began) / sum(costs[: number + 1])
            left = tqdm.format_interval(pace * sum(costs[number + 1 :]))
            tqdm.write(
                f"run {number + 1}/{len(todo)}, {name}, seed {seed}: "
                f"kNN {record['knn_top1']:.3f}, linear {record['linear_top1']:.3f}, "
                f"{record['seconds']:.0f} s; {left} left"
            )
            sys.stdout.flush()
            if (number + 1) % RUNS_OF_A_PROCESS == 0:
                bar.close()
                _start_again()
    return 0


def _start_again():
    # Without what command_line sets where nobody has: it would take it for a person's wish.
    environment = {k: v for k, v in os.environ.items() if (k, v) != ("TF_CPP_MIN_LOG_LEVEL", "3")}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


if __name__ == "__main__":
    app.run(main)
