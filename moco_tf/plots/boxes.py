"""Pictures of what detection and segmentation have found in test images, beside the truth."""

import os

import matplotlib.colors
import matplotlib.figure
import matplotlib.patches
import numpy as np
import tensorflow as tf

from moco_tf.data.boxes.letterbox import map_in_image
from moco_tf.evaluation.transfer import detection, segmentation
from moco_tf.plots.images import save_figure

SHOWN_FROM = 0.3  # score of a detection in a picture


def plot_detections(path, images, image_size, shown):
    """Draws test images, each with its true boxes beside those that were found.

    Args:
        path: str, the PNG to write.
        images: `moco_tf.data.annotated.AnnotatedImages`.
        image_size: int, side of the squares that they were found in.
        shown: `{index: (height, width, *arrays)}`, with the arrays of `detection.predict`.

    Returns:
        `path`.
    """
    figure, pairs = _pairs(images, shown)
    for (true, found), (index, (height, width, *arrays)) in zip(pairs, shown.items(), strict=True):
        annotations = images.annotations(index, height, width)
        for box, label in zip(annotations.boxes, annotations.labels, strict=True):
            _frame(true, box, images.class_names[label], f"C{label % 10}")
        boxes, scores, labels = detection.detections(image_size, height, width, *arrays)
        for box, score, label in zip(boxes, scores, labels.astype(int), strict=True):
            if score >= SHOWN_FROM:
                words = f"{images.class_names[label]} {score:.2f}"
                _frame(found, box, words, f"C{label % 10}")
    figure.suptitle(
        f"Test images of {images.name}: the true boxes, and on the right those found, with scores "
        f"of {SHOWN_FROM:g} and more"
    )
    return save_figure(figure, path)


def plot_segmentations(path, images, shown):
    """Draws test images, each under the true label of its pixels beside the one that was found.

    Args:
        path: str, the PNG to write.
        images: `moco_tf.data.annotated.AnnotatedImages` with masks.
        shown: `{index: (height, width, labels)}`, the labels of `segmentation.predict`.

    Returns:
        `path`.
    """
    figure, pairs = _pairs(images, shown)
    seen = set()
    for (true, found), (index, (height, width, square)) in zip(pairs, shown.items(), strict=True):
        annotations = images.annotations(index, height, width)
        truth = segmentation.labels_of(annotations, height, width)
        for axes, labels in ((true, truth), (found, map_in_image(square, height, width))):
            colours = np.zeros([height, width, 4])  # transparent, as the background is
            for label in np.unique(labels[labels > segmentation.BACKGROUND]):
                rgb = matplotlib.colors.to_rgb(f"C{(label - 1) % 10}")
                colours[labels == label] = [*rgb, 0.6]
                seen.add(int(label))
            axes.imshow(colours)
    patches = [
        matplotlib.patches.Patch(color=f"C{(label - 1) % 10}", label=images.class_names[label - 1])
        for label in sorted(seen)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=8)
    figure.suptitle(
        f"Test images of {images.name}: the true labels of their pixels, and on the right those "
        "found"
    )
    return save_figure(figure, path)


def _pairs(images, shown):
    """A figure of test images, each twice beside each other, and the pairs of axes."""
    rows = -(-len(shown) // 2)
    figure = matplotlib.figure.Figure(figsize=(12, 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, 4, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    pairs = grid.reshape(-1, 2)[: len(shown)]
    for pair, index in zip(pairs, shown, strict=True):
        image = images.read(tf.constant(index, tf.int64)).numpy()
        for axes, words in zip(pair, (os.path.basename(images.describe(index)), ""), strict=True):
            axes.imshow(image)
            axes.set_title(words[-40:], fontsize=7)
    return figure, pairs


def _frame(axes, box, words, colour):
    left, top, right, bottom = box
    corner = (left - 0.5, top - 0.5)  # pictures have the middle of the first pixel at 0
    axes.add_patch(
        matplotlib.patches.Rectangle(
            corner, right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.5
        )
    )
    axes.text(*corner, words, fontsize=6, color="white", backgroundcolor=colour, va="bottom")
