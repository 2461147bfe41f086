"""k-means on features whose clusters are known, and its numbers from their definitions."""

import dataclasses

import numpy as np
import pytest

from moco_tf.errors import UserError
from moco_tf.evaluation import protocols
from moco_tf.evaluation.clustering import cluster
from moco_tf.evaluation.results import summarize
from moco_tf.evaluation.settings import ClusterSettings
from tests.evaluation.helpers import as_features

CLASSES = 4


def example(seed, noise, count=120):
    """Return features around four directions, with lengths that do not matter."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    features = np.eye(CLASSES, 6)[labels] + noise * generator.normal(size=(count, 6))
    lengths = generator.uniform(0.1, 10, (count, 1))
    return as_features((lengths * features).astype(np.float32), labels, CLASSES)


def mutual_information(a, b):
    """Return the normalized mutual information from its definition."""
    joint = np.array([[np.mean((a == i) & (b == j)) for j in np.unique(b)] for i in np.unique(a)])
    p, q = joint.sum(axis=1), joint.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.nansum(joint * np.log(joint / np.outer(p, q)))
    return 2 * information / -(np.sum(p * np.log(p)) + np.sum(q * np.log(q)))


def test_separate_classes_are_found():
    result = cluster(example(0, 0.05), example(1, 0.05))
    assert result["nmi"] == pytest.approx(1)
    assert result["ari"] == pytest.approx(1)
    assert result["clusters"] == CLASSES
    assert result["ari_interval"] is None
    summary = summarize({**result, "num_train": 120, "num_test": 120})
    assert summary.startswith("NMI 1.0000, ARI 1.0000, 4 clusters")
    assert result["cluster_sizes"] == [30] * 4
    assert [row["share"] for row in result["per_class"]] == [1.0] * 4
    assert len({row["cluster"] for row in result["per_class"]}) == 4


def test_two_clusters_of_separate_classes_have_the_information_of_whole_classes():
    train, test = example(0, 0.05), example(1, 0.05)
    result = cluster(train, test, ClusterSettings(clusters=2))
    # Every class is in one cluster as a whole: which classes share one is up to k-means.
    sizes = sorted(result["cluster_sizes"])
    assert sizes in ([30, 90], [60, 60])
    assigned = test.labels >= (1 if sizes == [30, 90] else 2)
    assert result["nmi"] == pytest.approx(mutual_information(test.labels, assigned))


def test_noise_has_an_index_near_zero():
    generator = np.random.default_rng(0)
    train, test = (
        as_features(generator.normal(size=(400, 6)).astype(np.float32), np.arange(400) % 4, 4)
        for _ in range(2)
    )
    assert abs(cluster(train, test)["ari"]) < 0.03


def test_classes_are_reported_with_the_cluster_that_has_most_of_their_images():
    train, test = example(0, 0.4), example(1, 0.4)
    named = dataclasses.replace(test, class_names=["a", "b", "c", "d"])
    # The classes `a` and `b` are one cluster, and the class `c` has no test image.
    named.labels[named.labels == 1] = 0
    kept = named.labels != 2
    named = dataclasses.replace(
        named,
        features=named.features[kept],
        labels=named.labels[kept],
        indices=named.indices[kept],
    )
    result = cluster(train, named)
    assert [(row["class"], row["num_test"]) for row in result["per_class"]] == [
        ("a", 60),
        ("d", 30),
    ]
    for row in result["per_class"]:
        assert row["share"] * row["num_test"] <= result["cluster_sizes"][row["cluster"]]
    assert result["per_class"][0]["share"] == pytest.approx(0.5, abs=0.1)
    assert result["ari_interval"][0] < result["ari"] < result["ari_interval"][1]


def test_more_clusters_than_images_are_refused():
    with pytest.raises(UserError, match="^clusters=121 is more than the 120 training images"):
        cluster(example(0, 0.1), example(1, 0.1), ClusterSettings(clusters=121))


def test_examples_are_the_images_nearest_to_the_centers():
    train, test = example(0, 0.3), example(1, 0.3)
    result = cluster(train, test)
    unit = test.features / np.linalg.norm(test.features, axis=1, keepdims=True)
    for size, indices in zip(result["cluster_sizes"], result["examples"], strict=True):
        assert len(indices) == min(size, 8)
        # They are of one direction, and closer together than images of the class are.
        [direction] = np.unique(test.labels[indices])
        members = unit[test.labels == direction]
        assert (unit[indices] @ unit[indices].T).mean() > (members @ members.T).mean()


def test_clusters_need_no_labels():
    train, test = example(0, 0.05), example(1, 0.05)
    unlabeled = dataclasses.replace(test, labels=None, num_classes=0)
    result = cluster(train, unlabeled, ClusterSettings(clusters=4))
    expected = cluster(train, test, ClusterSettings(clusters=4))
    of_labels = {"nmi", "ari", "ari_interval", "per_class"}
    assert result == {k: v for k, v in expected.items() if k not in of_labels}
    with pytest.raises(UserError, match="without labels, give the number of clusters"):
        cluster(train, unlabeled)


def test_results_of_earlier_versions_can_be_summarized():
    result = protocols.evaluate("cluster", example(0, 0.4), example(1, 0.4))
    low, high = result["ari_interval"]
    assert f"ARI {result['ari']:.4f} ({low:.4f} to {high:.4f}), 4" in summarize(result)
    del result["ari_interval"]
    assert f"ARI {result['ari']:.4f}, 4 clusters" in summarize(result)
