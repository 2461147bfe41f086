"""Images without a label do not count: results equal those of the images that have one."""

import dataclasses

import numpy as np
import pytest

from moco_tf.errors import UserError
from moco_tf.evaluation import anomaly, few_shot, knn, logistic, protocols, retrieval
from moco_tf.evaluation.clustering import cluster
from moco_tf.evaluation.features import labeled
from moco_tf.evaluation.settings import (
    AnomalySettings,
    ClusterSettings,
    FewShotSettings,
    KNNSettings,
    ProbeSettings,
    RetrievalSettings,
)
from tests.evaluation.helpers import as_features

CLASSES = 3


def example(seed, count=90):
    """Return features of overlapping classes, of which two thirds have a label, and those alone."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, count)
    features = np.eye(CLASSES, 5)[labels] + 0.6 * generator.normal(size=(count, 5))
    labels[np.arange(count) % 3 == 1] = -1
    part = as_features(features.astype(np.float32), labels, CLASSES)
    [kept] = np.nonzero(labels >= 0)
    alone = as_features(part.features[kept], labels[kept], CLASSES)
    return part, dataclasses.replace(alone, indices=kept)


(TRAIN, TRAIN_ALONE), (TEST, TEST_ALONE) = example(0), example(1)


def without_time(result):
    return {key: value for key, value in result.items() if key != "seconds"}


@pytest.mark.parametrize(
    ("protocol", "settings"),
    [
        ("knn", KNNSettings(k=7)),
        ("knn", KNNSettings(ks=(1, 7))),
        ("linear_cached", ProbeSettings()),
        ("few-shot", FewShotSettings(shots=(2,), draws=3)),
    ],
)
def test_classifiers_leave_out_images_without_a_label(protocol, settings):
    result = protocols.evaluate(protocol, TRAIN, TEST, settings)
    expected = protocols.evaluate(protocol, TRAIN_ALONE, TEST_ALONE, settings)
    assert without_time(result) == without_time(expected)
    assert (result["num_train"], result["num_test"]) == (60, 60)


@pytest.mark.parametrize("function", [knn.classify, logistic.probe, few_shot.classify])
def test_functions_of_the_classifiers_leave_them_out(function):
    assert function(TRAIN, TEST) == function(TRAIN_ALONE, TEST_ALONE)


@pytest.mark.parametrize("module", [knn, logistic])
def test_images_without_a_label_have_scores(module):
    scores = module.scores(TRAIN, TEST)
    assert scores.shape == (90, CLASSES)
    expected = module.scores(TRAIN_ALONE, TEST_ALONE)
    np.testing.assert_allclose(scores[TEST.indices[TEST.labels >= 0]], expected, rtol=1e-5)


def test_queries_without_a_label_are_left_out():
    others = RetrievalSettings(gallery="test")
    assert retrieval.retrieve(TRAIN, TEST, others) == retrieval.retrieve(TRAIN, TEST_ALONE, others)
    settings = RetrievalSettings(gallery="train")
    assert retrieval.retrieve(TRAIN_ALONE, TEST, settings) == retrieval.retrieve(
        TRAIN_ALONE, TEST_ALONE, settings
    )
    # The other images of the gallery are in the ranking, but relevant for no query.
    expected = retrieval.retrieve(TRAIN_ALONE, TEST_ALONE, settings)["map"]
    assert retrieval.retrieve(TRAIN, TEST, settings)["map"] < expected


def test_images_without_a_label_are_not_anomalous():
    settings = AnomalySettings(normal="1")
    result = anomaly.detect(TRAIN, TEST, settings)
    assert result == anomaly.detect(TRAIN_ALONE, TEST_ALONE, settings)
    assert protocols.evaluate("anomaly", TRAIN, TEST, settings)["num_test"] == 60


def test_agreement_of_clusters_is_that_of_images_with_a_label():
    result = cluster(TRAIN, TEST, ClusterSettings(clusters=4))
    expected = cluster(TRAIN, TEST_ALONE, ClusterSettings(clusters=4))
    for key in ("nmi", "ari", "ari_interval", "per_class"):
        assert result[key] == expected[key]
    assert sum(result["cluster_sizes"]) == 90


def test_no_label_at_all():
    none = dataclasses.replace(TEST, labels=np.full(90, -1))
    for part in (none, dataclasses.replace(TEST, labels=None)):
        with pytest.raises(UserError, match="^none of the images has a label"):
            knn.classify(TRAIN, part)
        assert "nmi" not in cluster(TRAIN, part, ClusterSettings(clusters=4))


def test_labels_belong_to_the_rows_that_are_left():
    part = labeled(TRAIN)
    np.testing.assert_array_equal(part.features, TRAIN.features[part.indices])
    np.testing.assert_array_equal(part.labels, TRAIN.labels[part.indices])
    assert labeled(part) is part
