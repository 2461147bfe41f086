"""The demo: pre-trains on the embedded photographs, evaluates, exports, draws.

    python demo.py --workdir=runs/demo
    python demo.py --workdir=runs/demo --seeds=0,1,2    (the README's figures)

For each seed it does what these commands do, in DIR/seed<N>:

    python train.py --config=configs/photos.py --config.seed=N --workdir=DIR
    python evaluate.py --protocol=knn --workdir=DIR
    python evaluate.py --protocol=linear --cached --workdir=DIR      (and --random_init)
    python export/saved_model.py --workdir=DIR --out=DIR/export/saved_model
"""

import json
import os
import sys

from absl import flags

from moco_tf.cli import app

CONFIG = app.define_config_flag("The experiment.", "configs/photos.py")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run directories go.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds, separated by commas.")


def main(_):
    from moco_tf.config import flatten

    app.require("workdir")
    results = []
    for seed in SEEDS.value:
        if not seed.isdigit():
            raise app.UserError(f"--seeds={seed}: give whole numbers of 0 or more")
        config = CONFIG.value.copy_and_resolve_references()
        config.seed = int(seed)
        results.append(_run(config, os.path.join(WORKDIR.value, f"seed{seed}")))
    _print_table(results)
    summary = {"config": flatten(CONFIG.value), "seeds": SEEDS.value, "results": results}
    path = os.path.join(WORKDIR.value, "results.json")
    with open(path, "w") as file:
        json.dump(summary, file, indent=2)
        file.write("\n")
    print(f"\nfigures         {path}")
    _print_paths(os.path.join(WORKDIR.value, f"seed{SEEDS.value[-1]}"))


def _run(config, workdir):
    """Trains, evaluates, exports; returns `{backbone: {column of the table: top-1}}`."""
    import keras

    from moco_tf import encoders, load_backbone
    from moco_tf.backbones import model_card
    from moco_tf.data import sources
    from moco_tf.evaluation import protocols
    from moco_tf.export.saved_model import export_saved_model
    from moco_tf.plots.run import plot_neighbours
    from moco_tf.training import run

    outcome = run.train(config, workdir)
    if outcome.stopped_by is not None:
        print(f"stopped at step {outcome.step}; the same command goes on from there")
        sys.exit(128 + outcome.stopped_by)

    source = sources.from_config(config)
    keras.utils.set_random_seed(config.seed)
    shape = (config.image_size, config.image_size, source.channels)
    pixels = keras.Sequential([keras.Input(shape), keras.layers.Flatten()])
    random = encoders.build(config.encoder, stem=config.stem, channels=source.channels)
    backbones = {
        "raw pixels": pixels,
        "random initialisation": encoders.with_normalization(random),
        "pre-trained": load_backbone(workdir),
    }
    table = {}
    for name, backbone in backbones.items():
        train, test = protocols.extract_both(backbone, source, config.image_size)
        table[name] = {}
        for column, protocol in (("knn", "knn"), ("linear", "linear_cached")):
            result = protocols.evaluate(protocol, train, test, len(source.class_names))
            table[name][column] = result["top1"]
            directory = workdir if name == "pre-trained" else f"{workdir}/{name.replace(' ', '_')}"
            what = {"backbone": name, "data": source.name, "image_size": config.image_size}
            protocols.write_result(directory, {**result, **what})
    plot_neighbours(f"{workdir}/neighbours.png", source, config.image_size, train, test)
    saved_model = f"{workdir}/export/saved_model"
    if not os.path.exists(saved_model):
        origin = model_card.Origin("workdir", workdir)
        export_saved_model(backbones["pre-trained"], saved_model, origin, config.image_size)
    return table


def _print_table(results):
    import numpy as np

    seeds = len(results)
    print(f"\nTop-1 on held-out patches, {seeds} seed{'s' if seeds > 1 else ''}")
    print(f"{'':24}{'kNN':>16}{'linear probe':>16}")
    for name in results[0]:
        cells = []
        for protocol in ("knn", "linear"):
            values = 100 * np.array([result[name][protocol] for result in results])
            spread = f" ± {values.std(ddof=1):.1f}" if seeds > 1 else ""
            cells.append(f"{values.mean():.1f}{spread} %")
        print(f"{name:24}{cells[0]:>16}{cells[1]:>16}")


def _print_paths(workdir):
    print(f"SavedModel      {workdir}/export/saved_model")
    print(f"neighbours      {workdir}/neighbours.png")
    print(f"curves          {workdir}/curves.png")


if __name__ == "__main__":
    app.run(main)
