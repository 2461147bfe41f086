"""Solarization against Pillow and torchvision, and the moments and the seeds of the noise."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from PIL import Image, ImageOps

from moco_tf import distribution
from moco_tf.data.augment import Augment
from moco_tf.data.normalization import mean_and_std
from moco_tf.data.photometric import solarize, standard_normal
from moco_tf.data.recipes import RECIPES, Recipe
from tests.images import patch

OFF = Recipe(jitter_probability=0.0, gray_probability=0.0)
# All operations at once, with the colors of MoCo v2.
ALL = dataclasses.replace(RECIPES["v2"], solarize_probability=0.3, noise_probability=0.5)
STD = 0.05


def views(recipe, images, seed=0, rows=None, count=None, compiled=False):
    """Return a recipe's views without normalization, and the random numbers of all rows.

    Runs eagerly unless `compiled`, because XLA takes a second or two for a recipe. It draws the
    noise of many images faster.
    """
    count = count or len(images)
    rows = np.arange(len(images)) if rows is None else rows
    augment = Augment(recipe, images.shape[-1])
    mean, std = mean_and_std(images.shape[-1])
    tf.config.run_functions_eagerly(not compiled)
    try:
        result = augment(tf.constant(images), tf.constant(rows), count, [7, seed])
    finally:
        tf.config.run_functions_eagerly(False)
    return result.numpy() * std + mean, augment.draws(count, [7, seed]).numpy()


def assert_share(applied, probability):
    # Four standard deviations: a wrong probability is far outside.
    slack = 4 * (probability * (1 - probability) / len(applied)) ** 0.5
    assert abs(np.mean(applied) - probability) <= slack


# Solarization.


@pytest.mark.parametrize("threshold", [0, 1, 100, 128, 255])
def test_solarize_equals_pillows(threshold):
    expected = np.asarray(ImageOps.solarize(Image.fromarray(patch()), threshold))
    result = solarize(tf.constant(patch() / 255.0), threshold / 255)
    np.testing.assert_allclose(255 * result.numpy(), expected, atol=1e-9)


@pytest.mark.torch
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_solarize_equals_torchvisions(threshold):
    from tests.pytorch import torch, torchvision

    x = np.random.default_rng(0).uniform(size=(2, 3, 12, 13))
    expected = torchvision.transforms.functional.solarize(torch.tensor(x), threshold)
    np.testing.assert_array_equal(solarize(tf.constant(x), threshold), expected)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize(("probability", "threshold"), [(0.2, 0.5), (1.0, 0.25)])
def test_solarization_occurs_with_its_probability(channels, probability, threshold):
    image = np.random.default_rng(0).integers(0, 256, (4, 4, channels), np.uint8)
    recipe = dataclasses.replace(
        OFF, solarize_probability=probability, solarize_threshold=threshold
    )
    result, _ = views(recipe, np.broadcast_to(image, (3000, *image.shape)))
    x = image / 255.0
    expected = np.where(x >= threshold, 1 - x, x)
    applied = np.abs(result - expected).max(axis=(1, 2, 3)) < 1e-5
    assert_share(applied, probability)
    np.testing.assert_allclose(
        result[~applied], np.broadcast_to(x, result[~applied].shape), atol=1e-5
    )


# Noise.


def test_noise_is_normal_and_independent_for_each_pixel_and_channel():
    # Gray that 0.05 of noise does not clip.
    images = np.full((64, 16, 16, 3), 128, np.uint8)
    recipe = dataclasses.replace(OFF, noise_probability=1.0, noise_std=STD)
    result, _ = views(recipe, images)
    noise = (result - 128 / 255) / STD
    assert abs(noise.mean()) < 4 / noise.size**0.5
    assert abs(noise.var() - 1) < 4 * (2 / noise.size) ** 0.5
    assert scipy.stats.kstest(noise.ravel(), "norm").pvalue > 0.01
    for axis in range(4):  # image, row, column, channel
        first, second = np.take(noise, 0, axis).ravel(), np.take(noise, 1, axis).ravel()
        assert abs(np.corrcoef(first, second)[0, 1]) < 4 / len(first) ** 0.5


@pytest.mark.parametrize("std", [0.01, 0.2])
def test_noise_has_its_standard_deviation_and_is_clipped(std):
    images = np.broadcast_to(np.uint8([0, 128, 255]), (200, 8, 8, 3))
    recipe = dataclasses.replace(OFF, noise_probability=1.0, noise_std=std)
    result, _ = views(recipe, images)
    assert result.min() >= -1e-6
    assert result.max() <= 1 + 1e-6
    black, gray, white = np.moveaxis(result, -1, 0)
    # Clipped at 2.5 standard deviations, the larger one is 1.6 % smaller.
    np.testing.assert_allclose(gray.std(), std, rtol=0.03)
    for clipped in (black, 1 - white):
        assert_share((clipped < 1e-6).ravel(), 0.5)
        np.testing.assert_allclose(clipped.mean(), std / (2 * np.pi) ** 0.5, rtol=0.05)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_noise_occurs_with_its_probability(channels):
    images = np.full((3000, 4, 4, channels), 100, np.uint8)
    recipe = dataclasses.replace(OFF, noise_probability=0.3, noise_std=STD)
    result, _ = views(recipe, images, compiled=True)
    assert_share(np.ptp(result, axis=(1, 2, 3)) > 1e-3, 0.3)


def test_extremes_of_the_noise_are_finite():
    numbers = standard_normal(tf.constant([[1, 2], [3, 4]]), (512, 512)).numpy()
    assert np.isfinite(numbers).all()
    assert 4.4 < np.abs(numbers).max() < 5.5


# All operations together.


def test_added_operations_change_no_draw_of_the_others():
    before = Augment(RECIPES["v2"]).draws(20, [7, 3]).numpy()
    draws = Augment(ALL).draws(20, [7, 3]).numpy()
    np.testing.assert_array_equal(draws[:, : Augment.DRAWS], before)
    added = Augment(ALL).draws(4000, [7, 3]).numpy()[:, Augment.DRAWS :]
    assert added.shape == (4000, Augment.LATER_DRAWS)
    for numbers in added.T:
        assert scipy.stats.kstest(numbers, "uniform").pvalue > 0.01
    every = Augment(ALL).draws(4000, [7, 3]).numpy()
    correlation = np.corrcoef(every, rowvar=False) - np.eye(every.shape[1])
    assert np.abs(correlation).max() < 4.5 / 4000**0.5


def test_solarization_and_noise_follow_the_other_operations():
    images = np.stack([patch()[:8, :8]] * 40)
    plain, _ = views(RECIPES["v2"], images)
    solarized, draws = views(dataclasses.replace(RECIPES["v2"], solarize_probability=0.5), images)
    for before, after, draw in zip(plain, solarized, draws[:, -2], strict=True):
        expected = np.where(before >= 0.5, 1 - before, before) if draw < 0.5 else before
        np.testing.assert_allclose(after, expected, atol=1e-5)
    noisy, draws = views(dataclasses.replace(RECIPES["v2"], noise_probability=0.5), images)
    differs = np.abs(noisy - plain).max(axis=(1, 2, 3)) > 1e-3
    np.testing.assert_array_equal(differs, draws[:, -1] < 0.5)


def test_view_of_a_row_does_not_depend_on_the_other_rows():
    images = np.stack([patch()[y : y + 6, :6] for y in range(12)])
    together, _ = views(ALL, images, seed=5)
    chosen = [7, 0, 11]
    apart, _ = views(ALL, images[chosen], seed=5, rows=chosen, count=12)
    np.testing.assert_allclose(apart, together[chosen], atol=1e-5)
    again, _ = views(ALL, images, seed=5)
    np.testing.assert_array_equal(again, together)
    other, _ = views(ALL, images, seed=6)
    assert (np.abs(other - together).max(axis=(1, 2, 3)) > 1e-3).all()


@pytest.mark.slow  # Compiles twice.
def test_views_are_the_same_in_a_step_compiled_by_xla():
    step = tf.Variable(3, dtype=tf.int64)  # A variable, so that nothing is constant-folded.
    images = tf.constant(np.stack([patch()] * 8))
    augment = Augment(ALL)

    def view():
        return augment(images, tf.range(8), 8, tf.stack([tf.constant(2, tf.int64), step]))

    expected = tf.function(view)().numpy()
    result = tf.function(view, jit_compile=True)().numpy()
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_two_replicas_have_the_views_of_one_device(two_replicas):
    recipe = dataclasses.replace(OFF, solarize_probability=0.5, noise_probability=0.7)
    augment, images = Augment(recipe), tf.constant(np.stack([patch()[:6, :6]] * 8))
    expected = augment(images, tf.range(8), 8, [7, 3]).numpy()

    @tf.function
    def view():
        rows = distribution.replica_rows(4)
        return augment(tf.gather(images, rows), rows, 8, [7, 3])

    halves = two_replicas.experimental_local_results(two_replicas.run(view))
    assert len(halves) == 2
    np.testing.assert_allclose(np.concatenate(halves), expected, atol=1e-5)


def test_description_names_solarization_and_noise():
    augment = Augment(ALL)
    for draws in augment.draws(100, [1, 1]).numpy():
        operations = augment.describe(draws)
        expected = ["solarize 0.50"] * bool(draws[-2] < 0.3)
        expected += ["noise 0.05"] * bool(draws[-1] < 0.5)
        assert operations == Augment(RECIPES["v2"]).describe(draws[:12]) + expected
