"""The photometric operations against torchvision's: of float tensors exactly, of images in 8 bits
by a measurement of how far the reference implementation's views are from ours."""

import dataclasses
import itertools

import numpy as np
import pytest
import skimage.data
import sklearn.datasets
import tensorflow as tf
from PIL import Image, ImageFilter

from moco_tf.data import augment
from moco_tf.data.augment import Augment, gaussian_blur, jitter_colours, shift_hue, to_grey
from moco_tf.data.recipes import RECIPES
from tests.images import patch
from tests.pytorch import torch, torchvision

functional = torchvision.transforms.functional

# torchvision's weights of grey where images are tensors. Elsewhere they are Pillow's, and ours.
TORCHVISIONS_GREY = (0.2989, 0.587, 0.114)
ORDERS = list(itertools.permutations(range(4)))


def each(values):
    return tf.reshape(tf.constant(values, tf.float64), [-1, 1, 1, 1])


def pixels():
    """A piece of a photograph and all the corners of the cube of colours: `[1, 3, 34, 48]`."""
    corners = list(itertools.product([0.0, 1.0], repeat=3)) * 6
    mixed = list(itertools.product([0.0, 0.5, 1.0, 0.25], repeat=3))[:48]
    x = np.concatenate([patch() / 255.0, [corners], [mixed]])
    return np.moveaxis(x, -1, 0)[np.newaxis]


def jitter(x, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, orders=(ORDERS[0],)):
    """`jitter_colours` of one image, once for each order."""
    count = len(orders)
    return jitter_colours(
        tf.repeat(tf.constant(x), count, 0),
        *(each([value] * count) for value in (brightness, contrast, saturation, hue)),
        tf.reshape(tf.constant(orders), [-1, 4, 1, 1]),
    ).numpy()


# Operations on float tensors.


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.6, 0.85, 1.0, 1.15, 1.4, 2.0])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_with_its_weights_of_grey_the_blends_are_torchvisions(monkeypatch, name, factor):
    monkeypatch.setattr(augment, "GREY", TORCHVISIONS_GREY)
    found = jitter(pixels(), **{name: factor})
    expected = getattr(functional, f"adjust_{name}")(torch.tensor(pixels()), factor)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.4, 2.0])
@pytest.mark.parametrize("name", ["contrast", "saturation"])
def test_with_pillows_weights_the_blends_differ_by_a_ten_thousandth_of_red(name, factor):
    found = jitter(pixels(), **{name: factor})
    expected = getattr(functional, f"adjust_{name}")(torch.tensor(pixels()), factor).numpy()
    difference = np.abs(found - expected).max()
    assert 0 < difference <= 1.0001e-4 * abs(1 - factor)


def test_grey_is_torchvisions_and_a_ten_thousandth_of_red():
    # Its weights sum up to 0.9999, so that its grey of white is not white; Pillow's is.
    expected = functional.rgb_to_grayscale(torch.tensor(pixels())).numpy() + 1e-4 * pixels()[:, :1]
    np.testing.assert_allclose(to_grey(tf.constant(pixels())), expected, atol=1e-12)


def test_hue_is_torchvisions_over_the_whole_wheel():
    shifts = np.linspace(-0.5, 0.5, 41)
    found = shift_hue(tf.repeat(tf.constant(pixels()), len(shifts), 0), each(shifts)).numpy()
    for shift, image in zip(shifts, found, strict=True):
        [expected] = functional.adjust_hue(torch.tensor(pixels()), shift).numpy()
        # torchvision turns hue in float32, whatever it is given.
        np.testing.assert_allclose(image, expected, atol=2e-6)


@pytest.mark.parametrize("sigma", [0.1, 0.35, 0.5, 1.0, 1.37, 2.0])
def test_blur_is_torchvisions_where_the_kernel_stays_inside(sigma):
    radius = 6  # of MoCo v2's
    found = gaussian_blur(tf.constant(pixels()), each([sigma]), radius).numpy()
    expected = functional.gaussian_blur(torch.tensor(pixels()), [2 * radius + 1] * 2, [sigma] * 2)
    inside = (..., slice(radius, -radius), slice(radius, -radius))
    np.testing.assert_allclose(found[inside], expected.numpy()[inside], atol=1e-12)


@pytest.mark.parametrize("sigma", [0.5, 1.37, 2.0])
@pytest.mark.parametrize("height, width", [(20, 23), (4, 5)])
def test_blur_is_torchvisions_of_an_image_that_goes_on_as_its_outermost_pixels(
    height, width, sigma
):
    # By itself torchvision goes on with the mirror image.
    radius = 6
    x = np.random.default_rng(0).uniform(size=(1, 3, height, width))
    found = gaussian_blur(tf.constant(x), each([sigma]), radius)
    wider = np.pad(x, [(0, 0), (0, 0), (radius, radius), (radius, radius)], mode="edge")
    expected = functional.gaussian_blur(torch.tensor(wider), [2 * radius + 1] * 2, [sigma] * 2)
    np.testing.assert_allclose(
        found, expected[..., radius:-radius, radius:-radius].numpy(), atol=1e-12
    )


# More brightness, since what is never cut off at white comes out the same in several orders.
@pytest.mark.parametrize("settings", [(1.375, 1.25, 0.625, -0.375), (1.375, 0.625, 1.375, 0.3125)])
def test_jitter_in_each_of_the_24_orders_is_torchvisions(monkeypatch, settings):
    monkeypatch.setattr(augment, "GREY", TORCHVISIONS_GREY)
    names = ("brightness", "contrast", "saturation", "hue")
    # Ranges of a single value, so that nothing but the order is left to chance.
    reference = torchvision.transforms.ColorJitter(
        **{n: (v, v) for n, v in zip(names, settings, strict=True)}
    )
    found = dict(zip(ORDERS, jitter(pixels(), *settings, orders=ORDERS), strict=True))
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
        np.testing.assert_allclose(found[order], expected[order], atol=5e-6)
    for a, b in itertools.combinations(expected.values(), 2):  # so that the test tells them apart
        assert np.abs(a - b).max() > 1e-4


# Images in 8 bits, as the reference implementation has them.

DRAWS = 240
OFF = dict(jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0)
V1, V2 = RECIPES["v1"], RECIPES["v2"]


@pytest.fixture(scope="module")
def photographs():
    """Random crops of six photographs, 224x224, as torchvision cuts them: images of Pillow's."""
    originals = [
        skimage.data.astronaut(),
        skimage.data.chelsea(),
        skimage.data.coffee(),
        skimage.data.rocket(),
        *sklearn.datasets.load_sample_images().images,
    ]
    torch.manual_seed(0)
    crop = torchvision.transforms.RandomResizedCrop(224, scale=(0.2, 1.0))
    return [crop(Image.fromarray(originals[i % len(originals)])) for i in range(DRAWS)]


def references_view(recipe, image, draws):
    """The photometric half of main_moco.py's augmentation, with its random numbers handed in."""
    jitter, brightness, contrast, saturation, hue, grey, blur, sigma, *order = draws.tolist()
    operations = [
        (functional.adjust_brightness, 1 + recipe.brightness * (2 * brightness - 1)),
        (functional.adjust_contrast, 1 + recipe.contrast * (2 * contrast - 1)),
        (functional.adjust_saturation, 1 + recipe.saturation * (2 * saturation - 1)),
        (functional.adjust_hue, recipe.hue * (2 * hue - 1)),
    ]
    is_grey = grey < recipe.grey_probability
    if recipe.grey_first and is_grey:
        image = functional.rgb_to_grayscale(image, 3)
    if jitter < recipe.jitter_probability:
        for i in np.argsort(order):
            operation, amount = operations[i]
            image = operation(image, amount)
    if not recipe.grey_first and is_grey:
        image = functional.rgb_to_grayscale(image, 3)
    if blur < recipe.blur_probability:
        low, high = recipe.blur_sigma
        image = image.filter(ImageFilter.GaussianBlur(radius=low + sigma * (high - low)))
    return np.asarray(image).astype(float)


# Measured, in grey levels from 0 to 255: the mean, the 99th percentile and the maximum of the
# absolute difference over all pixels of all views, and by how much ours are lighter on average.
# Pillow cuts the fraction off after every blend, so that three of them make an image darker by 1.4;
# it keeps hue and saturation in 8 bits too; and it blurs with three box filters in turn, each of
# which goes on beyond the edge from what the one before has left there.
@pytest.mark.parametrize(
    "recipe, mean, percentile, maximum, lighter",
    [
        (dataclasses.replace(V1, **{**OFF, "jitter_probability": 1.0}), 1.44, 6.28, 17.5, 1.25),
        (dataclasses.replace(V2, **{**OFF, "jitter_probability": 1.0}), 1.47, 6.22, 18.8, 1.43),
        (dataclasses.replace(V2, **{**OFF, "grey_probability": 1.0}), 0.22, 0.49, 0.50, 0.00),
        (dataclasses.replace(V2, **{**OFF, "blur_probability": 1.0}), 0.39, 1.99, 27.5, 0.00),
        (V1, 1.35, 6.09, 17.5, 1.17),
        (V2, 1.20, 5.94, 30.6, 1.10),
    ],
    ids=["jitter of v1", "jitter of v2", "grey", "blur", "all of v1", "all of v2"],
)
def test_the_references_views_in_8_bits_differ_by_no_more_than_was_measured(
    photographs, recipe, mean, percentile, maximum, lighter
):
    draws = np.random.default_rng(0).uniform(size=(DRAWS, Augment.DRAWS)).astype(np.float32)
    augmentation = Augment(recipe)
    differences = []
    for start in range(0, DRAWS, 40):
        part = slice(start, start + 40)
        # Below the layer's own draws, so that both get the same numbers.
        found = augmentation._augment(
            tf.constant(np.stack([np.asarray(image) for image in photographs[part]])),
            tf.constant(draws[part]),
        ).numpy()
        expected = np.stack(
            [
                references_view(recipe, *pair)
                for pair in zip(photographs[part], draws[part], strict=True)
            ]
        )
        found = 255.0 * (found * augment.STD + augment.MEAN)
        differences.append((found - expected).astype(np.float32))
    difference = np.concatenate(differences)
    assert abs(difference.mean(dtype=float) - lighter) <= 0.1
    difference = np.abs(difference)
    assert difference.mean(dtype=float) <= 1.3 * mean
    assert np.percentile(difference, 99) <= 1.3 * percentile
    assert difference.max() <= 1.3 * maximum
