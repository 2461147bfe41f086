"""Indices in blocks behave like the NumPy array of the same indices."""

import numpy as np
import pytest

from moco_tf.data.sources.indices import Blocks
from moco_tf.data.sources.source import evenly_spaced, sample

STARTS, COUNTS = [2, 10, 20], [3, 0, 5]
ALL = np.array([2, 3, 4, 20, 21, 22, 23, 24])


def odd(block):
    start, count = STARTS[block], COUNTS[block]
    return np.arange(start, start + count) % 2 == 1


@pytest.fixture(params=["all", "odd", "none"])
def blocks_and_array(request):
    if request.param == "all":
        return Blocks(STARTS, COUNTS), ALL
    if request.param == "odd":
        return Blocks(STARTS, COUNTS, odd), ALL[ALL % 2 == 1]
    return Blocks(STARTS, COUNTS, lambda block: np.zeros(COUNTS[block], bool)), ALL[:0]


def test_blocks_are_like_the_array(blocks_and_array):
    blocks, array = blocks_and_array
    assert len(blocks) == len(array)
    assert blocks.tolist() == array.tolist()
    for part in (slice(None), slice(1, 4), slice(-2, None), slice(None, None, 2), slice(9, 2)):
        np.testing.assert_array_equal(blocks[part], array[part])
    np.testing.assert_array_equal(np.asarray(blocks), array)
    assert np.asarray(blocks).dtype == np.int64
    for position in range(-len(array), len(array)):
        assert blocks[position] == array[position]
        assert type(blocks[position]) is int
    positions = np.arange(len(array))[::-1]
    np.testing.assert_array_equal(blocks[positions], array[positions])
    np.testing.assert_array_equal(blocks[array > 4], array[array > 4])
    for choose in (evenly_spaced, sample):
        np.testing.assert_array_equal(choose(blocks, 3), choose(array, 3))
    with pytest.raises(IndexError):
        blocks[len(array)]


def test_labels_can_be_indexed_by_blocks():
    labels = np.arange(30) ** 2
    np.testing.assert_array_equal(labels[Blocks(STARTS, COUNTS)], labels[ALL])


def test_a_billion_indices_are_not_stored():
    blocks = Blocks(np.arange(1000) * 10**6, np.full(1000, 10**6))
    assert len(blocks) == 10**9
    assert blocks[np.array([0, 123_456_789])].tolist() == [0, 123_456_789]


@pytest.mark.parametrize("order", ["sorted", "in turns"])
def test_sample_has_every_class_by_its_share(order):
    """50,000 images of ten classes in turns: evenly spaced ones are of two of the classes."""
    labels = np.arange(50_000) % 10 if order == "in turns" else np.arange(50_000) // 5_000
    chosen = sample(np.arange(50_000), 10_000)
    counts = np.bincount(labels[chosen], minlength=10)
    # Four standard deviations of a binomial distribution with n = 10,000 and p = 0.1.
    assert np.abs(counts - 1_000).max() <= 120
    # One of each group of five images.
    np.testing.assert_array_equal(chosen // 5, np.arange(10_000))
    # Every position in a group is chosen about equally often.
    assert np.abs(np.bincount(chosen % 5) - 2_000).max() <= 160


@pytest.mark.parametrize("size", [7, 8, 1_003])
def test_sample_of_other_sizes(size):
    chosen = sample(np.arange(size), 8)
    bounds = np.arange(9) * size // 8 if size > 8 else np.arange(size + 1)
    assert len(chosen) == min(size, 8)
    assert (chosen >= bounds[:-1]).all()
    assert (chosen < bounds[1:]).all()
