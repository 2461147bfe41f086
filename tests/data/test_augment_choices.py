"""What the augmentation draws: how often each operation comes, how strong, and for which image."""

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

# ImageNet's, as the reference implementation has them.
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
LUMA = np.array([0.299, 0.587, 0.114])
# Of one jitter operation at a time the others are off.
OFF = dict(
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    grey_probability=0.0,
    blur_probability=0.0,
)


def views(recipe, images, seed=0, compiled=False):
    """What a recipe makes of images, with the normalisation undone: `[N, H, W, 3]` in 0 to 1.

    One operation after the other, unless `compiled`: XLA takes a second or two for each recipe.
    """
    count = len(images)
    tf.config.run_functions_eagerly(not compiled)
    try:
        found = Augment(recipe)(tf.constant(images), tf.range(count), count, [0, seed])
    finally:
        tf.config.run_functions_eagerly(False)
    return found.numpy() * STD + MEAN


def plain(colour, count=4000):
    """Many 4x4 images of one colour."""
    return np.broadcast_to(np.uint8(colour), (count, 4, 4, 3))


def assert_share(applied, probability):
    # Four standard deviations: a wrong probability lies far outside, a right one inside.
    slack = 4 * (probability * (1 - probability) / len(applied)) ** 0.5
    assert abs(applied.mean() - probability) <= slack


def test_v1_converts_to_grey_before_the_jitter_and_v2_after_it():
    # Brightness and contrast aside, jitter leaves grey as it is but changes what colours turn to.
    only = dict(brightness=0.0, contrast=0.0, grey_probability=1.0, blur_probability=0.0)
    colour = [200, 100, 50]
    found = {
        name: views(
            dataclasses.replace(RECIPES[name], **only, jitter_probability=1.0), plain(colour, 50)
        )
        for name in RECIPES
    }
    luma = LUMA @ np.array(colour) / 255.0
    np.testing.assert_allclose(found["v1"], luma, atol=1e-5)
    np.testing.assert_allclose(found["v2"], found["v2"][..., :1].repeat(3, -1), atol=1e-5)
    assert (np.abs(found["v2"][:, 0, 0, 0] - luma) > 1e-3).mean() > 0.9


def test_recipes_are_the_papers():
    v1, v2 = RECIPES["v1"], RECIPES["v2"]
    for recipe in (v1, v2):
        assert recipe.crop_scale == (0.2, 1.0)
        assert (recipe.brightness, recipe.contrast, recipe.saturation) == (0.4, 0.4, 0.4)
        assert recipe.grey_probability == 0.2
    assert (v1.hue, v1.jitter_probability, v1.grey_first, v1.blur_probability) == (0.4, 1, True, 0)
    assert (v2.hue, v2.jitter_probability, v2.grey_first, v2.blur_probability) == (
        *(0.1, 0.8, False, 0.5),
    )
    assert v2.blur_sigma == (0.1, 2.0)


@pytest.mark.parametrize("name", RECIPES)
def test_grey_comes_as_often_as_the_recipe_says(name):
    recipe = dataclasses.replace(RECIPES[name], jitter_probability=0.0, blur_probability=0.0)
    found = views(recipe, plain([200, 100, 50]))
    is_grey = np.ptp(found, axis=-1).max(axis=(1, 2)) < 1e-5
    assert_share(is_grey, 0.2)
    np.testing.assert_allclose(found[~is_grey], plain([200, 100, 50])[~is_grey] / 255, atol=1e-5)


@pytest.mark.parametrize("name, probability", [("v1", 1.0), ("v2", 0.8)])
def test_jitter_comes_as_often_as_the_recipe_says(name, probability):
    recipe = dataclasses.replace(RECIPES[name], grey_probability=0.0, blur_probability=0.0)
    found = views(recipe, plain([200, 100, 50]))
    changed = np.abs(found - plain([200, 100, 50]) / 255).max(axis=(1, 2, 3)) > 1e-5
    assert_share(changed, probability)


def test_blur_comes_as_often_as_the_recipe_says_and_whether_grey_or_not():
    checkerboard = np.indices((4, 4)).sum(axis=0)[..., np.newaxis] % 2 * np.uint8([200, 100, 50])
    images = np.broadcast_to(checkerboard, (4000, 4, 4, 3))
    # From one pixel on, blur leaves none of the black; below 0.2 pixels nothing would be seen.
    recipe = dataclasses.replace(RECIPES["v2"], jitter_probability=0.0, blur_sigma=(1.0, 2.0))
    found = views(recipe, images)
    blurred = found[..., 0].min(axis=(1, 2)) > 0.05
    is_grey = np.ptp(found, axis=-1).max(axis=(1, 2)) < 1e-5
    assert_share(blurred, 0.5)
    assert_share(blurred & is_grey, 0.5 * 0.2)


def test_v1_never_blurs():
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 3), np.uint8)
    recipe = dataclasses.replace(RECIPES["v1"], jitter_probability=0.0, grey_probability=0.0)
    np.testing.assert_allclose(views(recipe, images), images / 255, atol=1e-5)


def test_sigma_is_uniform_between_its_bounds():
    image = np.zeros((1, 13, 13, 3), np.uint8)
    image[0, 6, 6] = 255
    recipe = dataclasses.replace(
        RECIPES["v2"], **{**OFF, "blur_probability": 1.0}, jitter_probability=0.0
    )
    found = views(recipe, np.broadcast_to(image, (2000, 13, 13, 3)))[..., 0]
    # Next to the middle the kernel is lower by exp(-1 / (2 sigma^2)); below 0.4 float32 ends it.
    ratio = found[:, 6, 7] / found[:, 6, 6]
    visible = ratio > np.exp(-0.5 / 0.4**2)
    sigma = np.sqrt(-0.5 / np.log(ratio[visible]))
    assert_share(visible, 1.6 / 1.9)
    assert scipy.stats.kstest(sigma, scipy.stats.uniform(0.4, 1.6).cdf).pvalue > 0.01


def test_factors_are_uniform_around_one_and_independent():
    # Two colours that no factors drive out of range. Of their grey, brightness alone scales the
    # mean and contrast besides it the difference; of a colour, saturation as well the spread.
    images = np.broadcast_to(np.uint8([[100, 105, 110], [120, 115, 110]]), (2000, 1, 2, 3))
    amounts = {"brightness": 0.4, "contrast": 0.3, "saturation": 0.2}

    def measure(x):
        grey = x @ LUMA
        return np.stack(
            [grey.mean(axis=(1, 2)), grey[:, 0, 1] - grey[:, 0, 0], np.ptp(x[:, 0, 0], axis=-1)]
        )

    scaled = measure(views(Recipe(**{**OFF, **amounts}), images)) / measure(images / 255)
    factors = [scaled[0], scaled[1] / scaled[0], scaled[2] / scaled[1]]
    for factor, amount in zip(factors, amounts.values(), strict=True):
        expected = scipy.stats.uniform(1 - amount, 2 * amount)
        assert scipy.stats.kstest(factor, expected.cdf).pvalue > 0.01
    correlation = scipy.stats.spearmanr(factors, axis=1).statistic
    # Four standard deviations of the correlation of independent numbers.
    assert np.abs(correlation - np.eye(3)).max() < 4 / 2000**0.5


@pytest.mark.parametrize("name, amount", [("v1", 0.4), ("v2", 0.1)])
def test_shifts_of_hue_are_uniform_around_zero(name, amount):
    recipe = dataclasses.replace(
        RECIPES[name], **{**OFF, "hue": RECIPES[name].hue}, jitter_probability=1.0
    )
    found = views(recipe, plain([200, 100, 50], 2000))[:, 0, 0]
    before = colorsys.rgb_to_hsv(200, 100, 50)[0]
    shift = np.array([colorsys.rgb_to_hsv(*pixel)[0] - before for pixel in found])
    shift = (shift + 0.5) % 1.0 - 0.5
    expected = scipy.stats.uniform(-amount, 2 * amount)
    assert scipy.stats.kstest(shift, expected.cdf).pvalue > 0.01


def test_either_of_two_operations_comes_first_equally_often():
    # In a plain colour contrast moves towards the grey that it finds: the original's if it comes
    # first, the turned colour's otherwise. So the grey it moved towards tells the order.
    colour = np.array([150, 110, 60]) / 255
    found = views(Recipe(**{**OFF, "contrast": 0.4, "hue": 0.4}), plain(255 * colour))[:, 0, 0]
    contrast = np.ptp(found, axis=-1) / np.ptp(colour)
    towards = (found.min(axis=-1) - contrast * colour.min()) / (1 - contrast)
    hues = [colorsys.rgb_to_hsv(*pixel)[0] for pixel in found]
    _, saturation, value = colorsys.rgb_to_hsv(*colour)
    turned_grey = np.array([colorsys.hsv_to_rgb(hue, saturation, value) for hue in hues]) @ LUMA
    original_grey = colour @ LUMA
    # Leave out what float32 cannot decide.
    clear = (np.abs(1 - contrast) > 0.02) & (np.abs(turned_grey - original_grey) > 0.01)
    contrast_first = np.abs(towards - original_grey) < 1e-3
    hue_first = np.abs(towards - turned_grey) < 1e-3
    assert clear.mean() > 0.7
    assert (contrast_first ^ hue_first)[clear].all()
    assert_share(contrast_first[clear], 0.5)


# The whole layer.


@pytest.mark.parametrize("name", RECIPES)
def test_compiled_by_xla_it_is_what_its_operations_are_one_by_one(name):
    images = np.stack(crops(64, 8))
    compiled, one_by_one = (views(RECIPES[name], images, compiled=c) for c in (True, False))
    np.testing.assert_allclose(compiled, one_by_one, atol=2e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_views_differ_by_row_and_by_seed_and_nothing_else(name):
    # Jitter always: two images that v2 passes over would rightly be alike.
    recipe = dataclasses.replace(RECIPES[name], jitter_probability=1.0)
    images = np.broadcast_to(patch()[:8, :8], (16, 8, 8, 3))
    first = views(recipe, images, seed=1)
    np.testing.assert_array_equal(first, views(recipe, images, seed=1))
    for a, b in itertools.combinations(first, 2):
        assert np.abs(a - b).max() > 1e-3
    other = views(recipe, images, seed=2)
    assert (np.abs(first - other).max(axis=(1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize("name", RECIPES)
def test_a_rows_view_does_not_depend_on_its_company(name):
    images = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), np.uint8)
    augment = Augment(RECIPES[name])
    together = augment(tf.constant(images), tf.range(12), 12, [0, 5]).numpy()
    chosen = [7, 0, 11]
    apart = augment(tf.constant(images[chosen]), tf.constant(chosen), 12, [0, 5]).numpy()
    np.testing.assert_allclose(apart, together[chosen], atol=1e-5)


def test_what_no_operation_touches_is_normalised_as_imagenet_is():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3), np.uint8)
    expected = (images / 255.0 - MEAN) / STD
    augment = Augment(Recipe(**OFF))
    found = augment(tf.constant(images), tf.range(3), 3, [0, 0])
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_compiled_by_xla_as_a_part_of_the_step_the_views_are_the_same():
    step = tf.Variable(3, dtype=tf.int64)  # a variable, so that nothing is computed beforehand
    images = tf.constant(np.stack([patch()] * 8))
    augment = Augment(RECIPES["v2"])

    def view():
        return augment(images, tf.range(8), 8, tf.stack([tf.constant(2, tf.int64), step]))

    expected = tf.function(view)().numpy()
    found = tf.function(view, jit_compile=True)().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
