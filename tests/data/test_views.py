"""Crops against torchvision's algorithm written in Python, resizing against Pillow."""

import math

import numpy as np
import pytest
import scipy.stats
import skimage.data
import tensorflow as tf
from PIL import Image

from moco_tf.data.recipes import Recipe
from moco_tf.data.views import (
    ATTEMPTS,
    DRAWS,
    central_view,
    crop_window,
    random_view,
    resample,
    resize,
    view_draws,
)

SHAPES = [(480, 640), (640, 480), (333, 500), (224, 224), (32, 32), (7, 5), (1, 1)]
ELONGATED = [(100, 900), (900, 100), (40, 41 * 40), (3000, 12), (1, 50), (50, 1)]


def photo(height, width):
    image = Image.fromarray(skimage.data.astronaut()[:400, 60:460])
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def crop_windows(shape, crop_scale, draws):
    """Return the `crop_window` of each row of `draws`, int `[N, 4]`."""
    return np.array([crop_window(shape, crop_scale, row) for row in draws])


def get_params(shape, crop_scale, draws):
    """Compute torchvision's RandomResizedCrop.get_params from given random numbers."""
    height, width = shape
    ratio = (3 / 4, 4 / 3)
    area_draws, ratio_draws, top_draws, left_draws = draws.reshape(4, ATTEMPTS).tolist()
    area = height * width
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    for attempt in range(10):
        scale = crop_scale[0] + (crop_scale[1] - crop_scale[0]) * area_draws[attempt]
        target_area = area * scale
        log_aspect = log_ratio[0] + (log_ratio[1] - log_ratio[0]) * ratio_draws[attempt]
        aspect_ratio = math.exp(log_aspect)
        w = int(round(math.sqrt(target_area * aspect_ratio)))
        h = int(round(math.sqrt(target_area / aspect_ratio)))
        if 0 < w <= width and 0 < h <= height:
            i = int(top_draws[attempt] * (height - h + 1))
            j = int(left_draws[attempt] * (width - w + 1))
            return i, j, h, w
    in_ratio = width / height
    if in_ratio < min(ratio):
        w = width
        h = int(round(w / min(ratio)))
    elif in_ratio > max(ratio):
        h = height
        w = int(round(h * max(ratio)))
    else:
        w = width
        h = height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("shape", SHAPES + ELONGATED)
@pytest.mark.parametrize("crop_scale", [(0.2, 1.0), (0.08, 0.5)])
def test_windows_equal_torchvisions(shape, crop_scale):
    generator = np.random.default_rng(sum(shape))
    draws = generator.uniform(size=(300, 4 * ATTEMPTS))
    windows = crop_windows(shape, crop_scale, draws)
    expected = np.array([get_params(shape, crop_scale, row) for row in draws])
    np.testing.assert_array_equal(windows, expected)
    top, left, height, width = windows.T
    assert min(top.min(), left.min()) >= 0
    assert min(height.min(), width.min()) > 0
    assert (top + height).max() <= shape[0]
    assert (left + width).max() <= shape[1]


@pytest.mark.parametrize("shape", [(100, 900), (900, 100), (31, 33), (33, 31), (64, 64), (1, 50)])
def test_window_is_torchvisions_central_one_if_no_area_fits(shape):
    # An area share above 1 never fits.
    crop_scale = (5.0, 6.0)
    draws = np.full((1, 4 * ATTEMPTS), 0.5)
    [window] = crop_windows(shape, crop_scale, draws)
    assert tuple(window) == get_params(shape, crop_scale, draws[0])


def test_window_is_the_first_that_fits():
    draws = np.full((4, ATTEMPTS), 0.5)
    draws[0] = 0.99  # an area that fits into a square image with aspect ratio 1 only
    draws[1] = 0.0
    draws[0, 6:], draws[1, 6:] = 0.25, 0.5
    draws[2, 6], draws[3, 6] = 0.125, 0.75
    [window] = crop_windows((100, 100), (0.2, 1.0), draws.reshape(1, -1))
    side = round(math.sqrt(10000 * 0.4))
    assert window.tolist() == [int(0.125 * (101 - side)), int(0.75 * (101 - side)), side, side]


def test_area_and_log_aspect_ratio_are_uniform_and_independent():
    # Every window of up to three quarters of a square fits, so none is drawn again.
    side, crop_scale = 20000, (0.2, 0.75)
    draws = np.random.default_rng(0).uniform(size=(2000, 4 * ATTEMPTS))
    top, left, height, width = crop_windows((side, side), crop_scale, draws).astype(float).T
    area = height * width / side**2
    aspect = np.log(width / height)
    row, column = top / (side - height), left / (side - width)
    expected = {
        "area": (area, scipy.stats.uniform(0.2, 0.55)),
        "aspect": (aspect, scipy.stats.uniform(math.log(3 / 4), 2 * math.log(4 / 3))),
        "row": (row, scipy.stats.uniform(0, 1)),
        "column": (column, scipy.stats.uniform(0, 1)),
    }
    for name, (values, distribution) in expected.items():
        assert scipy.stats.kstest(values, distribution.cdf).pvalue > 0.01, name
    correlation = scipy.stats.spearmanr(np.stack([area, aspect, row, column], 1)).statistic
    # Four standard deviations of the correlation of independent numbers.
    assert np.abs(correlation - np.eye(4)).max() < 4 / math.sqrt(2000)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((200, 300), (37, 32)),  # shrunk
        ((37, 41), (100, 90)),  # enlarged
        ((64, 100), (96, 40)),  # both
        ((50, 60), (50, 60)),  # neither
        ((300, 3), (32, 32)),
    ],
)
def test_resizing_equals_pillows_bilinear(before, after):
    image = photo(*before)
    expected = Image.fromarray(image).resize(after[::-1], Image.Resampling.BILINEAR)
    resized = resize(tf.constant(image), *after)
    assert resized.dtype == tf.uint8
    # Pillow rounds twice, between its two passes and at the end.
    assert np.abs(resized.numpy().astype(int) - np.asarray(expected).astype(int)).max() <= 1


@pytest.mark.parametrize("size", [100, 110, 200])
def test_enlarging_equals_pillows_bilinear(size):
    image = photo(100, 90)
    expected = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    assert np.abs(resample(image, size).astype(int) - np.asarray(expected).astype(int)).max() <= 1


# Below and above four pixels per pixel, where blocks of pixels are averaged first.
@pytest.mark.parametrize(
    ("side", "size"), [(300, 224), (400, 224), (400, 128), (400, 90), (390, 32)]
)
def test_shrinking_is_close_to_pillows_bilinear(side, size):
    photograph = skimage.data.astronaut()
    for top, left, height in [(0, 0, side), (60, 100, side - side // 8), (100, 112, side)]:
        image = photograph[top : top + height, left : left + side]
        expected = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
        shrunk = resample(image, size)
        assert shrunk.dtype == np.uint8
        difference = np.abs(shrunk.astype(int) - np.asarray(expected).astype(int))
        # In gray levels. Without smoothing the means are 1.0, 1.9, 4.4, 6.3 and 14.
        assert difference.mean() < 1.2
        assert np.percentile(difference, 99) <= 7


@pytest.mark.parametrize("side", [10, 60, 200])
@pytest.mark.parametrize("channels", [1, 2, 4, 5, 13])
def test_channels_do_not_mix(channels, side):
    image = np.random.default_rng(0).integers(0, 256, (side, side + 20, channels), np.uint8)
    draws = np.random.default_rng(1).uniform(size=DRAWS)
    draws[-1] = 0.0
    view = random_view(image, 16, Recipe(), draws)
    assert view.shape == (16, 16, channels)
    for channel in range(channels):
        expected = random_view(image[..., channel : channel + 1], 16, Recipe(), draws)
        np.testing.assert_array_equal(view[..., channel], expected[..., 0])


def test_last_draw_decides_the_flip_alone():
    image = photo(60, 80)
    draws = np.random.default_rng(0).uniform(size=DRAWS)
    views = {}
    for last_draw in (0.0, 0.49, 0.5, 0.99):
        draws[-1] = last_draw
        views[last_draw] = random_view(image, 16, Recipe(), draws)
    np.testing.assert_array_equal(views[0.0], views[0.49])
    np.testing.assert_array_equal(views[0.5], views[0.99])
    np.testing.assert_array_equal(views[0.0], views[0.5][:, ::-1])
    assert (views[0.0] != views[0.5]).any()


def test_view_is_the_resampled_window():
    image = photo(90, 120)
    draws = np.random.default_rng(4).uniform(size=DRAWS)
    draws[-1] = 0.7
    top, left, height, width = get_params((90, 120), (0.2, 1.0), draws[:-1])
    expected = resample(image[top : top + height, left : left + width], 24)
    np.testing.assert_array_equal(random_view(image, 24, Recipe(), draws), expected)


def view_pairs(image, size, count, seed=0):
    """Return the two views of an image in each of `count` epochs."""
    return np.array(
        [
            [random_view(image, size, Recipe(), draws) for draws in view_draws(seed, epoch, 7)]
            for epoch in range(count)
        ]
    )


def test_two_views_are_flipped_independently_half_of_the_time():
    ramp = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8)[:, np.newaxis], (32, 32, 3))
    count = 2000
    pairs = view_pairs(ramp, 4, count).astype(int)
    flipped = pairs[:, :, 0, 0, 0] > pairs[:, :, 0, -1, 0]
    four_sigma = 4 * math.sqrt(0.25 / count)
    assert np.abs(flipped.mean(axis=0) - 0.5).max() < four_sigma
    assert abs((flipped[:, 0] == flipped[:, 1]).mean() - 0.5) < four_sigma


def test_views_are_all_different_and_repeat_with_the_seed():
    image = photo(60, 80)
    pairs = view_pairs(image, 8, 20)
    assert len(np.unique(pairs.reshape(40, -1), axis=0)) == 40
    np.testing.assert_array_equal(pairs, view_pairs(image, 8, 20))
    other = view_pairs(image, 8, 20, seed=1)
    assert (pairs != other).any(axis=(-1, -2, -3)).all()


def test_draws_of_images_epochs_and_seeds_are_uniform_and_independent():
    # Also those of neighboring images, epochs and seeds.
    draws = np.array(
        [
            [[view_draws(seed, epoch, index) for index in range(8)] for epoch in range(8)]
            for seed in range(8)
        ]
    )
    assert draws.min() >= 0
    assert draws.max() < 1
    assert scipy.stats.kstest(draws.ravel(), "uniform").pvalue > 0.01
    for axis in range(4):  # seed, epoch, index, view
        first, second = np.take(draws, 0, axis).ravel(), np.take(draws, 1, axis).ravel()
        assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(len(first))


def test_central_view_of_an_image_of_that_size_is_the_image():
    image = photo(32, 32)
    np.testing.assert_array_equal(central_view(tf.constant(image), 32), image)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((300, 300), 224),
        ((300, 400), 224),
        ((512, 384), 224),
        ((480, 100), 224),  # enlarged
        ((333, 500), 224),  # 160 columns too many
        ((300, 403), 224),  # 119 columns too many
        ((991, 1111), 224),  # the longer side is truncated from 286.999
        ((48, 64), 32),  # five rows too many
        ((40, 61), 32),
        ((32, 33), 32),
        ((20, 20), 32),
        ((2, 300), 32),
        ((300, 2), 32),
        ((1, 1000), 32),
        ((3000, 12), 32),
        ((50, 2000), 16),  # shrunk, with many columns too many
    ],
)
def test_central_view_equals_torchvisions_resize_and_center_crop(shape, size):
    image = photo(*shape)
    short = round(size * 256 / 224)
    # torchvision: Resize(short) truncates the longer side, CenterCrop(size) rounds its offsets.
    height, width = (int(short * side / min(shape)) for side in shape)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    top, left = int(round((height - size) / 2.0)), int(round((width - size) / 2.0))
    expected = np.asarray(resized)[top : top + size, left : left + size].astype(int)
    view = central_view(tf.constant(image), size).numpy().astype(int)
    assert np.abs(view - expected).max() <= 1


@pytest.mark.parametrize("shape", [(1, 3_000_000), (3_000_000, 1), (5, 1_000_000)])
def test_central_view_of_a_strip_is_that_of_its_center(shape):
    """The resized strip as a whole would have a hundred billion pixels."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    middle = [slice(max(0, side // 2 - 50), side // 2 + 50) for side in shape]
    expected = central_view(tf.constant(image[tuple(middle)]), 224).numpy().astype(int)
    view = central_view(tf.constant(image), 224).numpy().astype(int)
    assert np.abs(view - expected).max() <= 1
