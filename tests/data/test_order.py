"""The random order of an epoch, compared with the cipher in Python's integers."""

import collections
import itertools
import math
import time
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from moco_tf.data.order import MAX_SIZE, ROUNDS, in_epoch
from moco_tf.seeds import key_for


def reference(position, size, seed, epoch):
    """Encrypt a number by Black and Rogaway's generalized Feistel cipher with cycle walking."""
    rows = next(side for side in itertools.count(math.isqrt(size)) if side * side >= size)
    columns = -(-size // rows)
    keys = np.random.Philox(key=key_for("order", seed, epoch)).random_raw(ROUNDS).tolist()

    def random_below(limit, number, key):
        number ^= key
        for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            number = (number ^ number >> 33) * multiplier % 2**64
        return (number >> 32) * limit >> 32

    while True:
        row, column = divmod(position, columns)
        for number, key in enumerate(keys):
            if number % 2 == 0:
                row = (row + random_below(rows, column, key)) % rows
            else:
                column = (column + random_below(columns, row, key)) % columns
        position = row * columns + column
        if position < size:
            return position


@pytest.mark.parametrize("size", [1, 2, 3, 10, 97, 4096, 10**9 + 7, 2**40, 2**61 + 5, MAX_SIZE])
def test_order_is_that_of_the_reference(size):
    positions = np.unique(np.random.default_rng(0).integers(0, size, 50))
    expected = [reference(position, size, 3, 7) for position in positions.tolist()]
    assert in_epoch(positions, size, 3, 7).tolist() == expected


@pytest.mark.parametrize("sizes", [range(1, 300), [9934, 65536, 99_991]])
def test_every_image_is_at_exactly_one_position(sizes):
    for size in sizes:
        np.testing.assert_array_equal(
            np.sort(in_epoch(np.arange(size), size, seed=5, epoch=2)), np.arange(size)
        )


def test_positions_can_have_any_shape():
    expected = in_epoch(np.arange(12), 12, 0, 0)
    np.testing.assert_array_equal(in_epoch(np.arange(12).reshape(3, 4), 12, 0, 0).ravel(), expected)
    assert in_epoch(np.array(5), 12, 0, 0) == expected[5]
    assert in_epoch(np.array([], np.int64), 12, 0, 0).shape == (0,)


def test_seeds_and_epochs_have_different_orders():
    orders = [in_epoch(np.arange(50), 50, seed, epoch) for seed in range(4) for epoch in range(5)]
    assert len({tuple(order) for order in orders}) == 20


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_all_orders_of_few_images_are_equally_likely(size):
    epochs = 40 * math.factorial(size)
    orders = [tuple(in_epoch(np.arange(size), size, 1, epoch)) for epoch in range(epochs)]
    counts = collections.Counter(orders)
    assert len(counts) == math.factorial(size)
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.fixture(scope="module")
def orders():
    """The orders of 1,500 epochs of 40 images."""
    return np.array([in_epoch(np.arange(40), 40, 2, epoch) for epoch in range(1500)])


def uniformity(counts):
    """Return the p-value of the hypothesis that all numbers of a table have the same mean.

    The sums of the rows and of the columns are fixed.
    """
    size = len(counts)
    statistic = ((counts - counts.mean()) ** 2).sum() / counts.mean()
    return stats.chi2.sf(statistic * (size - 1) / size, (size - 1) ** 2)


def test_every_image_is_equally_likely_at_every_position(orders):
    counts = np.array([np.bincount(column, minlength=40) for column in orders.T])
    assert uniformity(counts) > 1e-3


def test_every_image_is_equally_likely_to_follow_another(orders):
    counts = np.zeros([40, 40])
    np.add.at(counts, (orders[:, :-1].ravel(), orders[:, 1:].ravel()), 1)
    followers = counts[~np.eye(40, dtype=bool)]
    assert stats.chisquare(followers).pvalue > 1e-3
    assert (np.diag(counts) == 0).all()


def test_neighbors_in_the_source_share_batches_as_often_as_others(orders):
    batch_of_image = np.argsort(orders, axis=1) // 8
    together = (batch_of_image[:, :-1] == batch_of_image[:, 1:]).sum()
    pairs = batch_of_image[:, 1:].size
    # Seven of the 39 other images are in the same batch.
    assert stats.binomtest(int(together), pairs, 7 / 39).pvalue > 1e-3


def test_orders_of_successive_epochs_are_independent(orders):
    # The number of images at the same position in two random orders has the mean 1.
    same = (orders[:-1] == orders[1:]).sum()
    assert stats.poisson.cdf(same, len(orders) - 1) == pytest.approx(0.5, abs=0.499)


def test_batch_of_a_billion_images_needs_neither_time_nor_memory():
    positions = np.arange(10**9 - 256, 10**9)
    in_epoch(positions, 10**9, 0, 0)
    tracemalloc.start()
    start = time.perf_counter()
    in_epoch(positions, 10**9, 0, 1)
    seconds = time.perf_counter() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    assert seconds < 0.1


@pytest.mark.parametrize(
    ("positions", "size", "message"),
    [
        ([0], 0, "size=0"),
        ([0], MAX_SIZE + 1, "size="),
        ([5], 5, "from 5 to 5"),
        ([-1], 5, "from -1"),
    ],
)
def test_numbers_out_of_range_are_refused(positions, size, message):
    with pytest.raises(ValueError, match=message):
        in_epoch(np.array(positions), size, 0, 0)
