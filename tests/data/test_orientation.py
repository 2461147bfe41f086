"""Flips, quarter turns and aspect ratios against NumPy, torchvision and their probabilities."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats

from moco_tf.data.recipes import RECIPES, Recipe
from moco_tf.data.views import (
    ATTEMPTS,
    DRAWS,
    ORIENTATION_DRAWS,
    crop_window,
    describe_orientation,
    random_view,
    resample,
    view_draws,
)
from tests.images import crops

# The whole image, so that a view shows its orientation alone.
WHOLE = Recipe(crop_scale=(1.0, 1.0), aspect_ratio=(1.0, 1.0), horizontal_flip=0.0)
COUNT = 4000


@pytest.fixture(scope="module")
def image():
    """A photograph of 24 x 24 pixels."""
    [image] = crops(1, 24)
    return image


def assert_share(applied, probability):
    # Four standard deviations: a wrong probability is far outside.
    slack = 4 * (probability * (1 - probability) / len(applied)) ** 0.5
    assert abs(np.mean(applied) - probability) <= slack


def all_draws(count=COUNT):
    """Return the random numbers of `count` views."""
    pairs = [view_draws(0, epoch, 5, changes_orientation=True) for epoch in range(count // 2)]
    return np.concatenate(pairs)


def orientations(image):
    """Return the eight flipped and turned versions of an image by NumPy, by their description."""
    versions = {}
    for flip in ("", "horizontal flip", "vertical flip", "both"):
        for quarters in range(4):
            x = image[:, ::-1] if flip in ("horizontal flip", "both") else image
            x = x[::-1] if flip in ("vertical flip", "both") else x
            flips = {"": [], "both": ["horizontal flip", "vertical flip"]}
            description = flips.get(flip, [flip]) + [f"turn {90 * quarters}°"] * (quarters > 0)
            versions[tuple(description)] = np.rot90(x, quarters)
    return versions


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_views_are_numpys_flips_and_turns_and_are_named(channels):
    image = np.random.default_rng(0).integers(0, 256, (12, 12, channels), np.uint8)
    recipe = dataclasses.replace(WHOLE, horizontal_flip=0.5, vertical_flip=0.5, quarter_turns=0.8)
    expected, found = orientations(image), set()
    for draws in all_draws(400):
        description = tuple(describe_orientation(recipe, draws))
        found.add(description)
        np.testing.assert_array_equal(random_view(image, 12, recipe, draws), expected[description])
    assert found == set(expected)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("horizontal_flip", lambda x: x[:, ::-1]),
        ("vertical_flip", lambda x: x[::-1]),
    ],
)
def test_flip_occurs_with_its_probability(image, name, operation, probability):
    recipe = dataclasses.replace(WHOLE, **{name: probability})
    applied = []
    for draws in all_draws():
        view = random_view(image, 24, recipe, draws)
        applied.append(np.array_equal(view, operation(image)))
        assert applied[-1] or np.array_equal(view, image)
    assert_share(applied, probability)


@pytest.mark.parametrize("probability", [0.4, 1.0])
def test_each_quarter_turn_occurs_equally_often(image, probability):
    recipe = dataclasses.replace(WHOLE, quarter_turns=probability)
    turned = [np.rot90(image, quarters) for quarters in range(4)]
    views = [random_view(image, 24, recipe, draws) for draws in all_draws()]
    is_turned = np.array([[np.array_equal(view, x) for x in turned] for view in views])
    assert (is_turned.sum(axis=1) == 1).all()
    for quarters in (1, 2, 3):
        assert_share(is_turned[:, quarters], probability / 4)


def test_orientation_is_independent_of_the_crop_and_of_the_other_view():
    pairs = np.array([view_draws(1, 0, index, changes_orientation=True) for index in range(2000)])
    assert pairs.shape[1:] == (2, DRAWS + ORIENTATION_DRAWS)
    assert scipy.stats.kstest(pairs[..., DRAWS:].ravel(), "uniform").pvalue > 0.01
    flat = pairs.reshape(2000, -1)
    correlation = np.corrcoef(flat, rowvar=False)
    added = [i for i in range(flat.shape[1]) if i % (DRAWS + ORIENTATION_DRAWS) >= DRAWS]
    off_diagonal = correlation[added] - np.eye(flat.shape[1])[added]
    # Five standard deviations, for the largest of 500 correlations.
    assert np.abs(off_diagonal).max() < 5 / math.sqrt(2000)


def test_orientation_depends_on_seed_epoch_and_index():
    place = (1, 2, 3)
    draws = view_draws(*place, changes_orientation=True)[:, DRAWS:]
    np.testing.assert_array_equal(draws, view_draws(*place, changes_orientation=True)[:, DRAWS:])
    for other in ((0, 2, 3), (1, 1, 3), (1, 2, 4)):
        assert (view_draws(*other, changes_orientation=True)[:, DRAWS:] != draws).all()


def test_any_orientation_has_all_eight_orientations(image):
    recipe = dataclasses.replace(
        RECIPES["any_orientation"], crop_scale=(1.0, 1.0), aspect_ratio=(1.0, 1.0)
    )
    counts = {}
    for draws in all_draws():
        view = random_view(image, 24, recipe, draws).tobytes()
        counts[view] = counts.get(view, 0) + 1
    assert set(counts) == {x.tobytes() for x in orientations(image).values()}
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 0.001


# Crops.


def test_log_aspect_ratio_is_uniform_in_its_range():
    side, aspect_ratio = 20000, (0.5, 3.0)
    draws = np.random.default_rng(0).uniform(size=(2000, 4 * ATTEMPTS))
    windows = [crop_window((side, side), (0.1, 0.3), row, aspect_ratio) for row in draws]
    _, _, height, width = np.array(windows, float).T
    expected = scipy.stats.uniform(math.log(0.5), math.log(6))
    assert scipy.stats.kstest(np.log(width / height), expected.cdf).pvalue > 0.01


@pytest.mark.torch
@pytest.mark.parametrize("aspect_ratio", [(0.5, 2.0), (1.0, 1.0), (1.5, 3.0)])
@pytest.mark.parametrize("shape", [(40, 400), (400, 40), (60, 60)])
def test_central_window_is_torchvisions_if_no_area_fits(shape, aspect_ratio):
    from tests.pytorch import torch, torchvision

    get_params = torchvision.transforms.RandomResizedCrop.get_params
    expected = get_params(torch.empty(3, *shape), (5.0, 6.0), aspect_ratio)
    assert crop_window(shape, (5.0, 6.0), np.full(4 * ATTEMPTS, 0.5), aspect_ratio) == expected


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3)])
@pytest.mark.parametrize("aspect_ratio", [(0.1, 0.1), (10.0, 10.0)])
def test_window_has_at_least_one_pixel(shape, aspect_ratio):
    for draws in all_draws(40):
        top, left, height, width = crop_window(
            shape, (0.2, 1.0), draws[: 4 * ATTEMPTS], aspect_ratio
        )
        assert 0 <= top < top + height <= shape[0]
        assert 0 <= left < left + width <= shape[1]


def test_view_is_the_window_of_the_recipes_aspect_ratio():
    [image] = crops(1, 120)
    recipe = Recipe(crop_scale=(0.1, 0.3), aspect_ratio=(2.0, 3.0), horizontal_flip=0.0)
    for draws in all_draws(20)[:, :DRAWS]:
        top, left, height, width = crop_window((120, 120), (0.1, 0.3), draws[:-1], (2.0, 3.0))
        assert 1.9 < width / height < 3.2
        expected = resample(image[top : top + height, left : left + width], 16)
        np.testing.assert_array_equal(random_view(image, 16, recipe, draws), expected)
