"""Intervals of the agreement of partitions, against scikit-learn's measures and simulations."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from moco_tf.evaluation import partitions

MEASURES = {
    "nmi": (normalized_mutual_info_score, partitions.nmi_without_one),
    "ari": (adjusted_rand_score, partitions.ari_without_one),
}


def example(count, seed, agreement=0.6):
    """Return classes and clusters that agree in part."""
    generator = np.random.default_rng(seed)
    classes = generator.choice(4, count, p=[0.4, 0.3, 0.2, 0.1])
    others = generator.integers(0, 5, count)
    return classes, np.where(generator.random(count) < agreement, classes, others)


@pytest.mark.parametrize("name", MEASURES)
def test_measure_without_one_image_is_that_of_scikit_learn(name):
    measure, without_one = MEASURES[name]
    classes, clusters = example(60, seed=0)
    values = without_one(contingency_matrix(classes, clusters))
    for image in range(len(classes)):
        expected = measure(np.delete(classes, image), np.delete(clusters, image))
        assert values[classes[image], clusters[image]] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    "counts", [[[1]], [[7]], [[1, 0], [0, 1]], [[3, 0], [0, 4]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]]
)
def test_equal_partitions_have_an_interval_without_width(name, counts):
    counts = np.array(counts)
    values = MEASURES[name][1](counts)
    assert partitions.interval(1.0, values, counts) == (1.0, 1.0)


@pytest.mark.parametrize("name", MEASURES)
def test_interval_contains_the_value_of_many_images_as_often_as_it_says(name):
    measure, without_one = MEASURES[name]
    expected = measure(*example(1_000_000, seed=1))
    contained = 0
    for seed in range(400):
        classes, clusters = example(500, seed)
        counts = contingency_matrix(classes, clusters)
        low, high = partitions.interval(measure(classes, clusters), without_one(counts), counts)
        contained += low <= expected <= high
    # 95 %, within three standard deviations of a binomial distribution.
    assert 0.917 <= contained / 400 <= 0.983
