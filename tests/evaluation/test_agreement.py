"""The agreement of two arrays of features, against scikit-learn's cosine similarities."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from moco_tf.evaluation.agreement import compare


def nearest(features):
    return (cosine_similarity(features) - 2 * np.eye(len(features))).argmax(axis=1)


def test_agreement_of_features_that_differ():
    generator = np.random.default_rng(0)
    expected = generator.normal(size=[40, 8]).astype(np.float32)
    actual = 3 * expected + generator.normal(size=[40, 8]).astype(np.float32)
    labels = generator.integers(0, 3, 40)
    agreement = compare(expected, actual, labels)
    cosines = cosine_similarity(expected, actual).diagonal()
    assert agreement.mean_cosine == pytest.approx(cosines.mean(), abs=1e-6)
    assert agreement.least_cosine == pytest.approx(cosines.min(), abs=1e-6)
    before, after = nearest(expected), nearest(actual)
    assert 0 < agreement.same_neighbors < 1
    assert agreement.same_neighbors == (before == after).mean()
    assert agreement.num_images == 40
    assert agreement.accuracies == tuple(
        (labels[rows] == labels).mean() for rows in (before, after)
    )


def test_the_length_of_features_does_not_matter():
    features = np.random.default_rng(0).normal(size=[10, 4]).astype(np.float32)
    agreement = compare(features, 2 * features, None)
    assert agreement.least_cosine == pytest.approx(1)
    assert agreement.same_neighbors == 1
    assert agreement.accuracies is None
    assert "class" not in str(agreement)
