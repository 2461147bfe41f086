"""The two pictures of a run: how training went, and what the features hold to be alike."""

import math
import os

import matplotlib.figure
import numpy as np
import tensorflow as tf

from moco_tf import run_directory
from moco_tf.data.views import central_view
from moco_tf.evaluation import knn


def draw_curves(workdir):
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
    chance = math.log(config.queue_size + 1)
    loss.plot(*series("loss"))
    loss.axhline(chance, color="grey", linestyle="--", label=f"chance, ln(K+1) = {chance:.2f}")
    loss.set_title("InfoNCE loss")
    loss.legend()
    accuracy.plot(*series("contrastive_top1"), label="top-1")
    accuracy.plot(*series("contrastive_top5"), label="top-5")
    accuracy.set_title(f"contrastive accuracy, {config.queue_size + 1:,}-way")
    accuracy.legend()
    neighbours.plot(*series("knn_top1"), marker="o")
    neighbours.set_title("kNN top-1 on held-out images")
    for axes in (loss, accuracy, neighbours):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    return _save(figure, os.path.join(workdir, "curves.png"))


def draw_neighbours(path, source, image_size, train, test, rows=8, columns=8):
    """Draws test images, spread over the test set, each with its nearest training images.

    Args:
        path: str, the PNG to write.
        source: the `moco_tf.data.sources.Source` that the features are of.
        image_size: int, side of the pictures in pixels.
        train, test: `moco_tf.evaluation.features.Features`.
        rows, columns: int, test images and neighbours of each.

    Returns:
        `path`.
    """
    rows = min(rows, len(test.features))
    # Test images lie sorted by class, so an even spread shows different ones.
    queries = (np.arange(rows) + 0.5) * len(test.features) / rows
    queries = queries.astype(int)
    indices, similarities = knn.nearest(train.features, test.features[queries], columns)
    columns = indices.shape[1]

    figure = matplotlib.figure.Figure(
        figsize=(1.3 * (columns + 1), 1.45 * rows), layout="constrained"
    )
    grid = figure.subplots(rows, columns + 1, squeeze=False)
    for row, query in enumerate(queries):
        _show(grid[row, 0], source, test.indices[query], image_size, "test image")
        for column in range(columns):
            _show(
                grid[row, column + 1],
                source,
                train.indices[indices[row, column]],
                image_size,
                f"{similarities[row, column]:.2f}",
                like=test.indices[query],
            )
    figure.suptitle(f"Test images of {source.name} and their nearest training images by cosine")
    return _save(figure, path)


def _show(axes, source, index, image_size, words, like=None):
    axes.imshow(central_view(source.read(tf.constant(index, tf.int64)), image_size).numpy())
    colour = "black"
    if source.labels is not None:
        words = f"{source.class_names[source.labels[index]][:20]}\n{words}"
        if like is not None and source.labels[index] != source.labels[like]:
            colour = "crimson"  # another class than the test image's
    axes.set_title(words, fontsize=6.5, color=colour)
    axes.axis("off")


def _save(figure, path):
    with tf.io.gfile.GFile(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)
    return path
