"""Plots of a pre-training run: its input and its curves."""

import os

import matplotlib.figure
import matplotlib.patches
import numpy as np
import tensorflow as tf

from moco_tf import run_directory
from moco_tf.config import chance_formula, chance_loss, num_negatives
from moco_tf.data.views import FLIP_PROBABILITY, crop_window, view_draws
from moco_tf.plots.images import save_figure, title_with_note, visible
from moco_tf.seeds import seed_for


def plot_preview(path, config, source, batches, augment, rows=8):
    """Draws the first images of a run, their crops, and the two views of each with what was done.

    The views are those of the first step. An image that cannot be read shows its substitute's.

    Args:
        path: str, the PNG to write.
        config: the run's config.
        source: the `moco_tf.data.source.Source` of its images.
        batches: its `moco_tf.data.pipeline.TwoViews`.
        augment: the run's `moco_tf.augment.Augment`.
        rows: int, images.

    Returns:
        `path`.
    """
    rows = min(rows, config.batch_size)
    views = next(batches.between(0, 1).as_numpy_iterator())
    indices = batches.order(0)[:rows]
    figure = matplotlib.figure.Figure(figsize=(8, 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, 3, squeeze=False)
    colours = ("tab:orange", "tab:blue")
    for row, index in enumerate(indices):
        _, image = batches.read(tf.constant(0, tf.int64), index)
        crops = view_draws(config.seed, 0, int(index))
        axes = grid[row, 0]
        axes.imshow(visible(image.numpy()))
        axes.set_title(os.path.basename(source.describe(int(index)))[-40:], fontsize=7)
        for draws, colour in zip(crops, colours, strict=True):
            top, left, height, width = crop_window(image.shape[:2], batches.crop_scale, draws[:-1])
            frame = dict(fill=False, edgecolor=colour, linewidth=2)
            corner = (left - 0.5, top - 0.5)
            axes.add_patch(matplotlib.patches.Rectangle(corner, width, height, **frame))
    for column, name in enumerate(("query", "key"), start=1):
        seed = seed_for(f"{name}_view", config.seed, 0)
        augmented = augment(views[column - 1][:rows], tf.range(rows), config.batch_size, seed)
        draws = augment.draws(config.batch_size, seed)
        for row, index in enumerate(indices):
            flipped = view_draws(config.seed, 0, int(index))[column - 1, -1] < FLIP_PROBABILITY
            words = ["flipped"] * bool(flipped) + augment.describe(draws[row])
            axes = grid[row, column]
            axes.imshow(visible(np.clip(augmented[row] * augment.std + augment.mean, 0, 1)))
            label = "\n".join([f"{name} view", ", ".join(words[:3]), ", ".join(words[3:])])
            axes.set_title(label, fontsize=7, color=colours[column - 1])
    for axes in grid.flat:
        axes.axis("off")
    title = f"{source.name}: the first images of a run and their views, augmentation "
    figure.suptitle(title_with_note(title + config.augmentation, source))
    return save_figure(figure, path)


def plot_curves(workdir):
    """Draws curves.png: loss beside chance level, contrastive accuracy and kNN over the steps.

    Args:
        workdir: str, a run directory with a metrics.jsonl.

    Returns:
        The path of the picture.
    """
    config = run_directory.read_config(workdir)
    lines = run_directory.read_metrics(workdir)

    def series(key):
        points = [(line["step"], line[key]) for line in lines if key in line]
        return np.array(points, float).reshape(-1, 2).T

    figure = matplotlib.figure.Figure(figsize=(13, 4), layout="constrained")
    loss, accuracy, neighbours = figure.subplots(1, 3)
    chance = chance_loss(config)
    loss.plot(*series("loss"))
    loss.axhline(
        chance,
        color="grey",
        linestyle="--",
        label=f"chance, {chance_formula(config)} = {chance:.2f}",
    )
    loss.set_title("InfoNCE loss")
    loss.legend()
    accuracy.plot(*series("contrastive_top1"), label="top-1")
    accuracy.plot(*series("contrastive_top5"), label="top-5")
    accuracy.set_title(f"contrastive accuracy, {num_negatives(config) + 1:,}-way")
    accuracy.legend()
    neighbours.plot(*series("knn_top1"), marker="o")
    neighbours.set_title("kNN top-1 on held-out images")
    for axes in (loss, accuracy, neighbours):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    return save_figure(figure, os.path.join(workdir, "curves.png"))
