"""The bootstrap interval of a mean against SciPy's, and against the normal approximation."""

import numpy as np
import pytest
import scipy.stats

from moco_tf.evaluation import bootstrap
from moco_tf.evaluation.bootstrap import mean_interval


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


def test_equal_values_have_an_interval_without_width():
    assert mean_interval(np.ones(7)) == (1.0, 1.0)


def test_no_values_are_an_error():
    with pytest.raises(ValueError, match="give one or more"):
        mean_interval(np.zeros(0))
