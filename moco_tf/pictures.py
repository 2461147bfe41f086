"""The pictures of a run: what goes in, how training went, what the features hold to be alike."""

import os

import matplotlib.figure
import matplotlib.patches
import numpy as np
import tensorflow as tf

from moco_tf import run_directory
from moco_tf.config import chance_loss, num_negatives
from moco_tf.data.views import FLIP_PROBABILITY, central_view, crop_window, view_draws
from moco_tf.evaluation import knn
from moco_tf.evaluation.protocols import LAYERS
from moco_tf.seeds import seed_for


def draw_preview(path, config, source, batches, augment, rows=8):
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
    figure.suptitle(
        f"{source.name}: the first images of a run and their views, augmentation "
        f"{config.augmentation}{_channels_shown(source)}"
    )
    return _save(figure, path)


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
    chance = chance_loss(config)
    loss.plot(*series("loss"))
    loss.axhline(chance, color="grey", linestyle="--", label=f"chance, ln(K+1) = {chance:.2f}")
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
    return _save(figure, os.path.join(workdir, "curves.png"))


def draw_neighbours(path, source, image_size, train, test, rows=8, columns=8):
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
    figure.suptitle(
        f"Test images of {source.name} and their nearest training images by cosine"
        f"{_channels_shown(source)}"
    )
    return _save(figure, path)


def draw_comparison(path, result):
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
    return _save(figure, path)


def visible(image):
    """What of an image a picture can show: of one channel or two the first, in grey; of three or
    more the first three, as red, green and blue.

    Args:
        image: `[H, W, C]`, uint8 or floats of 0 to 1.

    Returns:
        The same, `[H, W, 3]`.
    """
    return image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)


def _channels_shown(source):
    if source.channels == 2:
        return "; the first of 2 channels, in grey"
    if source.channels > 3:
        return f"; the first 3 of {source.channels} channels, as red, green and blue"
    return ""


def _show(axes, source, index, image_size, words, like=None):
    image = central_view(source.read(tf.constant(index, tf.int64)), image_size)
    axes.imshow(visible(image.numpy()))
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
