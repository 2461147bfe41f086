"""Batches of squares: their pixels, boxes and order."""

import dataclasses

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from moco_tf.data.boxes import geometry, letterbox
from moco_tf.data.boxes.annotations import AnnotatedImages, Annotations
from moco_tf.errors import UserError

SIZE = 32
BOX = (8, 4, 24, 16)  # Left, top, right and bottom of the box in each image.
SPECS = (tf.TensorSpec([4], tf.float32), tf.TensorSpec([], tf.int32))


def picture(index):
    """A white box on a dark image of 24 x 48 pixels, whose gray level is its index."""
    pixels = np.full([24, 48, 3], index, np.uint8)
    left, top, right, bottom = BOX
    pixels[top:bottom, left:right] = 250
    return pixels


def annotated_images(count, unreadable=()):
    pixels = tf.constant(np.stack([picture(index) for index in range(count)]))
    damaged = tf.constant(list(unreadable), tf.int64)

    def read(index):
        readable = tf.reduce_all(damaged != index)
        with tf.control_dependencies([tf.debugging.Assert(readable, ["damaged"])]):
            return tf.gather(pixels, index)

    def annotations(index, height, width):
        assert (height, width) == (24, 48)
        no_flags = np.zeros(1, bool)
        boxes, labels = np.array([BOX], float), np.array([index], np.int32)
        return Annotations(boxes, labels, crowd=no_flags, difficult=no_flags)

    indices = np.arange(count)
    return AnnotatedImages(
        name="memory",
        class_names=["box"],
        read=read,
        annotations=annotations,
        describe=lambda index: f"image {index}",
        train=indices,
        test=indices,
        max_boxes=1,
    )


def targets(annotations, height, width, flip):
    """Return the unmirrored box, and the image's index, or its complement if it is mirrored."""
    [box] = geometry.boxes_in_square(annotations.boxes, height, width, SIZE)
    [index] = annotations.labels
    return [box.astype(np.float32), np.int32(~index if flip else index)]


def training_batches(images, batch_size=4, seed=3):
    return letterbox.TrainingBatches(images, SIZE, batch_size, seed, targets, SPECS)


@pytest.mark.parametrize("shape", [(48, 24), (24, 48), (40, 40), (13, 100), (7, 1), (101, 33)])
@pytest.mark.parametrize("size", [32, 96])
def test_image_keeps_its_proportions_in_the_top_left_corner(shape, size):
    height, width = geometry.fitted(*shape, size)
    assert max(height, width) == size
    assert abs(height - shape[0] * size / max(shape)) <= 0.5 or height == 1
    assert abs(width - shape[1] * size / max(shape)) <= 0.5 or width == 1
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    square = letterbox.in_square(tf.constant(pixels), size).numpy()
    resized = PIL.Image.fromarray(pixels).resize((width, height), PIL.Image.Resampling.BILINEAR)
    inside = square[:height, :width].astype(int)
    assert np.abs(inside - np.asarray(resized)).max() <= 1
    outside = np.ones([size, size], bool)
    outside[:height, :width] = False
    # ImageNet's mean color, which the normalization maps to nearly 0.
    assert (square[outside] == [124, 116, 104]).all()


def test_boxes_move_with_their_pixels():
    square = letterbox.in_square(tf.constant(picture(0)), SIZE).numpy()[..., 0]
    [box] = geometry.boxes_in_square(np.array([BOX], float), 24, 48, SIZE)
    np.testing.assert_allclose(box, np.array(BOX) * 32 / 48)
    left, top, right, bottom = box
    inside = square > 125  # Between white and black. Bilinear edges are in the middle.
    inside[16:] = False
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert np.abs(np.array(edges) - [left, top, right, bottom]).max() <= 0.5
    restored = geometry.boxes_in_image(np.array([box, [-5, 2, 40, 40]]), 24, 48, SIZE)
    np.testing.assert_allclose(restored, [BOX, [0, 3, 48, 24]])


def test_boxes_are_restored_from_squares_of_odd_images():
    boxes = np.array([[0, 0, 101, 33], [5.5, 2.25, 70, 31]])
    in_square = geometry.boxes_in_square(boxes, 33, 101, SIZE)
    np.testing.assert_allclose(in_square[0], [0, 0, 32, 10])  # 10.46 rows are rounded to 10.
    np.testing.assert_allclose(geometry.boxes_in_image(in_square, 33, 101, SIZE), boxes)


def test_maps_move_with_their_pixels():
    labels = np.zeros([24, 48], np.int32)
    labels[4:16, 8:24] = 3
    square = geometry.map_in_square(labels, 64)  # 4/3 as large.
    assert (square[32:] == geometry.IGNORED).all()
    expected = np.zeros([32, 64], np.int32)
    # Pixels with their center in the box from 16/3 to 64/3 and from 32/3 to 32.
    expected[5:21, 11:32] = 3
    np.testing.assert_array_equal(square[:32], expected)
    np.testing.assert_array_equal(geometry.map_in_image(square, 24, 48), labels)


def test_epochs_are_permutations_and_pixels_are_mirrored():
    images = annotated_images(10)
    batches = list(training_batches(images).until(10).as_numpy_iterator())  # Four epochs.
    squares, boxes, labels = (np.concatenate(values) for values in zip(*batches, strict=True))
    assert squares.shape == (40, SIZE, SIZE, 3)
    indices = np.where(labels < 0, ~labels, labels)
    for epoch in range(4):
        assert sorted(indices[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert len({tuple(indices[10 * epoch : 10 * epoch + 10]) for epoch in range(4)}) == 4
    assert 8 < (labels < 0).sum() < 32
    # The mirrored images differ between epochs.
    assert len({tuple(sorted(labels[10 * e : 10 * e + 10].tolist())) for e in range(4)}) == 4
    for square, box, label, index in zip(squares, boxes, labels, indices, strict=True):
        plain = letterbox.in_square(images.read(tf.constant(index, tf.int64)), SIZE).numpy()
        np.testing.assert_allclose(box, np.array(BOX) * 2 / 3, rtol=1e-6)
        expected = plain[:, ::-1] if label < 0 else plain  # The image is as wide as the square.
        np.testing.assert_array_equal(square, expected)


def test_step_depends_on_the_seed_and_its_number_only():
    images = annotated_images(10)
    first = training_batches(images)
    steps = [labels for *_, labels in first.until(7).as_numpy_iterator()]
    again = [labels for *_, labels in training_batches(images).until(3).as_numpy_iterator()]
    np.testing.assert_array_equal(steps[:3], again)
    for step in range(7):
        indices = np.where(steps[step] < 0, ~steps[step], steps[step])
        assert first.rows(step)[1].tolist() == indices.tolist()
    other = [labels for *_, labels in training_batches(images, seed=4).until(3).as_numpy_iterator()]
    assert np.any(np.array(other) != again)


def test_two_workers_split_every_batch():
    images = annotated_images(10)
    whole = list(training_batches(images).until(5).as_numpy_iterator())
    contexts = [tf.distribute.InputContext(2, worker, 2) for worker in range(2)]
    parts = [list(training_batches(images).until(5, c).as_numpy_iterator()) for c in contexts]
    for step, values in enumerate(whole):
        for number, value in enumerate(values):
            joined = np.concatenate([part[step][number] for part in parts])
            np.testing.assert_array_equal(joined, value)


def test_every_image_is_evaluated_once():
    images = annotated_images(10)
    contexts = [tf.distribute.InputContext(2, worker, 2) for worker in range(2)]
    squares = {}
    for context in contexts:
        for batch in letterbox.batches_to_evaluate(images, images.test, SIZE, 3, context):
            for index, shape, square in zip(*(value.numpy() for value in batch), strict=True):
                if index >= 0:
                    assert index not in squares
                    squares[index] = square
                    assert shape.tolist() == [24, 48]
    assert sorted(squares) == list(range(10))
    for index, square in squares.items():
        expected = letterbox.in_square(tf.constant(picture(index)), SIZE)
        np.testing.assert_array_equal(square, expected)


def test_error_names_the_image_that_cannot_be_read():
    images = annotated_images(10, unreadable=(6,))
    error = tf.errors.InvalidArgumentError(None, None, "")
    with pytest.raises(UserError, match=r"image 6 cannot be read \(damaged\): repair it"):
        letterbox.require_readable(images, [1, 6], error)
    letterbox.require_readable(images, [1, 2], error)


def test_error_names_the_annotations_that_are_wrong():
    def annotations(index, height, width):
        raise UserError("of another size")

    images = dataclasses.replace(annotated_images(3), annotations=annotations)
    with pytest.raises(UserError, match="of another size"):
        letterbox.require_readable(images, [1], tf.errors.InvalidArgumentError(None, None, ""))


@pytest.mark.parametrize("shape", [(24, 48), (48, 24), (40, 40)])
def test_mirrored_pixels_stay_beside_the_padding(shape):
    """A white box is mirrored within the picture, as `geometry` mirrors its box."""
    pixels = np.full([*shape, 3], 10, np.uint8)
    pixels[4:16, 2:10] = 250
    images = dataclasses.replace(
        annotated_images(8),
        read=lambda index: tf.constant(pixels),
        annotations=lambda index, height, width: Annotations(
            np.array([[2, 4, 10, 16]], float), np.array([index], np.int32), *np.zeros([2, 1], bool)
        ),
    )
    batches = training_batches(images, batch_size=8)
    [(squares, boxes, labels)] = batches.until(1).as_numpy_iterator()
    flips = labels < 0
    assert 0 < flips.sum() < 8
    _, width = geometry.fitted(*shape, SIZE)
    for square, box, flip in zip(squares, boxes, flips, strict=True):
        assert (square[:, width:] == letterbox.PADDING).all()
        inside = square[..., 0] > 125
        left, _, right, _ = (width - box[2], 0, width - box[0], 0) if flip else box
        columns = np.flatnonzero(inside[:, :width].any(axis=0))
        assert abs(columns[0] - left) <= 0.5
        assert abs(columns[-1] + 1 - right) <= 0.5
