"""Intervals of accuracies against Wilson's formula, of other means against SciPy's bootstrap."""

import numpy as np
import pytest
import scipy.stats

from moco_tf.evaluation import bootstrap
from moco_tf.evaluation.bootstrap import interval, mean_interval, share_interval


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_interval_of_an_accuracy_is_close_to_the_normal_approximation(share):
    count = 2000
    hits = np.arange(count) < share * count
    half_width = 1.96 * np.sqrt(share * (1 - share) / count)
    expected = share - half_width, share + half_width
    np.testing.assert_allclose(mean_interval(hits), expected, atol=0.1 * half_width)


def test_interval_is_close_to_that_of_scipy():
    values = np.random.default_rng(0).exponential(size=50)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    np.testing.assert_allclose(mean_interval(values), expected, atol=0.04)


def test_interval_depends_on_the_seed_and_not_on_the_blocks(monkeypatch):
    values = np.random.default_rng(0).normal(size=30)
    expected = mean_interval(values)
    assert mean_interval(values, seed=1) != expected
    monkeypatch.setattr(bootstrap, "BLOCK", 100)
    assert mean_interval(values) == expected


@pytest.mark.parametrize("count", [0, 1, 13, 19, 20])
def test_interval_of_hits_is_that_of_wilson(count):
    share, z = count / 20, scipy.stats.norm.ppf(0.975)
    center = (share + z**2 / 40) / (1 + z**2 / 20)
    half_width = z * np.sqrt(share * (1 - share) / 20 + z**2 / 1600) / (1 + z**2 / 20)
    expected = center - half_width, center + half_width
    hits = np.arange(20) < count
    assert mean_interval(hits) == pytest.approx(expected, abs=1e-12)
    assert mean_interval(hits.astype(float)) == share_interval(count, 20) == mean_interval(hits)


def test_interval_of_many_hits_is_close_to_the_bootstrap():
    hits = np.arange(2000) < 1500
    expected = interval(lambda drawn: hits[drawn].mean(), [np.arange(2000)])
    assert mean_interval(hits) == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("share", [0.8, 0.95, 0.99])
def test_interval_of_few_images_contains_the_share_as_often_as_it_says(share):
    counts = np.arange(21)
    ends = np.array([share_interval(count, 20) for count in counts])
    contained = (ends[:, 0] <= share) & (share <= ends[:, 1])
    coverage = scipy.stats.binom.pmf(counts, 20, share)[contained].sum()
    # The bootstrap's is 0.92, 0.64 and 0.18.
    assert coverage > 0.92


def test_equal_values_have_an_interval_without_width():
    assert mean_interval(np.full(7, 0.5)) == (0.5, 0.5)


def test_no_values_are_an_error():
    with pytest.raises(ValueError, match="give one or more"):
        mean_interval(np.zeros(0))
