"""Photometric operations against Pillow, colorsys and SciPy."""

import colorsys
import itertools

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from PIL import Image, ImageEnhance

from moco_tf.data.photometric import gaussian_blur, jitter_colors, shift_hue, to_grayscale
from tests.images import patch

LUMA = np.array([0.299, 0.587, 0.114])
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = list(itertools.permutations(range(4)))


def planes(image):
    """Convert an image `[H, W, 3]` in [0, 255] to `[1, 3, H, W]` in [0, 1]."""
    return tf.constant(np.moveaxis(image, -1, 0)[np.newaxis] / 255.0)


def per_image(values):
    """Return one value for each image, float64 `[N, 1, 1, 1]`."""
    return tf.reshape(tf.constant(values, tf.float64), [-1, 1, 1, 1])


def jitter(image, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, orders=(ORDERS[0],)):
    """Return one image `[H, W, 3]` in [0, 255] after `jitter_colors` in each of the orders."""
    count = len(orders)
    x = jitter_colors(
        tf.repeat(planes(image), count, 0),
        *(per_image([value] * count) for value in (brightness, contrast, saturation, hue)),
        tf.reshape(tf.constant(orders), [-1, 4, 1, 1]),
    )
    return 255.0 * np.moveaxis(x.numpy(), 1, -1)


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.85, 1.0, 1.15, 1.4])
@pytest.mark.parametrize(
    ("name", "enhancer", "degenerate_error"),
    [
        ("brightness", ImageEnhance.Brightness, 0.0),
        # Pillow rounds each gray level, and then their mean.
        ("contrast", ImageEnhance.Contrast, 1.0),
        ("saturation", ImageEnhance.Color, 0.5),
    ],
)
def test_blends_equal_pillows(name, enhancer, degenerate_error, factor):
    expected = np.asarray(enhancer(Image.fromarray(patch())).enhance(factor)).astype(float)
    [image] = jitter(patch(), **{name: factor})
    # Pillow truncates its result, and has rounded the image that it blends with.
    tolerance = 1.0 + abs(1.0 - factor) * degenerate_error + 1e-3
    assert np.abs(image - expected).max() <= tolerance
    assert -1.0 < np.mean(expected - image) <= 0.3


def test_grayscale_equals_pillows():
    expected = np.asarray(Image.fromarray(patch()).convert("L"))
    gray = 255.0 * to_grayscale(planes(patch())).numpy()
    assert gray.shape == (1, 1, *expected.shape)
    assert np.abs(gray[0, 0] - expected).max() <= 0.5 + 1e-2  # Pillow rounds


def test_hue_equals_colorsys_over_the_whole_wheel():
    generator = np.random.default_rng(0)
    corners = list(itertools.product([0.0, 0.5, 1.0], repeat=3))  # gray, black, white, pure, mixed
    pixels = np.concatenate([corners, generator.uniform(size=(200, 3))])
    shifts = np.linspace(-0.5, 0.5, 41)
    x = np.broadcast_to(pixels.T[np.newaxis, :, np.newaxis], (len(shifts), 3, 1, len(pixels)))
    shifted = shift_hue(tf.constant(x), per_image(shifts)).numpy()
    for shift, image in zip(shifts, shifted, strict=True):
        expected = [shift_pixel(pixel, shift) for pixel in pixels]
        np.testing.assert_allclose(image[:, 0].T, expected, atol=1e-12)


def shift_pixel(pixel, shift):
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
    return colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value)


@pytest.mark.parametrize(("height", "width"), [(20, 23), (4, 5)])
def test_blur_equals_scipys(height, width):
    radius = 6
    sigmas = [0.1, 0.5, 1.0, 1.37, 2.0]
    x = np.random.default_rng(0).uniform(size=(len(sigmas), 3, height, width))
    blurred = gaussian_blur(tf.constant(x), per_image(sigmas), radius).numpy()
    for image, blurred_image, sigma in zip(x, blurred, sigmas, strict=True):
        for before, after in zip(image, blurred_image, strict=True):
            expected = scipy.ndimage.gaussian_filter(before, sigma, mode="nearest", radius=radius)
            np.testing.assert_allclose(after, expected, atol=1e-12)


def jitter_step_by_step(image, brightness, contrast, saturation, hue, order):
    """Apply color jitter as torchvision does, one operation after the other."""
    x = image / 255.0
    for operation in order:
        gray = x @ LUMA
        if operation == BRIGHTNESS:
            x = np.clip(brightness * x, 0, 1)
        elif operation == CONTRAST:
            x = np.clip(contrast * x + (1 - contrast) * gray.mean(), 0, 1)
        elif operation == SATURATION:
            x = np.clip(saturation * x + (1 - saturation) * gray[..., np.newaxis], 0, 1)
        else:
            x = np.apply_along_axis(shift_pixel, -1, x, hue)
    return 255.0 * x


def test_operations_are_applied_in_the_requested_order():
    image = patch()[:8, :9]
    settings = dict(brightness=1.4, contrast=0.7, saturation=1.35, hue=0.3)
    images = jitter(image, **settings, orders=ORDERS)
    expected = np.stack([jitter_step_by_step(image, **settings, order=order) for order in ORDERS])
    np.testing.assert_allclose(images, expected, atol=1e-9)
    for one, other in itertools.combinations(expected, 2):  # The test can tell the orders apart.
        assert np.abs(one - other).max() > 0.1


def test_every_image_has_its_own_factors():
    image = patch()[:8, :9]
    generator = np.random.default_rng(1)
    factors = generator.uniform(0.6, 1.4, (3, 6))
    hues = generator.uniform(-0.4, 0.4, 6)
    orders = [ORDERS[i] for i in generator.integers(0, 24, 6)]
    images = jitter_colors(
        tf.repeat(planes(image), 6, 0),
        *map(per_image, factors),
        per_image(hues),
        tf.reshape(tf.constant(orders), [-1, 4, 1, 1]),
    )
    for i in range(6):
        expected = jitter_step_by_step(image, *factors[:, i], hues[i], orders[i])
        result = 255 * np.moveaxis(images[i].numpy(), 0, -1)
        np.testing.assert_allclose(result, expected, atol=1e-9)
