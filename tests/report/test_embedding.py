"""Maps, neighbors and measures of features, compared with scikit-learn and closed forms."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import cosine_similarity
from threadpoolctl import threadpool_limits

from moco_tf.report import embedding


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
    positions = embedding.map_to_plane(features)
    assigned = KMeans(4, n_init=10, random_state=0).fit_predict(positions)
    assert adjusted_rand_score(labels, assigned) == 1.0
    assert positions.shape == (count, 2)
    assert np.ptp(positions, axis=0).max() == pytest.approx(1)
    assert positions.min() >= 0
    assert positions.max() <= 1
    np.testing.assert_array_equal(embedding.map_to_plane(features), positions)


@pytest.mark.parametrize("shape", [(1, 5), (2, 5), (3, 1), (150, 5)])
def test_map_of_few_features_and_of_equal_features_is_finite(shape):
    for features in (np.ones(shape), np.random.default_rng(0).normal(size=shape)):
        positions = embedding.map_to_plane(features.astype(np.float32))
        assert positions.shape == (shape[0], 2)
        assert np.isfinite(positions).all()
        assert positions.min() >= 0
        assert positions.max() <= 1


def test_neighbors_are_the_nearest_other_images():
    bank, _ = clusters(60)
    for indices in (np.arange(20), np.arange(100, 120)):  # In the bank, and not.
        features = bank[:20]
        rows, cosines = embedding.neighbors(bank, np.arange(60), features, indices, 5)
        expected = cosine_similarity(features, bank)
        expected[indices[:, np.newaxis] == np.arange(60)] = -2
        order = np.argsort(-expected, axis=1)[:, :5]
        np.testing.assert_array_equal(rows, order)
        np.testing.assert_allclose(cosines, np.take_along_axis(expected, order, 1), atol=1e-5)


def test_number_of_neighbors_is_clipped_to_the_other_images():
    bank, _ = clusters(4)
    rows, cosines = embedding.neighbors(bank, np.arange(4), bank, np.arange(4), 8)
    assert rows.shape == cosines.shape == (4, 3)
    assert [sorted({*row, i}) for i, row in enumerate(rows.tolist())] == [[0, 1, 2, 3]] * 4
