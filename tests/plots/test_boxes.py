"""Plots of detected objects and segmented images show the truth and the predictions."""

import types

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.plots import boxes
from tests.images import crops

HEIGHT = WIDTH = 64


@pytest.fixture
def images():
    """Two images with one object each, and the masks of the objects."""
    mask = pytest.importorskip("pycocotools.mask")
    pixels = np.stack(crops(2, HEIGHT))

    def annotations(index, height, width):
        box = np.array([[10.0, 20.0, 30.0, 40.0]]) + index
        labels = np.zeros([height, width], np.uint8, order="F")
        labels[20:40, 10:30] = 1
        return types.SimpleNamespace(
            boxes=box,
            labels=np.array([index], np.int32),
            crowd=np.array([False]),
            difficult=np.array([False]),
            masks=[mask.encode(labels)],
        )

    return types.SimpleNamespace(
        name="coco:somewhere",
        class_names=["cat", "dog"],
        read=lambda index: tf.gather(pixels, index),
        annotations=annotations,
        describe=lambda index: f"folder/{index}.jpg",
        pixels=pixels,
    )


def test_detections_are_plotted_beside_the_true_boxes(images, figures):
    arrays = (
        np.array([[1.0, 2.0, 33.0, 44.0], [5.0, 5.0, 9.0, 9.0]], np.float32),
        np.array([0.9, boxes.MIN_SCORE - 0.01], np.float32),
        np.array([1, 0], np.float32),
    )
    predictions = {0: (HEIGHT, WIDTH, *arrays), 1: (HEIGHT, WIDTH, *arrays)}
    assert boxes.plot_detections("boxes.png", images, 64, predictions) == "boxes.png"
    [figure] = figures
    assert "coco:somewhere" in figure.get_suptitle()
    for index, (true_axes, detected_axes) in enumerate(np.reshape(figure.axes, [2, 2])):
        for axes in (true_axes, detected_axes):
            np.testing.assert_array_equal(axes.images[0].get_array(), images.pixels[index])
        assert true_axes.get_title() == f"{index}.jpg"
        [true_box] = true_axes.patches
        assert np.add(true_box.get_xy(), 0.5).tolist() == [10 + index, 20 + index]
        assert (true_box.get_width(), true_box.get_height()) == (20, 20)
        assert [text.get_text() for text in true_axes.texts] == [images.class_names[index]]
        [detected_box] = detected_axes.patches  # The other has too low a score.
        assert np.add(detected_box.get_xy(), 0.5).tolist() == [1, 2]
        assert (detected_box.get_width(), detected_box.get_height()) == (32, 42)
        assert [text.get_text() for text in detected_axes.texts] == ["dog 0.90"]


def test_segmentations_are_plotted_beside_the_true_labels(images, figures):
    square = np.zeros([64, 64], np.int32)
    square[:10, :10] = 2
    predictions = {0: (HEIGHT, WIDTH, square)}
    assert boxes.plot_segmentations("masks.png", images, predictions) == "masks.png"
    [figure] = figures
    assert "coco:somewhere" in figure.get_suptitle()
    true_axes, predicted_axes = figure.axes[:2]
    true_overlay, predicted_overlay = (
        np.asarray(axes.images[1].get_array())[..., 3] > 0 for axes in (true_axes, predicted_axes)
    )
    expected = np.zeros([HEIGHT, WIDTH], bool)
    expected[20:40, 10:30] = True
    np.testing.assert_array_equal(true_overlay, expected)
    np.testing.assert_array_equal(predicted_overlay, square > 0)
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["cat", "dog"]
