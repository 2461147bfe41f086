"""Plots of an evaluation: nearest neighbors, and accuracy over fine-tuning."""

import matplotlib.figure
import numpy as np
import tensorflow as tf

from moco_tf.data.views import central_view
from moco_tf.evaluation import knn
from moco_tf.evaluation.protocols import LAYERS
from moco_tf.plots.images import save_figure, title_with_note, visible


def plot_neighbours(path, source, image_size, train, test, rows=8, columns=8):
    """Draws test images, spread over the test set, each with its nearest training images.

    Args:
        path: str, the PNG to write.
        source: the `moco_tf.data.source.Source` that the features are of.
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
        _show_image(grid[row, 0], source, test.indices[query], image_size, "test image")
        for column in range(columns):
            _show_image(
                grid[row, column + 1],
                source,
                train.indices[indices[row, column]],
                image_size,
                f"{similarities[row, column]:.2f}",
                like=test.indices[query],
            )
    title = f"Test images of {source.name} and their nearest training images by cosine similarity"
    figure.suptitle(title_with_note(title, source))
    return save_figure(figure, path)


def plot_comparison(path, result):
    """Draws accuracy on the test images over the epochs of fine-tuning, top-1 beside top-5.

    Args:
        path: str, the PNG to write.
        result: of `moco_tf.evaluation.comparison.compare`, and in it `data`, a str.

    Returns:
        `path`.
    """
    figure = matplotlib.figure.Figure(figsize=(12, 6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    names = list(dict.fromkeys(curve["initialisation"] for curve in result["curves"]))
    for curve in result["curves"]:
        line = dict(
            color=f"C{names.index(curve['initialisation'])}",
            linestyle="-" if curve["layers"] == "all" else "--",
            label=f"{curve['initialisation']}: {LAYERS[curve['layers']]} trained",
        )
        epochs = [point["epoch"] for point in curve["curve"]]
        for axes, key in zip(panels, ("top1", "top5"), strict=True):
            axes.plot(epochs, [100 * point[key] for point in curve["curve"]], marker=".", **line)
    for axes, name in zip(panels, ("top-1", "top-5"), strict=True):
        axes.set_title(f"{name} accuracy on test images")
        axes.set_xlabel("epoch of fine-tuning")
        axes.set_ylabel("%")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    lines = sorted(panels[0].lines, key=lambda line: line.get_linestyle())  # a column of each
    figure.legend(handles=lines, loc="outside lower center", ncols=2)
    fraction = result["curves"][0]["label_fraction"]
    figure.suptitle(
        f"Fine-tuning on {result['data']}, {100 * fraction:g} % of the labels: "
        f"{result['curves'][0]['num_train']:,} training images"
    )
    return save_figure(figure, path)


def _show_image(axes, source, index, image_size, words, like=None):
    image = central_view(source.read(tf.constant(index, tf.int64)), image_size)
    axes.imshow(visible(image.numpy()))
    colour = "black"
    if source.labels is not None:
        words = f"{source.class_names[source.labels[index]][:20]}\n{words}"
        if like is not None and source.labels[index] != source.labels[like]:
            colour = "crimson"  # another class than the test image's
    axes.set_title(words, fontsize=6.5, color=colour)
    axes.axis("off")
