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
from moco_tf.evaluation.results import LAYERS
from moco_tf.plots.saving import save_figure
from moco_tf.plots.visible import shown, title_with_note

MAX_ROWS = 24  # Maximum number of clusters in a picture.


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


def plot_clusters(path: str, source: Source, image_size: int, result: dict[str, Any]) -> str:
    """Plot the images nearest to the center of each cluster, a row for each cluster.

    Args:
        path: Path of the PNG file to write.
        source: The source of the images.
        image_size: Side of the images in pixels.
        result: Result of `moco_tf.evaluation.clustering.cluster`.

    Returns:
        `path`.
    """
    sizes = result["cluster_sizes"]
    shown = sorted(range(len(sizes)), key=lambda number: -sizes[number])[:MAX_ROWS]
    rows = [result["examples"][number] for number in shown]
    titles = [[f"{sizes[number]:,} images", *[""] * 7] for number in shown]
    which = "largest " if len(shown) < len(sizes) else ""
    title = f"The {len(shown)} {which}clusters of {source.name}: the images nearest to each center"
    return _plot_grid(path, title, source, image_size, rows, titles)


def plot_anomalies(
    path: str,
    source: Source,
    image_size: int,
    result: dict[str, Any],
    heat: np.ndarray | None = None,
) -> str:
    """Plot the most anomalous test images with their scores, the most anomalous one first.

    The titles of normal images are red: they are mistakes.

    Args:
        path: Path of the PNG file to write.
        source: The source of the test images.
        image_size: Side of the images in pixels.
        result: Result of `moco_tf.evaluation.anomaly.detect`, with `normal`.
        heat: A map `[h, w]` for each image of `most_anomalous`, which is plotted over the image, or
            None.

    Returns:
        `path`.
    """
    found = result["most_anomalous"]
    rows = [found[start : start + 8] for start in range(0, len(found), 8)]
    return _plot_grid(
        path,
        f"The most anomalous test images of {source.name}: distance to the nearest normal images",
        source,
        image_size,
        [[item["index"] for item in row] for row in rows],
        [[f"{item['score']:.3f}" for item in row] for row in rows],
        [[item["class"] == result["normal"] for item in row] for row in rows],
        heat,
    )


def _plot_grid(
    path: str,
    title: str,
    source: Source,
    image_size: int,
    rows: list[list[int]],
    titles: list[list[str]],
    is_mistake: list[list[bool]] | None = None,
    heat: np.ndarray | None = None,
) -> str:
    """Plot up to eight images in each row, given by their indices, below maps of heat."""
    figure = matplotlib.figure.Figure(figsize=(10.4, 1.45 * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), 8, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for row, indices in enumerate(rows):
        for column, index in enumerate(indices):
            is_red = is_mistake is not None and is_mistake[row][column]
            text = titles[row][column]
            _show_image(grid[row, column], source, index, image_size, text, is_red=is_red)
            if heat is not None:
                grid[row, column].imshow(
                    heat[8 * row + column],
                    cmap="inferno",
                    vmin=heat.min(),
                    vmax=heat.max(),
                    alpha=0.5,
                    interpolation="bilinear",
                    extent=(-0.5, image_size - 0.5, image_size - 0.5, -0.5),
                )
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
    is_red: bool = False,
) -> None:
    """Show an image below a title, which is red if it is not of the same class as `query`."""
    image = central_view(source.read(tf.constant(index, tf.int64)), image_size)
    axes.imshow(shown(image, source))
    color = "crimson" if is_red else "black"
    if source.labels is not None and source.class_names is not None and source.labels[index] >= 0:
        title = f"{source.class_names[source.labels[index]][:20]}\n{title}"
        if query is not None and source.labels[index] != source.labels[query]:
            color = "crimson"
    axes.set_title(title, fontsize=6.5, color=color)
    axes.axis("off")
