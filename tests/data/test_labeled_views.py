"""Labeled views: whole epochs in a random order, and crops that show which part was cropped.

Image i has the label i. Red tells the column that a pixel comes from, green the row.
"""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from moco_tf.data.evaluation_views import labeled_views
from moco_tf.data.views import central_view
from tests.memory import source_of

COUNT, SIDE, SIZE, BATCH = 23, 64, 32, 8
TRAIN = [i for i in range(COUNT) if i % 4]  # 17: two batches and one image


@pytest.fixture(scope="module")
def images():
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[..., 0] = 3 * np.arange(SIDE) + 30
    image[..., 1] = 3 * np.arange(SIDE)[:, np.newaxis] + 30
    image[..., 2] = 255
    return np.stack([image] * COUNT)


def batches(
    images, epochs=2, seed=0, scale=(0.08, 1.0), batch_size=BATCH, unreadable=(), context=None
):
    source = source_of(images, range(COUNT), TRAIN, unreadable=unreadable)
    data = labeled_views(source, source.train, SIZE, scale, batch_size, seed, epochs, context)
    return list(data.as_numpy_iterator())


@pytest.fixture(scope="module")
def whole(images):
    return tuple(np.array(column) for column in zip(*batches(images), strict=True))


def test_epoch_holds_every_image_once(whole):
    indices, labels, views = whole
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(indices, labels)  # Image i has the label i.
    assert labels.shape == (6, BATCH)
    assert labels.dtype == np.int32
    assert views.shape == (6, BATCH, SIZE, SIZE, 3)
    assert views.dtype == np.uint8
    orders = labels.reshape(2, -1)
    for order in orders:
        assert sorted(order[:17]) == TRAIN
        assert set(order[17:]) == {-1}
    assert (orders[0] != orders[1]).any()
    assert not views[labels < 0].any()
    assert (views[labels >= 0][..., 2] == 255).all()


def test_epoch_is_a_function_of_the_seed_and_its_number(whole, images):
    for batch, *expected in zip(batches(images, epochs=1), *whole, strict=False):
        np.testing.assert_array_equal(batch[0], expected[0])
        np.testing.assert_array_equal(batch[2], expected[2])
    _, labels, views = zip(*batches(images, seed=1), strict=True)
    assert (np.array(labels) != whole[1]).any()
    views_of_seed_0 = whole[2][whole[1] == 5]
    views_of_seed_1 = np.array(views)[np.array(labels) == 5]
    assert len(np.unique(np.concatenate([views_of_seed_0, views_of_seed_1]), axis=0)) == 4


def test_unreadable_image_is_a_blank_and_changes_no_other_view(whole, images):
    columns = zip(*batches(images, unreadable=[5, 6]), strict=True)
    indices, labels, views = (np.array(column) for column in columns)
    is_blank = np.isin(whole[0], [5, 6])
    assert is_blank.sum() == 4
    assert (labels[is_blank] == -1).all()
    assert not views[is_blank].any()
    np.testing.assert_array_equal(indices, whole[0])
    np.testing.assert_array_equal(labels[~is_blank], whole[1][~is_blank])
    np.testing.assert_array_equal(views[~is_blank], whole[2][~is_blank])


@pytest.mark.parametrize(("workers", "replicas"), [(2, 1), (1, 2), (2, 2)])
def test_workers_and_replicas_share_each_batch(whole, images, workers, replicas):
    contexts = [tf.distribute.InputContext(workers, i, workers * replicas) for i in range(workers)]
    parts = [batches(images, context=context) for context in contexts]
    for step, expected in enumerate(zip(*whole, strict=True)):
        shares = [
            batch for part in parts for batch in part[step * replicas : (step + 1) * replicas]
        ]
        for column in (0, 1, 2):
            columns = [batch[column] for batch in shares]
            assert {len(values) for values in columns} == {BATCH // (workers * replicas)}
            np.testing.assert_array_equal(np.concatenate(columns), expected[column])


def extent(views, channel, axis):
    """Return how many pixels of the image a view shows along an axis, from its middle slope."""
    profile = views[..., channel].mean(axis=3 - axis) / 3
    quarter = SIZE // 4
    return (profile[:, -quarter - 1] - profile[:, quarter]) / (SIZE - 2 * quarter - 1) * SIZE


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.3, 0.4)])
def test_crops_have_the_requested_scale_and_half_of_them_are_flipped(images, scale):
    run = batches(images, epochs=25, scale=scale, batch_size=17)
    views = np.concatenate([views for *_, views in run]).astype(float)
    width, height = extent(views, 0, 2), extent(views, 1, 1)
    shares = np.abs(width) * height / SIDE**2
    low, high = scale
    assert 0.9 * low < shares.min() < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < shares.max() < 1.05 * high
    assert 0.4 < (width < 0).mean() < 0.6
    if high < 9 / 16:  # Every shape fits, so the share is uniform; measurement errors are small.
        assert scipy.stats.kstest((shares - low) / (high - low), "uniform").pvalue > 0.001
    ratios = np.abs(width) / height
    assert 0.7 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 1.42


def test_views_of_whole_images_are_the_central_views_of_evaluations():
    """A crop of the whole area would be squeezed if the image is not square."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (COUNT, 40, 90, 3)).astype(np.uint8)
    run = batches(images, epochs=4, scale=(1.0, 1.0), batch_size=17)
    num_flipped = 0
    for indices, _, views in run:
        for index, view in zip(indices, views, strict=True):
            expected = central_view(tf.constant(images[index]), SIZE).numpy()
            is_flipped = np.array_equal(view, expected[:, ::-1])
            assert is_flipped or np.array_equal(view, expected)
            num_flipped += is_flipped
    assert 0.3 < num_flipped / (4 * len(TRAIN)) < 0.7
