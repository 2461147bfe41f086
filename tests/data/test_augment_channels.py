"""Augmentation of images that are not RGB, and of RGB images without the RGB operations."""

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from moco_tf.data.augment import Augment
from moco_tf.data.normalization import mean_and_std
from moco_tf.data.photometric import jitter_brightness_and_contrast
from moco_tf.data.pixels import default
from moco_tf.data.recipes import RECIPES, Recipe
from moco_tf.errors import UserError
from tests.images import patch

LUMA = np.array([0.299, 0.587, 0.114])
BRIGHTNESS, CONTRAST = range(2)
CHANNELS = [1, 2, 3, 5]


def images_of(channels, count=1, seed=0):
    """Return crops of a photograph if RGB, noise otherwise, uint8 `[count, 12, 14, C]`."""
    if channels == 3:
        corners = np.random.default_rng(seed).integers(0, 20, (count, 2))
        return np.stack([patch()[y : y + 12, x : x + 14] for y, x in corners])
    return np.random.default_rng(seed).integers(0, 256, (count, 12, 14, channels), np.uint8)


def jitter_step_by_step(x, brightness, contrast, order):
    """Jitter one image `[H, W, C]` in [0, 1], one operation after the other, in float64."""
    for operation in order:
        if operation == BRIGHTNESS:
            x = np.clip(brightness * x, 0, 1)
        else:
            mean = (x @ LUMA).mean() if x.shape[-1] == 3 else x.mean()
            x = np.clip(contrast * x + (1 - contrast) * mean, 0, 1)
    return x


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["v2"], r"recipe='v2': pass a recipe, such as moco_tf.RECIPES\[\"v2\"\]"),
        ([Recipe(hue=180.0)], "recipe.hue=180.0: must be between 0 and 0.5"),
        ([Recipe(blur_sigma=2.0)], "recipe.blur_sigma=2.0: must be two numbers"),
        ([RECIPES["v2"], 0], "channels=0: must be 1 or greater"),
        ([RECIPES["v2"], 3, default(1)], "for each of the 3 channels, or None"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Augment(*arguments)


@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (2, 3, 8, 8), (8, 8, 3)])
def test_images_of_another_shape_are_refused(shape):
    augment = Augment(RECIPES["v2"])
    with pytest.raises(UserError, match=r"the views have the shape .* takes \[n, H, W, 3\]"):
        augment(tf.zeros(shape, tf.uint8), tf.range(shape[0]), shape[0], [0, 0])


@pytest.mark.parametrize("channels", CHANNELS)
def test_brightness_and_contrast_match_the_reference_in_either_order(channels):
    [image] = images_of(channels) / 255.0
    orders = [(BRIGHTNESS, CONTRAST), (CONTRAST, BRIGHTNESS)]
    for factors in [(1.4, 0.6), (0.6, 1.4), (1.4, 1.4), (0.0, 1.0), (1.0, 0.0)]:
        images = jitter_brightness_and_contrast(
            tf.constant(np.stack([np.moveaxis(image, -1, 0)] * 2)),
            *(tf.constant([[[[factor]]]] * 2, tf.float64) for factor in factors),
            tf.reshape(tf.constant(orders), [2, 2, 1, 1]),
        )
        for result, order in zip(images.numpy(), orders, strict=True):
            expected = jitter_step_by_step(image, *factors, order)
            np.testing.assert_allclose(np.moveaxis(result, 0, -1), expected, atol=1e-12)


def reference_view(recipe, image, draws):
    """Return the view, in [0, 1], that random numbers make of an image in [0, 255]."""
    jitter, brightness, contrast, _, _, _, blur, sigma, *order = draws.astype(float)
    x = image / 255.0
    if jitter < recipe.jitter_probability:
        # The order of brightness and contrast among the four operations.
        order = [operation for operation in np.argsort(order) if operation in (0, 1)]
        factors = [1 + 0.4 * (2 * draw - 1) for draw in (brightness, contrast)]
        x = jitter_step_by_step(x, *factors, order)
    if blur < recipe.blur_probability:
        low, high = recipe.blur_sigma
        sigmas = [low + sigma * (high - low)] * 2 + [0]
        x = scipy.ndimage.gaussian_filter(x, sigmas, mode="nearest", radius=[6, 6, 0])
    return x


@pytest.mark.slow
@pytest.mark.parametrize("channels", CHANNELS)
def test_leaving_out_rgb_operations_keeps_the_draws_of_the_others(channels):
    recipe, count = RECIPES["v2"].without_rgb_operations(), 40
    augment, images = Augment(recipe, channels), images_of(channels, count)
    draws = augment.draws(count, [0, 5]).numpy()
    np.testing.assert_array_equal(draws, Augment(RECIPES["v2"]).draws(count, [0, 5]))
    views = augment(tf.constant(images), tf.range(count), count, [0, 5]).numpy()
    assert views.dtype == np.float32
    assert views.shape == images.shape
    mean, std = mean_and_std(channels)
    expected = [reference_view(recipe, *pair) for pair in zip(images, draws, strict=True)]
    np.testing.assert_allclose(views * std + mean, expected, atol=1e-5)
    # Both orders occur.
    contrast_first = draws[:, 9] < draws[:, 8]
    assert 5 < contrast_first.sum() < 35


def test_rgb_images_keep_their_color_without_rgb_operations():
    count = 200
    images = np.broadcast_to(np.uint8([100, 80, 60]), (count, 4, 4, 3))
    recipe = Recipe(contrast=0.0, gray_probability=1.0).without_rgb_operations()
    mean, std = mean_and_std(3)
    views = Augment(recipe)(tf.constant(images), tf.range(count), count, [0, 0]) * std + mean
    # Only brightness is left, which scales all channels alike.
    brightness = views.numpy()[..., :1] * 255 / 100
    np.testing.assert_allclose(views, brightness * [100, 80, 60] / 255, atol=1e-5)
    assert np.ptp(brightness) > 0.5


@pytest.mark.parametrize("name", RECIPES)
def test_description_leaves_out_operations_that_are_not_in_the_recipe(name):
    whole, without = RECIPES[name], RECIPES[name].without_rgb_operations()
    assert whole.rgb_operations == ["saturation", "hue", "gray"]
    assert without.rgb_operations == []
    for draws in Augment(whole).draws(200, [1, 2]).numpy():
        operations = Augment(without, channels=5).describe(draws)
        all_operations = Augment(whole).describe(draws)
        names = ("brightness", "contrast", "blur")
        assert operations == [name for name in all_operations if name.startswith(names)]


def test_channels_other_than_rgb_are_normalized_by_the_averages_of_imagenet():
    for channels in (1, 2, 4, 5):
        mean, std = mean_and_std(channels)
        np.testing.assert_allclose(mean, [(0.485 + 0.456 + 0.406) / 3] * channels)
        np.testing.assert_allclose(std, [(0.229 + 0.224 + 0.225) / 3] * channels)
    assert mean_and_std(3) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("settings", "operations"),
    [
        ({}, "saturation, hue, gray"),
        ({"saturation": 0.0, "gray_probability": 0.0}, "hue"),
        ({"saturation": 0.0, "hue": 0.0}, "gray"),
    ],
)
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_rgb_operations_are_refused_by_name_for_other_channels(settings, operations, channels):
    with pytest.raises(UserError) as error:
        Augment(Recipe(**settings), channels)
    message = str(error.value)
    assert f"({operations})" in message
    assert f"{channels} channels" in message
    assert "without_rgb_operations" in message
