"""Measures of features without labels, against their formulas in float64 and closed forms."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.metrics.pairwise import cosine_similarity

from moco_tf.errors import UserError
from moco_tf.evaluation import quality
from tests.evaluation.helpers import as_features

COUNT, DIM = 60, 12


@pytest.fixture(params=[(COUNT, DIM), (DIM, COUNT)])
def features(request):
    """Return positive features, as those of a network that ends with ReLU, of different lengths."""
    values = np.random.default_rng(0).exponential(size=request.param)
    return (values * np.arange(1, len(values) + 1)[:, np.newaxis]).astype(np.float32)


def unit(features):
    features = np.float64(features)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def measure(features):
    return quality.measure(as_features(features, np.zeros(len(features), int), 1))


def test_effective_rank_is_the_entropy_of_the_singular_values(features):
    centered = unit(features) - unit(features).mean(axis=0)
    shares = np.linalg.svd(centered, compute_uv=False)
    shares = shares[shares > 1e-9] / shares.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert measure(features)["effective_rank"] == pytest.approx(expected, rel=1e-4)


def test_uniformity_is_that_of_wang_and_isola(features):
    # Figure 5 of the paper: torch.pdist(x, p=2).pow(2).mul(-2).exp().mean().log()
    expected = np.log(np.exp(-2 * pdist(unit(features)) ** 2).mean())
    assert measure(features)["uniformity"] == pytest.approx(expected, rel=1e-5)


def test_deviation_is_that_of_simsiam(features):
    expected = unit(features).std(axis=0).mean() * np.sqrt(features.shape[1])
    assert measure(features)["feature_std"] == pytest.approx(expected, rel=1e-5)


def test_low_cosine_is_exceeded_by_95_percent_of_the_pairs(features):
    cosines = 1 - pdist(features, "cosine")
    assert measure(features)["low_cosine"] == pytest.approx(np.percentile(cosines, 5), abs=1e-5)


def test_values_of_features_that_are_spread_evenly():
    features = np.random.default_rng(0).normal(size=(2000, 256)).astype(np.float32)
    values = measure(features)
    assert values["feature_std"] == pytest.approx(1, abs=0.01)
    assert values["uniformity"] == pytest.approx(-4, abs=0.05)
    assert 230 < values["effective_rank"] <= 256
    assert values["dead_dimensions"] == 0
    assert not quality.has_collapsed(values["low_cosine"], values["effective_rank"])


@pytest.mark.parametrize("value", [0.3, 0.0])
def test_equal_features_have_collapsed(value):
    values = measure(np.full((50, 8), value, np.float32))
    assert values["feature_std"] == pytest.approx(0, abs=1e-6)
    assert values["uniformity"] == pytest.approx(0, abs=1e-5)
    assert values["effective_rank"] == pytest.approx(1)
    assert values["dead_dimensions"] == 1
    assert quality.has_collapsed(values["low_cosine"], values["effective_rank"])


def test_features_along_a_line_have_collapsed():
    position = np.linspace(-1, 1, 50)[:, np.newaxis]
    values = measure(np.hstack([position, 1 - position, np.zeros([50, 6])]).astype(np.float32))
    assert values["effective_rank"] < 2
    assert values["dead_dimensions"] == 6 / 8
    assert quality.has_collapsed(values["low_cosine"], values["effective_rank"])


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="hold NaN or infinity"):
        measure(np.array([[1.0, np.nan], [0.0, 1.0]], np.float32))


def test_pairwise_cosines_have_each_pair_once(monkeypatch):
    monkeypatch.setattr(quality, "BLOCK", 7)
    features = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    expected = cosine_similarity(features)[np.triu_indices(30, k=1)]
    np.testing.assert_allclose(
        np.sort(quality.pairwise_cosines(features)), np.sort(expected), atol=1e-5
    )


def test_effective_rank_is_the_number_of_directions():
    # Vectors that vary equally along `count` axes, and are constant along the last one.
    for count in (1, 3, 6):
        axes = 0.1 * np.eye(count, 8)
        features = np.concatenate([axes, -axes]) + np.eye(1, 8, 7)
        assert quality.effective_rank(features) == pytest.approx(count)
        assert quality.effective_rank(50 * features) == pytest.approx(count)
    assert quality.effective_rank(np.ones([5, 8])) == pytest.approx(1)
