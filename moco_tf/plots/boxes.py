"""Plots of detected objects and segmented images beside the ground truth."""

import os
from collections.abc import Mapping

import matplotlib.axes
import matplotlib.colors
import matplotlib.figure
import matplotlib.patches
import numpy as np
import tensorflow as tf

from moco_tf.data.boxes.annotations import AnnotatedImages
from moco_tf.data.boxes.geometry import map_in_image
from moco_tf.evaluation.transfer import detection, segmentation
from moco_tf.names import printable
from moco_tf.plots.saving import save_figure

MIN_SCORE = 0.3  # Detections with a lower score are not shown.


def plot_detections(
    path: str,
    images: AnnotatedImages,
    image_size: int,
    predictions: Mapping[int, tuple],
) -> str:
    """Plot test images, each with its true boxes and, beside it, with the detected ones.

    Args:
        path: Path of the PNG file to write.
        images: The source of the images.
        image_size: Side of the squares that the detector takes, in pixels.
        predictions: For the index of each image to show, `(height, width, *arrays)`: the size of
            the image, and the arrays that `detection.predict` returns for it.

    Returns:
        `path`.
    """
    figure, pairs = _image_pairs(images, list(predictions))
    for (true_axes, detected_axes), (index, (height, width, *arrays)) in zip(
        pairs, predictions.items(), strict=True
    ):
        annotations = images.annotations(index, height, width)
        for box, label in zip(annotations.boxes, annotations.labels, strict=True):
            _plot_box(true_axes, box, printable(images.class_names[label]), f"C{label % 10}")
        boxes, scores, labels = detection.detections(image_size, height, width, *arrays)
        for box, score, label in zip(boxes, scores, labels.astype(int), strict=True):
            if score >= MIN_SCORE:
                text = f"{printable(images.class_names[label])} {score:.2f}"
                _plot_box(detected_axes, box, text, f"C{label % 10}")
    figure.suptitle(
        f"Test images of {images.name}: true boxes on the left, and on the right detections with "
        f"scores of at least {MIN_SCORE:g}"
    )
    return save_figure(figure, path)


def plot_segmentations(
    path: str,
    images: AnnotatedImages,
    predictions: Mapping[int, tuple[int, int, np.ndarray]],
) -> str:
    """Plot test images, each with the true labels of its pixels and, beside it, the predicted ones.

    Args:
        path: Path of the PNG file to write.
        images: The source of the images, with masks.
        predictions: For the index of each image to show, `(height, width, labels)`: the size of
            the image, and the labels that `segmentation.predict` returns for it.

    Returns:
        `path`.
    """
    figure, pairs = _image_pairs(images, list(predictions))
    visible_labels = set()
    for (true_axes, predicted_axes), (index, (height, width, square)) in zip(
        pairs, predictions.items(), strict=True
    ):
        annotations = images.annotations(index, height, width)
        true_labels = segmentation.labels_of(annotations, height, width)
        predicted_labels = map_in_image(square, height, width)
        for axes, labels in ((true_axes, true_labels), (predicted_axes, predicted_labels)):
            # Bytes, because images may be large. The background stays transparent.
            overlay = np.zeros([height, width, 4], np.uint8)
            for label in np.unique(labels[labels > segmentation.BACKGROUND]):
                rgb = matplotlib.colors.to_rgb(f"C{(label - 1) % 10}")
                overlay[labels == label] = [round(255 * value) for value in (*rgb, 0.6)]
                visible_labels.add(int(label))
            axes.imshow(overlay)
    patches = [
        matplotlib.patches.Patch(
            color=f"C{(label - 1) % 10}", label=printable(images.class_names[label - 1])
        )
        for label in sorted(visible_labels)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=8)
    figure.suptitle(
        f"Test images of {images.name}: true labels of the pixels on the left, predicted labels on "
        "the right"
    )
    return save_figure(figure, path)


def _image_pairs(
    images: AnnotatedImages, indices: list[int]
) -> tuple[matplotlib.figure.Figure, np.ndarray]:
    """Return a figure that shows each image twice, side by side, and the axes, `[N, 2]`."""
    rows = -(-len(indices) // 2)
    figure = matplotlib.figure.Figure(figsize=(12, 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, 4, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    pairs = grid.reshape(-1, 2)[: len(indices)]
    for pair, index in zip(pairs, indices, strict=True):
        image = images.read(tf.constant(index, tf.int64)).numpy()
        for axes in pair:
            axes.imshow(image)
        pair[0].set_title(printable(os.path.basename(images.describe(index)))[-40:], fontsize=7)
    return figure, pairs


def _plot_box(axes: matplotlib.axes.Axes, box: np.ndarray, text: str, color: str) -> None:
    left, top, right, bottom = box
    corner = (left - 0.5, top - 0.5)  # Matplotlib places the center of the first pixel at 0.
    rectangle = matplotlib.patches.Rectangle(
        corner, right - left, bottom - top, fill=False, edgecolor=color, linewidth=1.5
    )
    axes.add_patch(rectangle)
    axes.text(*corner, text, fontsize=6, color="white", backgroundcolor=color, va="bottom")
