"""Small images and their files, for the tests of sources of records."""

import io
import os

import numpy as np
import tensorflow as tf
from PIL import Image


def png(number):
    """An image whose red channel is 5 times its number in every pixel, and its PNG file."""
    image = np.random.default_rng(number).integers(0, 256, (12, 14, 3), np.uint8)
    image[..., 0] = 5 * number
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return image, buffer.getvalue()


def read_image(source, index):
    return source.read(tf.constant(index, tf.int64)).numpy()


def assert_images(source, numbers):
    """Assert that a source has the images of these numbers, also inside of tf.data functions."""
    inside = tf.data.Dataset.range(source.size).map(source.read, num_parallel_calls=4)
    images = list(inside.as_numpy_iterator())
    assert len(images) == len(numbers)
    for image, number in zip(images, numbers, strict=True):
        np.testing.assert_array_equal(image, png(number)[0])


def settle(*paths):
    """Make files look old, so that their indices are kept."""
    for path in paths:
        os.utime(path, (1_600_000_000, 1_600_000_000))
