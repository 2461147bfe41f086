"""Plots of an evaluation: nearest neighbors, and accuracy over fine-tuning."""

from typing import Any

import matplotlib.axes
import matplotlib.figure
import numpy as np
import tensorflow as tf

from moco_tf.data.sources.source import Source, evenly_spaced
from moco_tf.data.views import central_view
from moco_tf.evaluation import knn
from moco_tf.evaluation.features import Features
from moco_tf.evaluation.protocols import LAYERS
from moco_tf.plots.saving import save_figure
from moco_tf.plots.visible import title_with_note, visible


def plot_neighbors(
    path: str,
    source: Source,
    image_size: int,
    train: Features,
    test: Features,
    rows: int = 8,
    columns: int = 8,
) -> str:
    """Plot test images, evenly spaced over the test set, with their nearest training images.

    The titles of neighbors from another class are red.

    Args:
        path: Path of the PNG file to write.
        source: The source of the images.
        image_size: Side of the images in pixels.
        train: Features of the training images.
        test: Features of the test images.
        rows: Number of test images.
        columns: Number of neighbors of each.

    Returns:
        `path`.
    """
    # Test images are sorted by class, so evenly spaced ones show different classes.
    queries = evenly_spaced(np.arange(len(test.features)), rows)
    neighbors, similarities = knn.nearest(train.features, test.features[queries], columns)
    rows, columns = neighbors.shape

    figure = matplotlib.figure.Figure(
        figsize=(1.3 * (columns + 1), 1.45 * rows), layout="constrained"
    )
    grid = figure.subplots(rows, columns + 1, squeeze=False)
    for row, query in enumerate(test.indices[queries]):
        _show_image(grid[row, 0], source, query, image_size, "test image")
        for column in range(columns):
            _show_image(
                grid[row, column + 1],
                source,
                train.indices[neighbors[row, column]],
                image_size,
                f"{similarities[row, column]:.3f}",
                query=query,
            )
    title = f"Test images of {source.name} and their nearest training images by cosine similarity"
    figure.suptitle(title_with_note(title, source))
    return save_figure(figure, path)


def plot_comparison(path: str, result: dict[str, Any]) -> str:
    """Plot top-1 and top-5 accuracy on the test images over the epochs of fine-tuning.

    Args:
        path: Path of the PNG file to write.
        result: Result of `moco_tf.evaluation.comparison.compare`, with `data`, the name of the
            data source.

    Returns:
        `path`.
    """
    figure = matplotlib.figure.Figure(figsize=(12, 6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    names = list(dict.fromkeys(curve["initialisation"] for curve in result["curves"]))
    for curve in result["curves"]:
        epochs = [point["epoch"] for point in curve["curve"]]
        for axes, key in zip(panels, ("top1", "top5"), strict=True):
            axes.plot(
                epochs,
                [100 * point[key] for point in curve["curve"]],
                marker=".",
                color=f"C{names.index(curve['initialisation'])}",
                linestyle="-" if curve["layers"] == "all" else "--",
                label=f"{curve['initialisation']}: {LAYERS[curve['layers']]} trained",
            )
    for axes, name in zip(panels, ("top-1", "top-5"), strict=True):
        axes.set_title(f"{name} accuracy on test images")
        axes.set_xlabel("epoch of fine-tuning")
        axes.set_ylabel("accuracy (%)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    # Sorted by line style, so that each style has a column of the legend.
    lines = sorted(panels[0].lines, key=lambda line: line.get_linestyle())
    figure.legend(handles=lines, loc="outside lower center", ncols=2)
    first_curve = result["curves"][0]
    figure.suptitle(
        f"Fine-tuning on {result['data']} with {100 * first_curve['label_fraction']:g} % of the "
        f"labels: {first_curve['num_train']:,} training images"
    )
    return save_figure(figure, path)


def _show_image(
    axes: matplotlib.axes.Axes,
    source: Source,
    index: int,
    image_size: int,
    title: str,
    query: int | None = None,
) -> None:
    """Show an image below a title; the title is red if it is not of the same class as `query`."""
    image = central_view(source.read(tf.constant(index, tf.int64)), image_size)
    axes.imshow(visible(image.numpy()))
    color = "black"
    if source.labels is not None and source.class_names is not None:
        title = f"{source.class_names[source.labels[index]][:20]}\n{title}"
        if query is not None and source.labels[index] != source.labels[query]:
            color = "crimson"
    axes.set_title(title, fontsize=6.5, color=color)
    axes.axis("off")
