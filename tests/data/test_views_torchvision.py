"""Random resized crops, flips and central views against torchvision itself."""

import numpy as np
import pytest
import scipy.stats
import skimage.data
import tensorflow as tf
from PIL import Image

from moco_tf.data.recipes import Recipe
from moco_tf.data.views import (
    ASPECT_RATIOS,
    ATTEMPTS,
    DRAWS,
    central_view,
    crop_window,
    random_view,
    view_draws,
)
from tests.pytorch import torch, torchvision

COUNT = 4000  # windows of ours and of torchvision's
SHAPES = [(333, 500), (256, 256), (420, 100), (100, 900)]
# The p-value of equal distributions is below the first for one seed in a thousand. That of
# different distributions has to be below the second.
MIN_EQUAL, MAX_DIFFERENT = 1e-3, 1e-6


def our_windows(shape, crop_scale, change=lambda draws: draws):
    """Return windows as in training, from random numbers after `change`."""
    return np.array(
        [
            crop_window(shape, crop_scale, change(numbers[:-1].reshape(4, ATTEMPTS)).ravel())
            for epoch in range(COUNT // 2)
            for numbers in view_draws(0, epoch, 0)
        ]
    )


def torchvisions_windows(shape, crop_scale, count=COUNT):
    torch.manual_seed(0)
    image = torch.empty(3, *shape)
    get_params = torchvision.transforms.RandomResizedCrop.get_params
    return np.array([get_params(image, crop_scale, ASPECT_RATIOS) for _ in range(count)])


def measure(windows, shape):
    """Return area share, log aspect ratio, and relative position from the top and left."""
    top, left, height, width = windows.astype(float).T
    return {
        "area": height * width / (shape[0] * shape[1]),
        "aspect": np.log(width / height),
        # A window as high as the image has only one position.
        "top": top / np.maximum(shape[0] - height, 1),
        "left": left / np.maximum(shape[1] - width, 1),
    }


def p_values(windows, reference, shape):
    """Return, for each property, the p-value of windows and reference having one distribution."""
    measured, expected = measure(windows, shape), measure(reference, shape)
    results = {
        name: scipy.stats.ks_2samp(measured[name], expected[name], method="asymp").pvalue
        for name in measured
    }
    # An area share above 1 never fits.
    [fallback] = torchvisions_windows(shape, (5.0, 6.0), count=1)
    fallbacks = [int((sample == fallback).all(axis=1).sum()) for sample in (windows, reference)]
    table = [fallbacks, [len(windows) - fallbacks[0], len(reference) - fallbacks[1]]]
    return {**results, "fallback": scipy.stats.fisher_exact(table).pvalue}


@pytest.mark.slow
@pytest.mark.parametrize("crop_scale", [(0.2, 1.0), (0.08, 1.0)])
@pytest.mark.parametrize("shape", SHAPES)
def test_windows_have_torchvisions_distribution(shape, crop_scale):
    windows = our_windows(shape, crop_scale)
    reference = torchvisions_windows(shape, crop_scale)
    assert min(p_values(windows, reference, shape).values()) > MIN_EQUAL


def with_uniform_aspect_ratio(draws):
    area, ratio, top, left = draws
    low, high = ASPECT_RATIOS
    return np.stack(
        [area, np.log((low + (high - low) * ratio) / low) / np.log(high / low), top, left]
    )


def with_uniform_side(draws):
    area, ratio, top, left = draws
    low, high = 0.2, 1.0
    side = low**0.5 + (high**0.5 - low**0.5) * area
    return np.stack([(side**2 - low) / (high - low), ratio, top, left])


def nearer_to_the_top(draws):
    area, ratio, top, left = draws
    return np.stack([area, ratio, top**1.3, left])


def nearer_to_the_left(draws):
    area, ratio, top, left = draws
    return np.stack([area, ratio, top, left**1.3])


def with_half_the_attempts(draws):
    return np.tile(draws[:, : ATTEMPTS // 2], [1, 2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "crop_scale", "shape", "name"),
    [
        (with_uniform_aspect_ratio, (0.2, 1.0), (333, 500), "aspect"),
        (with_uniform_side, (0.2, 1.0), (333, 500), "area"),
        (lambda draws: draws, (0.25, 1.0), (333, 500), "area"),
        (nearer_to_the_top, (0.2, 1.0), (333, 500), "top"),
        (nearer_to_the_left, (0.2, 1.0), (333, 500), "left"),
        (with_half_the_attempts, (0.2, 1.0), (420, 100), "fallback"),
    ],
    ids=["uniform aspect ratio", "uniform side", "larger areas", "top", "left", "fewer attempts"],
)
def test_windows_with_another_distribution_are_recognized(change, crop_scale, shape, name):
    windows = our_windows(shape, crop_scale, change)
    reference = torchvisions_windows(shape, (0.2, 1.0))
    assert p_values(windows, reference, shape)[name] < MAX_DIFFERENT


def test_window_is_the_fallback_if_the_smallest_area_is_too_wide():
    # A fifth of 100x900 is at least 1.8 times as wide as high.
    windows = our_windows((100, 900), (0.2, 1.0))
    np.testing.assert_array_equal(windows, torchvisions_windows((100, 900), (0.2, 1.0)))


@pytest.mark.parametrize("size", [224, 32])
@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket"])
def test_views_are_close_to_torchvisions_resized_crops_and_flips(name, size):
    functional = torchvision.transforms.functional
    photograph = getattr(skimage.data, name)()
    image = Image.fromarray(photograph)
    draws = np.random.default_rng(0).uniform(size=(12, DRAWS))
    draws[:, -1] = np.linspace(0.0, 0.99, 12)
    for numbers in draws:
        window = crop_window(photograph.shape[:2], (0.08, 1.0), numbers[:-1])
        expected = functional.resized_crop(image, *map(int, window), [size, size])
        if numbers[-1] < 0.5:
            expected = functional.hflip(expected)
        view = random_view(photograph, size, Recipe(crop_scale=(0.08, 1.0)), numbers)
        difference = np.abs(view.astype(int) - np.asarray(expected).astype(int))
        # See `resample`. A window one pixel off differs by several gray levels on average.
        assert difference.mean() < 1.2


@pytest.mark.parametrize(
    "shape", [(300, 451), (400, 600), (427, 640), (480, 100), (333, 500), (991, 1111), (224, 225)]
)
def test_central_views_equal_torchvisions(shape):
    image = Image.fromarray(skimage.data.coffee()).resize(shape[::-1])
    transforms = torchvision.transforms
    expected = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(image)
    view = central_view(tf.constant(np.asarray(image)), 224)
    assert np.abs(view.numpy().astype(int) - np.asarray(expected).astype(int)).max() <= 1
