"""The presets v1, v2 and cifar10 never change, because runs name them in their config.json."""

import colorsys
import hashlib

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from moco_tf.data.augment import Augment
from moco_tf.data.normalization import MEAN, STD
from moco_tf.data.recipes import RECIPES
from moco_tf.data.views import ATTEMPTS, crop_window, orientation, random_view, resample, view_draws
from moco_tf.seeds import seed_for
from tests.images import crops, patch

LUMA = np.array([0.299, 0.587, 0.114])
PRESETS = ("v1", "v2", "cifar10")


def checksum(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


# Checksums from before `config.augment` existed.


def test_draws_of_the_views_are_those_of_earlier_versions():
    places = [(seed, epoch, index) for seed in (0, 3) for epoch in (0, 2) for index in range(5)]
    assert checksum([view_draws(*place) for place in places]) == "1591a452fb9f5aac"
    # The numbers for other orientations follow.
    longer = [view_draws(*place, changes_orientation=True)[:, :-3] for place in places]
    assert checksum(longer) == "1591a452fb9f5aac"


@pytest.mark.parametrize("name", PRESETS)
def test_draws_of_the_colors_are_those_of_earlier_versions(name):
    draws = Augment(RECIPES[name]).draws(32, seed_for("query_view", 3, 5))
    assert draws.shape == (32, 12)
    assert checksum(draws) == "9ba8578c5b05553b"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("v1", "9e1678a28157aab0"), ("v2", "9e1678a28157aab0"), ("cifar10", "9b0ea9716cd2260f")],
)
def test_windows_and_flips_are_those_of_earlier_versions(name, expected):
    recipe = RECIPES[name]
    choices = []
    for index in range(200):
        for draws in view_draws(1, 2, index, recipe.changes_orientation):
            window = crop_window((333, 500), recipe.crop_scale, draws[: 4 * ATTEMPTS])
            choices.append([*window, *orientation(recipe, draws)])
    assert checksum(np.array(choices, np.int64)) == expected


# References that do not depend on this project's operations.


@pytest.mark.parametrize("name", PRESETS)
def test_view_is_the_resampled_window_flipped_or_not(name):
    recipe, image = RECIPES[name], np.stack(crops(1, 100))[0]
    for index in range(20):
        for draws in view_draws(0, 0, index, recipe.changes_orientation):
            assert len(draws) == 4 * ATTEMPTS + 1
            top, left, height, width = crop_window(image.shape[:2], recipe.crop_scale, draws[:-1])
            expected = resample(image[top : top + height, left : left + width], 16)
            expected = expected[:, ::-1] if draws[-1] < 0.5 else expected
            np.testing.assert_array_equal(random_view(image, 16, recipe, draws), expected)


def shift_hue(x, shift):
    def shifted(pixel):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value)

    return np.apply_along_axis(shifted, -1, x)


def reference_view(name, image, draws):
    """Return the view `[H, W, 3]` in [0, 1] of an image, computed in float64 step by step."""
    hue_strength = 0.4 if name == "v1" else 0.1
    jitter, brightness, contrast, saturation, hue, gray, blur, sigma, *order = draws.astype(float)
    brightness, contrast, saturation = (0.6 + 0.8 * d for d in (brightness, contrast, saturation))
    x = image / 255.0
    is_gray = gray < np.float32(0.2)

    def to_gray(x):
        return np.repeat((x @ LUMA)[..., np.newaxis], 3, axis=-1)

    if is_gray and name == "v1":
        x = to_gray(x)
    if name == "v1" or jitter < np.float32(0.8):
        for operation in np.argsort(order):
            if operation == 0:
                x = np.clip(brightness * x, 0, 1)
            elif operation == 1:
                x = np.clip(contrast * x + (1 - contrast) * (x @ LUMA).mean(), 0, 1)
            elif operation == 2:
                x = np.clip(saturation * x + (1 - saturation) * to_gray(x), 0, 1)
            else:
                x = shift_hue(x, (2 * hue - 1) * hue_strength)
    if is_gray and name != "v1":
        x = to_gray(x)
    if name == "v2" and blur < 0.5:
        sigmas = [0.1 + 1.9 * sigma] * 2 + [0]
        x = scipy.ndimage.gaussian_filter(x, sigmas, mode="nearest", radius=[6, 6, 0])
    return x


@pytest.mark.parametrize("name", PRESETS)
def test_views_equal_a_reference_in_numpy(name):
    count = 60
    images = np.stack([patch()[y : y + 8, x : x + 9] for y in range(10) for x in range(6)])
    augment = Augment(RECIPES[name])
    tf.config.run_functions_eagerly(True)  # To compile it would take longer.
    try:
        views = augment(images, tf.range(count), count, [3, 9]).numpy() * STD + MEAN
    finally:
        tf.config.run_functions_eagerly(False)
    draws = augment.draws(count, [3, 9]).numpy()
    for view, image, numbers in zip(views, images, draws, strict=True):
        np.testing.assert_allclose(view, reference_view(name, image, numbers), atol=2e-5)
