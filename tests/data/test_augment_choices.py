"""Random choices of the augmentation: frequency, strength and order of the operations."""

import colorsys
import dataclasses
import itertools

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from moco_tf.data.augment import Augment
from moco_tf.data.recipes import RECIPES, Recipe
from tests.images import crops, patch

# ImageNet's statistics, as in the reference implementation.
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
LUMA = np.array([0.299, 0.587, 0.114])
# For tests of one operation at a time.
OFF = dict(
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    gray_probability=0.0,
    blur_probability=0.0,
)


def views(recipe, images, seed=0, compiled=False):
    """Return a recipe's views of images, without normalization: `[N, H, W, 3]` in [0, 1].

    Runs eagerly unless `compiled`, because XLA takes a second or two for each recipe.
    """
    count = len(images)
    tf.config.run_functions_eagerly(not compiled)
    try:
        result = Augment(recipe)(tf.constant(images), tf.range(count), count, [0, seed])
    finally:
        tf.config.run_functions_eagerly(False)
    return result.numpy() * STD + MEAN


def plain(color, count=4000):
    """Return many 4x4 images of one color."""
    return np.broadcast_to(np.uint8(color), (count, 4, 4, 3))


def assert_share(applied, probability):
    # Four standard deviations: a wrong probability is far outside.
    slack = 4 * (probability * (1 - probability) / len(applied)) ** 0.5
    assert abs(applied.mean() - probability) <= slack


def test_v1_converts_to_grayscale_before_jitter_and_v2_after_it():
    # Saturation and hue do not change gray, but they change the gray that a color is converted to.
    only = dict(brightness=0.0, contrast=0.0, gray_probability=1.0, blur_probability=0.0)
    color = [200, 100, 50]
    v1, v2 = (
        views(dataclasses.replace(RECIPES[name], **only, jitter_probability=1.0), plain(color, 50))
        for name in ("v1", "v2")
    )
    luma = LUMA @ np.array(color) / 255.0
    np.testing.assert_allclose(v1, luma, atol=1e-5)
    np.testing.assert_allclose(v2, v2[..., :1].repeat(3, -1), atol=1e-5)
    assert (np.abs(v2[:, 0, 0, 0] - luma) > 1e-3).mean() > 0.9


def test_recipes_are_those_of_the_papers():
    v1, v2 = RECIPES["v1"], RECIPES["v2"]
    for recipe in (v1, v2):
        assert recipe.crop_scale == (0.2, 1.0)
        assert (recipe.brightness, recipe.contrast, recipe.saturation) == (0.4, 0.4, 0.4)
        assert recipe.gray_probability == 0.2
    assert (v1.hue, v1.jitter_probability, v1.gray_first, v1.blur_probability) == (0.4, 1, True, 0)
    assert (v2.hue, v2.jitter_probability, v2.gray_first, v2.blur_probability) == (
        *(0.1, 0.8, False, 0.5),
    )
    assert v2.blur_sigma == (0.1, 2.0)


@pytest.mark.parametrize("name", RECIPES)
def test_grayscale_occurs_with_the_recipes_probability(name):
    recipe = dataclasses.replace(RECIPES[name], jitter_probability=0.0, blur_probability=0.0)
    images = plain([200, 100, 50])
    result = views(recipe, images)
    is_gray = np.ptp(result, axis=-1).max(axis=(1, 2)) < 1e-5
    assert_share(is_gray, 0.1 if name == "any_orientation" else 0.2)
    np.testing.assert_allclose(result[~is_gray], images[~is_gray] / 255, atol=1e-5)


@pytest.mark.parametrize(("name", "probability"), [("v1", 1.0), ("v2", 0.8)])
def test_jitter_occurs_with_the_recipes_probability(name, probability):
    recipe = dataclasses.replace(RECIPES[name], gray_probability=0.0, blur_probability=0.0)
    images = plain([200, 100, 50])
    is_changed = np.abs(views(recipe, images) - images / 255).max(axis=(1, 2, 3)) > 1e-5
    assert_share(is_changed, probability)


def test_blur_occurs_with_the_recipes_probability_and_independently_of_grayscale():
    checkerboard = np.indices((4, 4)).sum(axis=0)[..., np.newaxis] % 2 * np.uint8([200, 100, 50])
    images = np.broadcast_to(checkerboard, (4000, 4, 4, 3))
    # From one pixel on, blur leaves no pixel black; below 0.2 pixels it would be invisible.
    recipe = dataclasses.replace(RECIPES["v2"], jitter_probability=0.0, blur_sigma=(1.0, 2.0))
    result = views(recipe, images)
    is_blurred = result[..., 0].min(axis=(1, 2)) > 0.05
    is_gray = np.ptp(result, axis=-1).max(axis=(1, 2)) < 1e-5
    assert_share(is_blurred, 0.5)
    assert_share(is_blurred & is_gray, 0.5 * 0.2)


def test_v1_never_blurs():
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 3), np.uint8)
    recipe = dataclasses.replace(RECIPES["v1"], jitter_probability=0.0, gray_probability=0.0)
    np.testing.assert_allclose(views(recipe, images), images / 255, atol=1e-5)


def test_sigma_is_uniform_between_its_bounds():
    image = np.zeros((1, 13, 13, 3), np.uint8)
    image[0, 6, 6] = 255
    recipe = dataclasses.replace(
        RECIPES["v2"], **{**OFF, "blur_probability": 1.0}, jitter_probability=0.0
    )
    result = views(recipe, np.broadcast_to(image, (2000, 13, 13, 3)))[..., 0]
    # Next to the middle the kernel is lower by the factor exp(-1 / (2 sigma^2)), which float32
    # cannot resolve for sigma below 0.4.
    ratio = result[:, 6, 7] / result[:, 6, 6]
    is_visible = ratio > np.exp(-0.5 / 0.4**2)
    sigma = np.sqrt(-0.5 / np.log(ratio[is_visible]))
    assert_share(is_visible, 1.6 / 1.9)
    assert scipy.stats.kstest(sigma, scipy.stats.uniform(0.4, 1.6).cdf).pvalue > 0.01


def test_factors_are_uniform_around_one_and_independent():
    # Two colors that no factors push out of range. Brightness alone scales the mean of their gray
    # levels; contrast also scales the difference; saturation also scales the spread of a color.
    images = np.broadcast_to(np.uint8([[100, 105, 110], [120, 115, 110]]), (2000, 1, 2, 3))
    amounts = {"brightness": 0.4, "contrast": 0.3, "saturation": 0.2}

    def measure(x):
        gray = x @ LUMA
        return np.stack(
            [gray.mean(axis=(1, 2)), gray[:, 0, 1] - gray[:, 0, 0], np.ptp(x[:, 0, 0], axis=-1)]
        )

    scaled = measure(views(Recipe(**{**OFF, **amounts}), images)) / measure(images / 255)
    factors = [scaled[0], scaled[1] / scaled[0], scaled[2] / scaled[1]]
    for factor, amount in zip(factors, amounts.values(), strict=True):
        expected = scipy.stats.uniform(1 - amount, 2 * amount)
        assert scipy.stats.kstest(factor, expected.cdf).pvalue > 0.01
    correlation = scipy.stats.spearmanr(factors, axis=1).statistic
    # Four standard deviations of the correlation of independent numbers.
    assert np.abs(correlation - np.eye(3)).max() < 4 / 2000**0.5


@pytest.mark.parametrize(("name", "amount"), [("v1", 0.4), ("v2", 0.1)])
def test_hue_shifts_are_uniform_around_zero(name, amount):
    recipe = dataclasses.replace(
        RECIPES[name], **{**OFF, "hue": RECIPES[name].hue}, jitter_probability=1.0
    )
    pixels = views(recipe, plain([200, 100, 50], 2000))[:, 0, 0]
    before = colorsys.rgb_to_hsv(200, 100, 50)[0]
    shift = np.array([colorsys.rgb_to_hsv(*pixel)[0] - before for pixel in pixels])
    shift = (shift + 0.5) % 1.0 - 0.5
    expected = scipy.stats.uniform(-amount, 2 * amount)
    assert scipy.stats.kstest(shift, expected.cdf).pvalue > 0.01


def test_each_of_two_operations_comes_first_equally_often():
    # Contrast blends an image of one color with its gray: the original gray if contrast comes
    # first, the gray of the shifted color otherwise. The result therefore shows the order.
    color = np.array([150, 110, 60]) / 255
    pixels = views(Recipe(**{**OFF, "contrast": 0.4, "hue": 0.4}), plain(255 * color))[:, 0, 0]
    contrast = np.ptp(pixels, axis=-1) / np.ptp(color)
    gray = (pixels.min(axis=-1) - contrast * color.min()) / (1 - contrast)
    hues = [colorsys.rgb_to_hsv(*pixel)[0] for pixel in pixels]
    _, saturation, value = colorsys.rgb_to_hsv(*color)
    shifted_gray = np.array([colorsys.hsv_to_rgb(hue, saturation, value) for hue in hues]) @ LUMA
    original_gray = color @ LUMA
    # Leave out images for which float32 cannot decide.
    is_clear = (np.abs(1 - contrast) > 0.02) & (np.abs(shifted_gray - original_gray) > 0.01)
    contrast_first = np.abs(gray - original_gray) < 1e-3
    hue_first = np.abs(gray - shifted_gray) < 1e-3
    assert is_clear.mean() > 0.7
    assert (contrast_first ^ hue_first)[is_clear].all()
    assert_share(contrast_first[is_clear], 0.5)


# The whole layer.


# These two recipes have all operations, in both orders.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["v1", "v2"])
def test_compiled_and_eager_views_are_equal(name):
    images = np.stack(crops(64, 8))
    compiled = views(RECIPES[name], images, compiled=True)
    eager = views(RECIPES[name], images)
    np.testing.assert_allclose(compiled, eager, atol=2e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_views_depend_on_row_and_seed_alone(name):
    # Always jitter: two images that v2 leaves unchanged would rightly be equal.
    recipe = dataclasses.replace(RECIPES[name], jitter_probability=1.0)
    images = np.broadcast_to(patch()[:8, :8], (16, 8, 8, 3))
    first = views(recipe, images, seed=1)
    np.testing.assert_array_equal(first, views(recipe, images, seed=1))
    for a, b in itertools.combinations(first, 2):
        assert np.abs(a - b).max() > 1e-3
    other = views(recipe, images, seed=2)
    assert (np.abs(first - other).max(axis=(1, 2, 3)) > 1e-3).all()


@pytest.mark.slow
def test_view_of_a_row_does_not_depend_on_the_other_rows():
    images = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), np.uint8)
    augment = Augment(RECIPES["v2"])
    together = augment(tf.constant(images), tf.range(12), 12, [0, 5]).numpy()
    chosen = [7, 0, 11]
    apart = augment(tf.constant(images[chosen]), tf.constant(chosen), 12, [0, 5]).numpy()
    np.testing.assert_allclose(apart, together[chosen], atol=1e-5)


def test_unchanged_images_are_normalized_by_imagenets_statistics():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3), np.uint8)
    expected = (images / 255.0 - MEAN) / STD
    augment = Augment(Recipe(**OFF))
    result = augment(tf.constant(images), tf.range(3), 3, [0, 0])
    assert result.dtype == tf.float32
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.slow
def test_views_are_the_same_in_a_step_compiled_by_xla():
    step = tf.Variable(3, dtype=tf.int64)  # A variable, so that nothing is constant-folded.
    images = tf.constant(np.stack([patch()] * 8))
    augment = Augment(RECIPES["v2"])

    def view():
        return augment(images, tf.range(8), 8, tf.stack([tf.constant(2, tf.int64), step]))

    expected = tf.function(view)().numpy()
    result = tf.function(view, jit_compile=True)().numpy()
    np.testing.assert_allclose(result, expected, atol=1e-4)
