"""Plots of a pre-training run: its first images with their views, and its curves."""

import os

import matplotlib.figure
import matplotlib.patches
import ml_collections
import numpy as np
import tensorflow as tf

from moco_tf import run_directory, run_metrics
from moco_tf.config import chance_formula, chance_loss, num_negatives
from moco_tf.data.augment import Augment
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.recipes import describe
from moco_tf.data.sources.folder import require_outside
from moco_tf.data.sources.source import Source
from moco_tf.data.views import ATTEMPTS, crop_window, describe_orientation
from moco_tf.evaluation.quality import COLLAPSED_RANK
from moco_tf.plots.saving import save_figure
from moco_tf.plots.visible import shown, title_with_note, visible
from moco_tf.seeds import seed_for


def plot_preview(
    path: str,
    config: ml_collections.ConfigDict,
    source: Source,
    batches: TwoViews,
    augment: Augment,
    rows: int = 8,
) -> str:
    """Plot the first images of a run, their crops, and the two augmented views of each.

    The views are those of the first step, with the operations that were applied. An image that
    cannot be read is replaced by its substitute, as the title says, unless `config.data.on_error`
    is `fail`.

    Args:
        path: Path of the PNG file to write.
        config: Config of the run.
        source: The source of the images.
        batches: The batches of the run.
        augment: The augmentation of the run.
        rows: Number of images; at most one batch is shown.

    Returns:
        `path`.

    Raises:
        UserError: If the plot would become an image of the source, or an image of the first step
            cannot be read and `config.data.on_error` is `fail`.
    """
    require_outside(config.data.source, path)
    rows = min(rows, config.batch_size)
    views = next(batches.between(0, 1).as_numpy_iterator())
    if config.data.on_error == "fail":
        batches.require_readable()
    epochs, indices = (values[:rows] for values in batches.rows(step=0))
    recipe = batches.recipe
    figure = matplotlib.figure.Figure(figsize=(8, 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, 3, squeeze=False)
    colors = ("tab:orange", "tab:blue")
    for row, (epoch, index) in enumerate(zip(epochs, indices, strict=True)):
        read_index, image = batches.read(tf.constant(epoch), tf.constant(index))
        crops = batches.view_draws(int(epoch), int(index))
        axes = grid[row, 0]
        axes.imshow(shown(image, source))
        title = _short_name(source, index)
        if read_index != index:
            title += f" cannot be read,\nso {_short_name(source, read_index)} replaces it"
        axes.set_title(title, fontsize=7)
        for draws, color in zip(crops, colors, strict=True):
            top, left, height, width = crop_window(
                image.shape[:2], recipe.crop_scale, draws[: 4 * ATTEMPTS], recipe.aspect_ratio
            )
            # Matplotlib places the center of the first pixel at 0.
            corner = (left - 0.5, top - 0.5)
            rectangle = matplotlib.patches.Rectangle(
                corner, width, height, fill=False, edgecolor=color, linewidth=2
            )
            axes.add_patch(rectangle)
    for column, name in enumerate(("query", "key"), start=1):
        seed = seed_for(f"{name}_view", config.seed, 0)
        augmented = augment(views[column - 1][:rows], tf.range(rows), config.batch_size, seed)
        draws = augment.draws(config.batch_size, seed)
        for row, (epoch, index) in enumerate(zip(epochs, indices, strict=True)):
            crop = batches.view_draws(int(epoch), int(index))[column - 1]
            operations = [*describe_orientation(recipe, crop), *augment.describe(draws[row])]
            axes = grid[row, column]
            axes.imshow(visible(np.clip(augmented[row] * augment.std + augment.mean, 0, 1)))
            lines = [", ".join(operations[i : i + 3]) for i in range(0, len(operations), 3)]
            # Two lines at least, so that all pictures have the same size.
            title = "\n".join([f"{name} view", *lines, *[""] * (2 - len(lines))])
            axes.set_title(title, fontsize=7, color=colors[column - 1])
    for axes in grid.flat:
        axes.axis("off")
    title = f"{source.name}: first images and their views, augmentation {describe(config)}"
    figure.suptitle(title_with_note(title, source), wrap=True)
    return save_figure(figure, path)


def _short_name(source: Source, index: int) -> str:
    """Return the end of the name of an image, which fits above its picture."""
    return os.path.basename(source.describe(int(index)))[-40:]


def plot_curves(workdir: str) -> str:
    """Plot the loss, the accuracies and the measures of the features of a run over its steps.

    The loss is shown beside its chance level.

    Args:
        workdir: Path of a run directory with a metrics.jsonl.

    Returns:
        The path of the plot, curves.png in the run directory.
    """
    config = run_directory.read_config(workdir)
    metrics = run_metrics.read_metrics(workdir)

    def series(key: str) -> np.ndarray:
        """Return the steps and the values of a metric, `[2, N]`."""
        points = run_metrics.curve(metrics, key)
        return np.array(points, float).reshape(-1, 2).T

    figure = matplotlib.figure.Figure(figsize=(15, 7.5), layout="constrained")
    loss, accuracy, knn, rank, distances, spread = figure.subplots(2, 3).flat
    chance = chance_loss(config)
    loss.plot(*series("loss"))
    loss.axhline(
        chance,
        color="gray",
        linestyle="--",
        label=f"chance, {chance_formula(config)} = {chance:.2f}",
    )
    loss.set_title("InfoNCE loss")
    loss.legend()
    accuracy.plot(*series("contrastive_top1"), label="top-1")
    accuracy.plot(*series("contrastive_top5"), label="top-5")
    accuracy.set_title(f"Contrastive accuracy, among {num_negatives(config) + 1:,} keys")
    accuracy.legend()
    knn.plot(*series("knn_top1"), marker="o")
    knn.set_title("kNN top-1 on held-out images")
    rank.plot(*series("effective_rank"), marker="o")
    rank.set_title("Effective rank of the features")
    rank.axhline(COLLAPSED_RANK, color="gray", linestyle="--", label="collapsed below this line")
    rank.set_ylim(bottom=0)
    rank.legend()
    distances.plot(*series("alignment"), marker="o", label="alignment: 0 if views are equal")
    distances.plot(*series("uniformity"), marker="o", label="uniformity: 0 if images are equal")
    distances.set_title("Alignment and uniformity of the features")
    distances.legend()
    spread.plot(*series("feature_std"), marker="o", label="standard deviation: 0 if collapsed")
    spread.plot(*series("dead_dimensions"), marker="o", label="share of dead dimensions")
    spread.set_title("Spread of the features")
    spread.set_ylim(-0.05, 1.05)
    spread.legend()
    for axes in (loss, accuracy, knn, rank, distances, spread):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    return save_figure(figure, os.path.join(workdir, "curves.png"))
