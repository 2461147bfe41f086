"""The augmentation of images that are not RGB, and of RGB without the operations that are RGB's."""

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from moco_tf.data.augment import Augment, jitter_light
from moco_tf.data.normalization import mean_and_std
from moco_tf.data.recipes import RECIPES, Recipe
from moco_tf.errors import UserError
from tests.images import patch

LUMA = np.array([0.299, 0.587, 0.114])
BRIGHTNESS, CONTRAST = range(2)
CHANNELS = [1, 2, 3, 5]


def images_of(channels, count=1, seed=0):
    """Pieces of a photograph in RGB, and of other channels noise: uint8 `[count, 12, 14, C]`."""
    if channels == 3:
        corners = np.random.default_rng(seed).integers(0, 20, (count, 2))
        return np.stack([patch()[y : y + 12, x : x + 14] for y, x in corners])
    return np.random.default_rng(seed).integers(0, 256, (count, 12, 14, channels), np.uint8)


def one_by_one(x, brightness, contrast, order):
    """Jitter of one image `[H, W, C]` in 0 to 1, one operation after the other, in float64."""
    for operation in order:
        if operation == BRIGHTNESS:
            x = np.clip(brightness * x, 0, 1)
        else:
            mean = (x @ LUMA).mean() if x.shape[-1] == 3 else x.mean()
            x = np.clip(contrast * x + (1 - contrast) * mean, 0, 1)
    return x


@pytest.mark.parametrize("channels", CHANNELS)
def test_brightness_and_contrast_are_as_written_out_in_either_order(channels):
    [image] = images_of(channels) / 255.0
    orders = [(BRIGHTNESS, CONTRAST), (CONTRAST, BRIGHTNESS)]
    for factors in [(1.4, 0.6), (0.6, 1.4), (1.4, 1.4), (0.0, 1.0), (1.0, 0.0)]:
        found = jitter_light(
            tf.constant(np.stack([np.moveaxis(image, -1, 0)] * 2)),
            *(tf.constant([[[[factor]]]] * 2, tf.float64) for factor in factors),
            tf.reshape(tf.constant(orders), [2, 2, 1, 1]),
        )
        for one, order in zip(found.numpy(), orders, strict=True):
            expected = one_by_one(image, *factors, order)
            np.testing.assert_allclose(np.moveaxis(one, 0, -1), expected, atol=1e-12)


def references_view(recipe, image, draws):
    """The view of an image of 0 to 255 that an augmentation's random numbers make, 0 to 1."""
    jitter, brightness, contrast, _, _, _, blur, sigma, *order = draws.astype(float)
    x = image / 255.0
    if jitter < recipe.jitter_probability:
        # The order of the two among the four.
        order = [operation for operation in np.argsort(order) if operation in (0, 1)]
        factors = [1 + 0.4 * (2 * draw - 1) for draw in (brightness, contrast)]
        x = one_by_one(x, *factors, order)
    if blur < recipe.blur_probability:
        low, high = recipe.blur_sigma
        sigmas = [low + sigma * (high - low)] * 2 + [0]
        x = scipy.ndimage.gaussian_filter(x, sigmas, mode="nearest", radius=[6, 6, 0])
    return x


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_view_is_the_one_that_the_same_draws_make_with_the_other_operations_left_out(channels):
    recipe, count = RECIPES["v2"].without_rgb_operations(), 40
    augment, images = Augment(recipe, channels), images_of(channels, count)
    draws = augment.draws(count, [0, 5]).numpy()
    np.testing.assert_array_equal(draws, Augment(RECIPES["v2"]).draws(count, [0, 5]))
    views = augment(tf.constant(images), tf.range(count), count, [0, 5]).numpy()
    assert views.dtype == np.float32 and views.shape == images.shape
    mean, std = mean_and_std(channels)
    expected = [references_view(recipe, *pair) for pair in zip(images, draws, strict=True)]
    np.testing.assert_allclose(views * std + mean, expected, atol=1e-5)
    # So that the test tells orders apart.
    contrast_first = draws[:, 9] < draws[:, 8]
    assert 5 < contrast_first.sum() < 35


def test_in_rgb_too_nothing_turns_grey_or_changes_its_colour():
    count = 200
    images = np.broadcast_to(np.uint8([100, 80, 60]), (count, 4, 4, 3))
    recipe = Recipe(contrast=0.0, grey_probability=1.0).without_rgb_operations()
    mean, std = mean_and_std(3)
    found = Augment(recipe)(tf.constant(images), tf.range(count), count, [0, 0]) * std + mean
    # Brightness is left, which scales all channels alike.
    brightness = found.numpy()[..., :1] * 255 / 100
    np.testing.assert_allclose(found, brightness * [100, 80, 60] / 255, atol=1e-5)
    assert np.ptp(brightness) > 0.5


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_said_of_a_view_leaves_out_what_the_recipe_leaves_out(name):
    whole, without = RECIPES[name], RECIPES[name].without_rgb_operations()
    assert whole.rgb_operations == ["saturation", "hue", "grey"]
    assert without.rgb_operations == []
    for draws in Augment(whole).draws(200, [1, 2]).numpy():
        words = Augment(without, channels=5).describe(draws)
        expected = Augment(whole).describe(draws)
        kinds = ("brightness", "contrast", "blur")
        assert words == [word for word in expected if word.startswith(kinds)]


def test_other_channels_than_rgb_are_normalised_by_the_means_of_imagenets():
    for channels in (1, 2, 4, 5):
        mean, std = mean_and_std(channels)
        np.testing.assert_allclose(mean, [(0.485 + 0.456 + 0.406) / 3] * channels)
        np.testing.assert_allclose(std, [(0.229 + 0.224 + 0.225) / 3] * channels)
    assert mean_and_std(3) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    "left, words",
    [
        ({}, "operations of RGB (saturation, hue, grey)"),
        ({"saturation": 0.0, "grey_probability": 0.0}, "operations of RGB (hue)"),
        ({"saturation": 0.0, "hue": 0.0}, "operations of RGB (grey)"),
    ],
)
def test_operations_of_rgb_are_refused_by_name_where_images_are_not(left, words):
    for channels in (1, 2, 5):
        with pytest.raises(UserError) as error:
            Augment(Recipe(**left), channels)
        assert words in str(error.value) and f"{channels} channels" in str(error.value)
        assert "without_rgb_operations" in str(error.value)
