"""Indices in blocks behave like the NumPy array of the same indices."""

import numpy as np
import pytest

from moco_tf.data.sources.indices import Blocks
from moco_tf.data.sources.source import evenly_spaced

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
    np.testing.assert_array_equal(evenly_spaced(blocks, 3), evenly_spaced(array, 3))
    with pytest.raises(IndexError):
        blocks[len(array)]


def test_labels_can_be_indexed_by_blocks():
    labels = np.arange(30) ** 2
    np.testing.assert_array_equal(labels[Blocks(STARTS, COUNTS)], labels[ALL])


def test_a_billion_indices_are_not_stored():
    blocks = Blocks(np.arange(1000) * 10**6, np.full(1000, 10**6))
    assert len(blocks) == 10**9
    assert blocks[np.array([0, 123_456_789])].tolist() == [0, 123_456_789]
