"""The command moco-demo: pre-train on the sample photographs, evaluate, export and plot."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from moco_tf.cli import app
from moco_tf.errors import UserError

if TYPE_CHECKING:
    import ml_collections

HELP = """Pre-train on the sample photographs, evaluate, export and plot.

    moco-demo --workdir=runs/demo
    moco-demo --workdir=runs/demo --seeds=0,1,2

For each seed, the demo does the same as these commands, in a separate run
directory:

    python train.py --config=configs/photos.py --config.seed=0 \\
        --workdir=runs/demo/seed0
    python evaluate.py --protocol=knn --workdir=runs/demo/seed0
    python evaluate.py --protocol=linear --cached --workdir=runs/demo/seed0
    python export/saved_model.py --workdir=runs/demo/seed0 \\
        --out=runs/demo/seed0/export/saved_model
    python evaluate.py --protocol=report --workdir=runs/demo/seed0

It also evaluates an untrained encoder and raw pixels, and prints a table of all
results. If the demo was stopped, the same command continues it.
"""

COLUMNS = {"knn": "knn", "linear": "linear_cached"}  # Protocols by their keys in results.json.


def define_flags(values: flags.FlagValues, arguments: list[str]) -> None:
    """Define the flags of the command."""
    app.define_config_flag(
        values,
        arguments,
        "Config file of the runs; --config.KEY=VALUE changes a setting.",
        "configs/photos.py",
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "Directory for the run directories and results.json; required.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "seeds", ["0"], "Random seeds of the runs, separated by commas.", flag_values=values
    )


def demo(values: flags.FlagValues) -> int:
    """Run the demo as the flags say, and return the exit status."""
    import tensorflow as tf

    from moco_tf.config import flatten
    from moco_tf.files import error_reason, write_atomically

    app.require(values, "workdir")
    seeds = values.seeds
    for seed in seeds or [""]:
        if not re.fullmatch("[0-9]+", seed):
            raise UserError(f"--seeds={seed}: use integers of 0 or greater, separated by commas")
    results = []
    for seed in seeds:
        config = values.config.copy_and_resolve_references()
        config.seed = int(seed)
        top1, status = _run(config, os.path.join(values.workdir, f"seed{seed}"))
        if status:
            return status
        results.append(top1)
    _print_table(results)
    path = os.path.join(values.workdir, "results.json")
    summary = {"config": flatten(values.config), "seeds": seeds, "results": results}
    try:
        write_atomically(path, json.dumps(summary, indent=2) + "\n")
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"{path} cannot be written: {error_reason(error)}") from error
    last = os.path.join(values.workdir, f"seed{seeds[-1]}")
    print(f"\nresults         {path}")
    print(f"SavedModel      {last}/export/saved_model")
    print(f"neighbors       {last}/neighbours.png")
    print(f"curves          {last}/curves.png")
    print(f"report          {last}/report.html")
    return 0


def _run(
    config: ml_collections.ConfigDict, workdir: str
) -> tuple[dict[str, dict[str, float]], int]:
    """Train, evaluate and export.

    Returns:
        The top-1 accuracies by backbone and column of the table; and 0, or the exit status if a
        signal stopped the training.
    """
    import tensorflow as tf

    from moco_tf import run_directory
    from moco_tf.backbones.history import Origin
    from moco_tf.backbones.loading import load_backbone
    from moco_tf.config import evaluation_size
    from moco_tf.data import sources
    from moco_tf.evaluation import knn, protocols
    from moco_tf.evaluation.results import write_result
    from moco_tf.export.saved_model import export_saved_model
    from moco_tf.plots.features import plot_neighbors
    from moco_tf.report.baselines import Evaluated, baselines
    from moco_tf.report.findings import PIXELS, RANDOM, TRAINED
    from moco_tf.report.report import write_report
    from moco_tf.training.run import train

    outcome = train(config, workdir)
    if outcome.stopped_by is not None:
        print(f"stopped at step {outcome.step} and saved; run the same command again to resume")
        return {}, 128 + outcome.stopped_by

    source = sources.from_config(config)
    image_size = evaluation_size(config)
    pretrained = load_backbone(workdir)
    measured = run_directory.read_config(workdir)
    untrained = baselines(workdir, measured, source, image_size)
    backbones: dict[str, Any] = {
        PIXELS: untrained[PIXELS],
        RANDOM: untrained[RANDOM],
        "pre-trained": pretrained,
    }
    table: dict[str, dict[str, float]] = {}
    evaluated = Evaluated({}, {})
    for name, backbone in backbones.items():
        print(f"evaluating: {name}", flush=True)
        train_features, test_features = protocols.extract_both(backbone, source, image_size)
        directory = workdir if backbone is pretrained else f"{workdir}/{name.replace(' ', '_')}"
        key = TRAINED if backbone is pretrained else name
        evaluated.features[key] = train_features, test_features
        evaluated.results[key] = {}
        table[name] = {}
        for column, protocol in COLUMNS.items():
            result = protocols.evaluate(protocol, train_features, test_features)
            evaluated.results[key][protocol] = result
            table[name][column] = result["top1"]
            description = {"backbone": name, "data": source.name, "image_size": image_size}
            write_result(directory, {**result, **description})
    plot_neighbors(f"{workdir}/neighbours.png", source, image_size, train_features, test_features)
    saved_model = f"{workdir}/export/saved_model"
    if not tf.io.gfile.exists(saved_model):
        print("exporting the SavedModel", flush=True)
        export_saved_model(pretrained, saved_model, Origin("workdir", workdir), image_size)
    print("writing the report", flush=True)
    # A report uses a part of larger data sets.
    is_same = len(source.train) <= knn.MAX_TRAIN and len(source.test) <= knn.MAX_TEST
    write_report(workdir, source, evaluated=evaluated if is_same else None)
    return table, 0


def _print_table(results: list[dict[str, dict[str, float]]]) -> None:
    import numpy as np

    seeds = f"{len(results)} seed{'s' if len(results) > 1 else ''}"
    print(f"\nTop-1 accuracy on held-out patches, {seeds}")
    print(f"{'':24}{'kNN':>16}{'linear probe':>16}")
    for name in results[0]:
        cells = []
        for column in COLUMNS:
            percents = 100 * np.array([result[name][column] for result in results])
            deviation = f" ± {percents.std(ddof=1):.1f}" if len(results) > 1 else ""
            cells.append(f"{percents.mean():.1f}{deviation} %")
        print(f"{name:24}{cells[0]:>16}{cells[1]:>16}")


COMMAND = app.Command("moco-demo", HELP, define_flags, demo)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    return app.run(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
