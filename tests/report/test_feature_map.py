"""Maps of features, compared with the clusters of scikit-learn."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from moco_tf.report.feature_map import map_to_plane


def clusters(count, dim=16, classes=4, seed=0):
    """Return features of different lengths around one direction for each class, and labels."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    features = np.eye(classes, dim)[labels] + 0.05 * generator.normal(size=(count, dim))
    features *= generator.uniform(0.5, 20, (count, 1))
    return features.astype(np.float32), labels


@pytest.fixture(autouse=True)
def one_thread():
    """Limit the threads, because several tests run at the same time already."""
    with threadpool_limits(1):
        yield


@pytest.mark.parametrize("count", [40, 160])  # By principal components, and by t-SNE.
def test_map_separates_clusters_and_is_deterministic(count):
    features, labels = clusters(count)
    positions = map_to_plane(features)
    assigned = KMeans(4, n_init=10, random_state=0).fit_predict(positions)
    assert adjusted_rand_score(labels, assigned) == 1.0
    assert positions.shape == (count, 2)
    assert np.ptp(positions, axis=0).max() == pytest.approx(1)
    assert positions.min() >= 0
    assert positions.max() <= 1
    np.testing.assert_array_equal(map_to_plane(features), positions)


@pytest.mark.parametrize("shape", [(1, 5), (2, 5), (3, 1), (150, 5)])
def test_map_of_few_features_and_of_equal_features_is_finite(shape):
    for features in (np.ones(shape), np.random.default_rng(0).normal(size=shape)):
        positions = map_to_plane(features.astype(np.float32))
        assert positions.shape == (shape[0], 2)
        assert np.isfinite(positions).all()
        assert positions.min() >= 0
        assert positions.max() <= 1
