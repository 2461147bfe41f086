"""The photometric operations against Pillow, colorsys and SciPy."""

import colorsys
import itertools

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from PIL import Image, ImageEnhance

from moco_tf.data.augment import gaussian_blur, jitter_colours, shift_hue, to_grey
from tests.images import patch

LUMA = np.array([0.299, 0.587, 0.114])
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = list(itertools.permutations(range(4)))


def planes(image):
    """`[H, W, 3]` in 0 to 255 to `[1, 3, H, W]` in 0 to 1."""
    return tf.constant(np.moveaxis(image, -1, 0)[np.newaxis] / 255.0)


def each(values):
    return tf.reshape(tf.constant(values, tf.float64), [-1, 1, 1, 1])


def jitter(image, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, orders=(ORDERS[0],)):
    """`jitter_colours` of one image `[H, W, 3]` in 0 to 255, once for each order."""
    count = len(orders)
    x = jitter_colours(
        tf.repeat(planes(image), count, 0),
        *(each([value] * count) for value in (brightness, contrast, saturation, hue)),
        tf.reshape(tf.constant(orders), [-1, 4, 1, 1]),
    )
    return 255.0 * np.moveaxis(x.numpy(), 1, -1)


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.85, 1.0, 1.15, 1.4])
@pytest.mark.parametrize(
    "name, enhancer, degenerate_error",
    [
        ("brightness", ImageEnhance.Brightness, 0.0),
        # Pillow rounds each grey, and then their mean.
        ("contrast", ImageEnhance.Contrast, 1.0),
        ("saturation", ImageEnhance.Color, 0.5),
    ],
)
def test_blends_are_pillows(name, enhancer, degenerate_error, factor):
    expected = np.asarray(enhancer(Image.fromarray(patch())).enhance(factor)).astype(float)
    [found] = jitter(patch(), **{name: factor})
    # Pillow cuts the fraction off its result, and has rounded what it blends with.
    tolerance = 1.0 + abs(1.0 - factor) * degenerate_error + 1e-3
    assert np.abs(found - expected).max() <= tolerance
    assert -1.0 < np.mean(expected - found) <= 0.3


def test_grey_is_pillows():
    expected = np.asarray(Image.fromarray(patch()).convert("L"))
    found = 255.0 * to_grey(planes(patch())).numpy()
    assert found.shape == (1, 1, *expected.shape)
    assert np.abs(found[0, 0] - expected).max() <= 0.5 + 1e-2  # Pillow rounds


def test_hue_is_colorsys_over_the_whole_wheel():
    generator = np.random.default_rng(0)
    corners = list(itertools.product([0.0, 0.5, 1.0], repeat=3))  # grey, black, white, pure, mixed
    pixels = np.concatenate([corners, generator.uniform(size=(200, 3))])
    shifts = np.linspace(-0.5, 0.5, 41)
    x = np.broadcast_to(pixels.T[np.newaxis, :, np.newaxis], (len(shifts), 3, 1, len(pixels)))
    found = shift_hue(tf.constant(x), each(shifts)).numpy()
    for shift, image in zip(shifts, found, strict=True):
        expected = [turned(pixel, shift) for pixel in pixels]
        np.testing.assert_allclose(image[:, 0].T, expected, atol=1e-12)


def turned(pixel, shift):
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
    return colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value)


@pytest.mark.parametrize("height, width", [(20, 23), (4, 5)])
def test_blur_is_scipys(height, width):
    radius = 6
    sigmas = [0.1, 0.5, 1.0, 1.37, 2.0]
    x = np.random.default_rng(0).uniform(size=(len(sigmas), 3, height, width))
    found = gaussian_blur(tf.constant(x), each(sigmas), radius).numpy()
    for image, blurred, sigma in zip(x, found, sigmas, strict=True):
        for before, after in zip(image, blurred, strict=True):
            expected = scipy.ndimage.gaussian_filter(before, sigma, mode="nearest", radius=radius)
            np.testing.assert_allclose(after, expected, atol=1e-12)


def one_by_one(image, brightness, contrast, saturation, hue, order):
    """Colour jitter as torchvision does it: one operation after the other."""
    x = image / 255.0
    for operation in order:
        grey = x @ LUMA
        if operation == BRIGHTNESS:
            x = np.clip(brightness * x, 0, 1)
        elif operation == CONTRAST:
            x = np.clip(contrast * x + (1 - contrast) * grey.mean(), 0, 1)
        elif operation == SATURATION:
            x = np.clip(saturation * x + (1 - saturation) * grey[..., np.newaxis], 0, 1)
        else:
            x = np.apply_along_axis(turned, -1, x, hue)
    return 255.0 * x


def test_operations_come_in_the_order_asked_for():
    image = patch()[:8, :9]
    settings = dict(brightness=1.4, contrast=0.7, saturation=1.35, hue=0.3)
    found = jitter(image, **settings, orders=ORDERS)
    expected = np.stack([one_by_one(image, **settings, order=order) for order in ORDERS])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    for a, b in itertools.combinations(expected, 2):  # so that the test can tell them apart
        assert np.abs(a - b).max() > 0.1


def test_every_image_takes_its_own_factors():
    image = patch()[:8, :9]
    generator = np.random.default_rng(1)
    factors = generator.uniform(0.6, 1.4, (3, 6))
    hues = generator.uniform(-0.4, 0.4, 6)
    orders = [ORDERS[i] for i in generator.integers(0, 24, 6)]
    found = jitter_colours(
        tf.repeat(planes(image), 6, 0),
        *map(each, factors),
        each(hues),
        tf.reshape(tf.constant(orders), [-1, 4, 1, 1]),
    )
    for i in range(6):
        expected = one_by_one(image, *factors[:, i], hues[i], orders[i])
        np.testing.assert_allclose(255 * np.moveaxis(found[i].numpy(), 0, -1), expected, atol=1e-9)
