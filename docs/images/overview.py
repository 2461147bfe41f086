"""Plot docs/images/overview.png, the picture of the README, from the run of docs/examples.

    python docs/examples/sample_photos.py
    moco-train --config=configs/photos.py --config.data.source=folder:photos \\
        --config.image_size=32 --config.evaluation_size=0 --config.queue_size=256 \\
        --config.epochs=160 --workdir=runs/mine
    python docs/images/overview.py runs/mine

The views are random views of MoCo v2, with more pixels than those of the run. The neighbors are
those of the run's backbone, among all images of the folder that come from other places.
"""

import pathlib
import sys

import matplotlib.figure
import matplotlib.patches
import numpy as np
import tensorflow as tf

import moco_tf
from moco_tf import run_directory
from moco_tf.data import sources
from moco_tf.data.augment import Augment
from moco_tf.data.recipes import RECIPES, Recipe
from moco_tf.data.views import random_view, view_draws

OUT = pathlib.Path(__file__).with_name("overview.png")
WIDTH, HEIGHT = 12.6, 4.6  # inches
QUERY_COLOR, KEY_COLOR = "#e07b00", "#1f6fb4"
EXAMPLE = "stereo_motorcycle_020"
VIEW_SIZE = 128
EPOCH = 3
QUEUE = ("coffee_010", "brick_000", "astronaut_020", "china_010", "grass_000")
QUERIES = ("gravel_010", "chelsea_010", "immunohistochemistry_010", "brick_010")
NEIGHBORS = 5


def main(workdir: str) -> None:
    """Plot the picture."""
    config = run_directory.read_config(workdir)
    source = sources.from_config(config)
    names = [pathlib.Path(source.describe(i)).stem for i in range(source.size)]

    figure = matplotlib.figure.Figure(figsize=(WIDTH, HEIGHT), facecolor="white")
    canvas = figure.add_axes((0, 0, 1, 1))
    canvas.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    canvas.axis("off")
    plot_training(figure, canvas, source, names)
    canvas.plot([7.75, 7.75], [0.3, 4.3], color="0.85", linewidth=1)
    size = config.evaluation_size or config.image_size
    plot_neighbors(figure, canvas, workdir, source, names, size)
    figure.savefig(OUT, dpi=110)
    print(f"wrote {OUT}")


def plot_training(figure, canvas, source, names):
    """Plot the way from an image to the loss."""
    canvas.text(0.3, 4.25, "1.  Pre-train without labels", fontsize=14, weight="bold", va="center")
    index = names.index(EXAMPLE)
    image = source.read(index).numpy()
    show(figure, image, 0.3, 1.75, 1.2)
    label(canvas, 0.9, 1.62, "image")

    draws = view_draws(0, EPOCH, index)
    augment = Augment(RECIPES["v2"])
    crops = np.stack([random_view(image, VIEW_SIZE, Recipe(), each) for each in draws])
    views = augment(crops, tf.range(2), 2, [0, EPOCH]) * augment.std + augment.mean
    views = np.clip(views, 0, 1)
    for view, y, color, name in zip(
        views, (2.75, 0.75), (QUERY_COLOR, KEY_COLOR), ("query", "key"), strict=True
    ):
        show(figure, view, 2.1, y, 1.2, color)
        label(canvas, 2.7, y - 0.13, f"{name} view")
        arrow(canvas, (1.55, 2.35), (2.02, y + 0.6))
        arrow(canvas, (3.38, y + 0.6), (3.78, y + 0.6))
        text = "encoder\n(SGD)" if name == "query" else "momentum\nencoder"
        box(canvas, 3.85, y + 0.15, 1.05, 0.9, text, color)
    canvas.annotate(
        "",
        (4.37, 1.85),
        (4.37, 2.85),
        arrowprops=dict(arrowstyle="-|>", linestyle="--", color="0.3"),
    )
    canvas.text(4.47, 2.36, "moving\naverage", fontsize=9, color="0.3", va="center")

    label(canvas, 6.35, 2.08, "queue: keys of earlier batches")
    for i, name in enumerate(QUEUE):
        show(figure, source.read(names.index(name)).numpy(), 5.42 + 0.37 * i, 1.12, 0.34, "0.7")
    canvas.text(7.3, 1.27, "…", fontsize=12, va="center", color="0.3")
    arrow(canvas, (4.97, 1.29), (5.36, 1.29))
    label(canvas, 5.18, 1.62, "key", KEY_COLOR)
    box(
        canvas,
        5.42,
        2.9,
        2.05,
        0.9,
        "InfoNCE: which key\ncomes from the image\nof the query?",
        "0.35",
    )
    arrow(canvas, (4.97, 3.35), (5.36, 3.35))
    label(canvas, 5.16, 3.62, "query", QUERY_COLOR)
    arrow(canvas, (6.35, 2.18), (6.35, 2.83))
    canvas.text(
        0.3, 0.22, "No labels: every image is a class of its own.", fontsize=9, color="0.35"
    )


def plot_neighbors(figure, canvas, workdir, source, names, image_size):
    """Plot images with their nearest neighbors."""
    canvas.text(8.0, 4.25, "2.  Use the features", fontsize=14, weight="bold", va="center")
    backbone = moco_tf.load_backbone(workdir)
    extracted = moco_tf.extract_features(backbone, source, "all", image_size)
    features = extracted.features / np.linalg.norm(extracted.features, axis=1, keepdims=True)
    position_of = {names[index]: row for row, index in enumerate(extracted.indices)}
    size, gap = 0.66, 0.05
    label(canvas, 8.33, 3.98, "image")
    label(canvas, 10.55, 3.98, "nearest images by the features")
    for line, name in enumerate(QUERIES):
        row = position_of[name]
        nearest = [other for other in np.argsort(-features @ features[row]) if other != row]
        y = 3.1 - line * (size + 0.14)
        for column, other in enumerate([row, *nearest[:NEIGHBORS]]):
            x = 8.0 + column * (size + gap) + (0.12 if column else 0)
            picture = source.read(int(extracted.indices[other])).numpy()
            show(figure, picture, x, y, size, "0.2" if column == 0 else "0.8")
    canvas.text(
        8.0,
        0.22,
        "Search images, or train a classifier or a detector on top.",
        fontsize=9,
        color="0.35",
    )


def show(figure, image, x, y, size, color="0.7"):
    """Show the central square of an image in a frame; positions are in inches."""
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    axes = figure.add_axes((x / WIDTH, y / HEIGHT, size / WIDTH, size / HEIGHT))
    axes.imshow(image[top : top + side, left : left + side], interpolation="lanczos")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=0.8 if color[0].isdigit() else 2.5)


def label(canvas, x, y, text, color="0.2"):
    """Write a centered label."""
    canvas.text(x, y, text, ha="center", va="top", fontsize=9.5, color=color)


def box(canvas, x, y, width, height, text, color):
    """Plot a rounded box with text."""
    canvas.add_patch(
        matplotlib.patches.FancyBboxPatch(
            (x, y), width, height, "round,pad=0,rounding_size=0.1", facecolor="0.97",
            edgecolor=color, linewidth=1.8,
        )
    )  # fmt: skip
    canvas.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=10)


def arrow(canvas, start, end):
    """Plot an arrow."""
    canvas.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", color="0.3", linewidth=1.2))


if __name__ == "__main__":
    main(*sys.argv[1:])
