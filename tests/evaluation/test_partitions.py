"""Intervals of the adjusted Rand index, against scikit-learn's values and simulations."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix

from moco_tf.evaluation import partitions


def example(count, seed, classes=4, agreement=0.6):
    """Return classes and clusters that agree in part."""
    generator = np.random.default_rng(seed)
    shares = np.arange(classes, 0, -1)
    labels = generator.choice(classes, count, p=shares / shares.sum())
    others = generator.integers(0, classes + 1, count)
    return labels, np.where(generator.random(count) < agreement, labels, others)


def test_index_without_one_image_is_that_of_scikit_learn():
    labels, clusters = example(60, seed=0)
    values = partitions.ari_without_one(contingency_matrix(labels, clusters))
    for image in range(len(labels)):
        expected = adjusted_rand_score(np.delete(labels, image), np.delete(clusters, image))
        assert values[labels[image], clusters[image]] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "counts", [[[1]], [[7]], [[1, 0], [0, 1]], [[3, 0], [0, 4]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]]
)
def test_equal_partitions_have_no_interval(counts):
    for times in (1, 20):
        counts = times * np.array(counts)
        assert partitions.interval(1.0, partitions.ari_without_one(counts), counts) is None


def test_one_cluster_has_no_interval():
    counts = np.array([[30], [20], [17]])
    assert partitions.interval(0.0, partitions.ari_without_one(counts), counts) is None


def test_interval_is_within_the_range_of_the_index():
    for labels, clusters in ([0, 0, 1, 1], [0, 1, 0, 1]), ([0] * 19 + [1], [0] * 20):
        assert adjusted_rand_score(labels, clusters) >= partitions.LOWEST
    counts = np.array([[10, 1], [1, 8]])
    without_one = partitions.ari_without_one(counts)
    assert partitions.interval(0.63, without_one, counts)[1] == 1.0
    assert partitions.interval(-0.4, without_one, counts)[0] == -0.5


def test_few_images_have_no_interval():
    for count, has_interval in ((19, False), (20, True)):
        labels, clusters = example(count, seed=0)
        counts = contingency_matrix(labels, clusters)
        value = adjusted_rand_score(labels, clusters)
        ends = partitions.interval(value, partitions.ari_without_one(counts), counts)
        assert (ends is not None) == has_interval


@pytest.mark.parametrize("classes", [4, 19])
def test_interval_contains_the_index_of_many_images_as_often_as_it_says(classes):
    expected = adjusted_rand_score(*example(1_000_000, seed=1, classes=classes))
    contained = 0
    for seed in range(400):
        labels, clusters = example(500, seed, classes)
        counts = contingency_matrix(labels, clusters)
        value = adjusted_rand_score(labels, clusters)
        low, high = partitions.interval(value, partitions.ari_without_one(counts), counts)
        contained += low <= expected <= high
    # 95 %, within three standard deviations of a binomial distribution.
    assert 0.917 <= contained / 400 <= 0.983
