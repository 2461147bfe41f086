"""Photometric operations against torchvision's.

Float tensors are compared exactly. For 8-bit images, the distance between the views of the
reference implementation and ours was measured, and may not grow.
"""

import dataclasses
import itertools

import numpy as np
import pytest
import skimage.data
import sklearn.datasets
import tensorflow as tf
from PIL import Image, ImageFilter

from moco_tf.data import photometric
from moco_tf.data.augment import Augment
from moco_tf.data.photometric import gaussian_blur, jitter_colors, shift_hue, to_grayscale
from moco_tf.data.recipes import RECIPES
from tests.images import patch
from tests.pytorch import torch, torchvision

functional = torchvision.transforms.functional

# torchvision's grayscale weights for tensors. For images it has Pillow's weights, as we do.
TORCHVISION_LUMA = (0.2989, 0.587, 0.114)
ORDERS = list(itertools.permutations(range(4)))


def per_image(values):
    """Return one value for each image, float64 `[N, 1, 1, 1]`."""
    return tf.reshape(tf.constant(values, tf.float64), [-1, 1, 1, 1])


def pixels():
    """Return a crop of a photograph and all corners of the color cube, `[1, 3, 34, 48]`."""
    corners = list(itertools.product([0.0, 1.0], repeat=3)) * 6
    mixed = list(itertools.product([0.0, 0.5, 1.0, 0.25], repeat=3))[:48]
    x = np.concatenate([patch() / 255.0, [corners], [mixed]])
    return np.moveaxis(x, -1, 0)[np.newaxis]


def jitter(x, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, orders=(ORDERS[0],)):
    """Return one image after `jitter_colors` in each of the orders."""
    count = len(orders)
    return jitter_colors(
        tf.repeat(tf.constant(x), count, 0),
        *(per_image([value] * count) for value in (brightness, contrast, saturation, hue)),
        tf.reshape(tf.constant(orders), [-1, 4, 1, 1]),
    ).numpy()


# Float tensors.


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.6, 0.85, 1.0, 1.15, 1.4, 2.0])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_blends_equal_torchvisions_with_its_grayscale_weights(monkeypatch, name, factor):
    monkeypatch.setattr(photometric, "LUMA", TORCHVISION_LUMA)
    result = jitter(pixels(), **{name: factor})
    expected = getattr(functional, f"adjust_{name}")(torch.tensor(pixels()), factor)
    np.testing.assert_allclose(result, expected, atol=1e-12)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.4, 2.0])
@pytest.mark.parametrize("name", ["contrast", "saturation"])
def test_blends_with_pillows_weights_differ_by_a_ten_thousandth_of_red(name, factor):
    result = jitter(pixels(), **{name: factor})
    expected = getattr(functional, f"adjust_{name}")(torch.tensor(pixels()), factor).numpy()
    difference = np.abs(result - expected).max()
    assert 0 < difference <= 1.0001e-4 * abs(1 - factor)


def test_grayscale_is_torchvisions_plus_a_ten_thousandth_of_red():
    # torchvision's weights sum to 0.9999, so it does not convert white to white as Pillow does.
    expected = functional.rgb_to_grayscale(torch.tensor(pixels())).numpy() + 1e-4 * pixels()[:, :1]
    np.testing.assert_allclose(to_grayscale(tf.constant(pixels())), expected, atol=1e-12)


def test_hue_equals_torchvisions_over_the_whole_wheel():
    shifts = np.linspace(-0.5, 0.5, 41)
    x = tf.repeat(tf.constant(pixels()), len(shifts), 0)
    for shift, image in zip(shifts, shift_hue(x, per_image(shifts)).numpy(), strict=True):
        [expected] = functional.adjust_hue(torch.tensor(pixels()), shift).numpy()
        # torchvision shifts hue in float32, whatever its input is.
        np.testing.assert_allclose(image, expected, atol=2e-6)


@pytest.mark.parametrize("sigma", [0.1, 0.35, 0.5, 1.0, 1.37, 2.0])
def test_blur_equals_torchvisions_where_the_kernel_is_inside(sigma):
    radius = 6  # MoCo v2's
    result = gaussian_blur(tf.constant(pixels()), per_image([sigma]), radius).numpy()
    expected = functional.gaussian_blur(torch.tensor(pixels()), [2 * radius + 1] * 2, [sigma] * 2)
    inside = (..., slice(radius, -radius), slice(radius, -radius))
    np.testing.assert_allclose(result[inside], expected.numpy()[inside], atol=1e-12)


@pytest.mark.parametrize("sigma", [0.5, 1.37, 2.0])
@pytest.mark.parametrize(("height", "width"), [(20, 23), (4, 5)])
def test_blur_equals_torchvisions_of_an_edge_padded_image(height, width, sigma):
    # torchvision itself pads with the mirror image.
    radius = 6
    x = np.random.default_rng(0).uniform(size=(1, 3, height, width))
    result = gaussian_blur(tf.constant(x), per_image([sigma]), radius)
    padded = np.pad(x, [(0, 0), (0, 0), (radius, radius), (radius, radius)], mode="edge")
    expected = functional.gaussian_blur(torch.tensor(padded), [2 * radius + 1] * 2, [sigma] * 2)
    np.testing.assert_allclose(
        result, expected[..., radius:-radius, radius:-radius].numpy(), atol=1e-12
    )


# More brightness, because images that are not clipped at white are equal in several orders.
@pytest.mark.parametrize("settings", [(1.375, 1.25, 0.625, -0.375), (1.375, 0.625, 1.375, 0.3125)])
def test_jitter_in_each_of_the_24_orders_equals_torchvisions(monkeypatch, settings):
    monkeypatch.setattr(photometric, "LUMA", TORCHVISION_LUMA)
    names = ("brightness", "contrast", "saturation", "hue")
    # Ranges of a single value, so that only the order is random.
    reference = torchvision.transforms.ColorJitter(
        **{name: (value, value) for name, value in zip(names, settings, strict=True)}
    )
    results = dict(zip(ORDERS, jitter(pixels(), *settings, orders=ORDERS), strict=True))
    expected = {}
    for seed in itertools.count():
        torch.manual_seed(seed)
        order = tuple(torch.randperm(4).tolist())  # the first number that ColorJitter draws
        if order not in expected:
            torch.manual_seed(seed)
            expected[order] = reference(torch.tensor(pixels()))[0].numpy()
        if len(expected) == len(ORDERS):
            break
    for order in ORDERS:
        np.testing.assert_allclose(results[order], expected[order], atol=5e-6)
    for one, other in itertools.combinations(expected.values(), 2):  # The test can tell them apart.
        assert np.abs(one - other).max() > 1e-4


# 8-bit images, as in the reference implementation.

COUNT = 120
OFF = dict(jitter_probability=0.0, gray_probability=0.0, blur_probability=0.0)
V1, V2 = RECIPES["v1"], RECIPES["v2"]


@pytest.fixture(scope="module")
def photographs():
    """Random crops of six photographs by torchvision, Pillow images of 224x224."""
    originals = [
        skimage.data.astronaut(),
        skimage.data.chelsea(),
        skimage.data.coffee(),
        skimage.data.rocket(),
        *sklearn.datasets.load_sample_images().images,
    ]
    torch.manual_seed(0)
    crop = torchvision.transforms.RandomResizedCrop(224, scale=(0.2, 1.0))
    return [crop(Image.fromarray(originals[i % len(originals)])) for i in range(COUNT)]


def reference_view(recipe, image, draws):
    """Apply the photometric half of main_moco.py's augmentation with given random numbers."""
    jitter, brightness, contrast, saturation, hue, gray, blur, sigma, *order = draws.tolist()
    operations = [
        (functional.adjust_brightness, 1 + recipe.brightness * (2 * brightness - 1)),
        (functional.adjust_contrast, 1 + recipe.contrast * (2 * contrast - 1)),
        (functional.adjust_saturation, 1 + recipe.saturation * (2 * saturation - 1)),
        (functional.adjust_hue, recipe.hue * (2 * hue - 1)),
    ]
    is_gray = gray < recipe.gray_probability
    if recipe.gray_first and is_gray:
        image = functional.rgb_to_grayscale(image, 3)
    if jitter < recipe.jitter_probability:
        for i in np.argsort(order):
            operation, amount = operations[i]
            image = operation(image, amount)
    if not recipe.gray_first and is_gray:
        image = functional.rgb_to_grayscale(image, 3)
    if blur < recipe.blur_probability:
        low, high = recipe.blur_sigma
        image = image.filter(ImageFilter.GaussianBlur(radius=low + sigma * (high - low)))
    return np.asarray(image).astype(float)


# Measured, in gray levels from 0 to 255: the mean, the 99th percentile and the maximum of the
# absolute difference over all pixels of all views, and by how much ours are lighter on average.
# Pillow truncates after every blend, so three blends make an image darker by 1.4. It also keeps hue
# and saturation in 8 bits, and it blurs with three box filters in turn, each of which extends the
# edge that the one before has left.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "mean", "percentile", "maximum", "lighter"),
    [
        (dataclasses.replace(V1, **{**OFF, "jitter_probability": 1.0}), 1.44, 6.28, 17.5, 1.25),
        (dataclasses.replace(V2, **{**OFF, "jitter_probability": 1.0}), 1.47, 6.22, 18.8, 1.43),
        (dataclasses.replace(V2, **{**OFF, "gray_probability": 1.0}), 0.22, 0.49, 0.50, 0.00),
        (dataclasses.replace(V2, **{**OFF, "blur_probability": 1.0}), 0.39, 1.99, 27.5, 0.00),
        (V1, 1.35, 6.09, 17.5, 1.17),
        (V2, 1.20, 5.94, 30.6, 1.10),
    ],
    ids=["jitter of v1", "jitter of v2", "grayscale", "blur", "all of v1", "all of v2"],
)
def test_8_bit_views_of_the_reference_differ_by_no_more_than_was_measured(
    photographs, recipe, mean, percentile, maximum, lighter
):
    draws = np.random.default_rng(0).uniform(size=(COUNT, Augment.DRAWS)).astype(np.float32)
    augmentation = Augment(recipe)
    differences = []
    for start in range(0, COUNT, 40):
        part = slice(start, start + 40)
        # Below `__call__`, which would make random numbers of its own.
        views = augmentation._augment(
            tf.constant(np.stack([np.asarray(image) for image in photographs[part]])),
            tf.constant(draws[part]),
        ).numpy()
        expected = np.stack(
            [
                reference_view(recipe, *pair)
                for pair in zip(photographs[part], draws[part], strict=True)
            ]
        )
        views = 255.0 * (views * augmentation.std + augmentation.mean)
        differences.append((views - expected).astype(np.float32))
    difference = np.concatenate(differences)
    assert abs(difference.mean(dtype=float) - lighter) <= 0.1
    difference = np.abs(difference)
    assert difference.mean(dtype=float) <= 1.3 * mean
    assert np.percentile(difference, 99) <= 1.3 * percentile
    assert difference.max() <= 1.3 * maximum
