"""Anomaly detection against scikit-learn's nearest neighbors and curves."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

from moco_tf.errors import UserError
from moco_tf.evaluation import protocols
from moco_tf.evaluation.anomaly import auroc, detect, evaluate_scores
from moco_tf.evaluation.results import summarize
from moco_tf.evaluation.settings import AnomalySettings
from tests.evaluation.helpers import as_features

NAMES = ["bent", "good", "scratched"]


def example(seed, counts):
    """Return features of overlapping classes with different lengths."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), counts)
    centers = np.array([[1, 0.7, 0, 0], [1, 0, 0, 0], [1, 0, 0.4, 0]])
    features = centers[labels] + 0.3 * generator.normal(size=(len(labels), 4))
    features *= generator.uniform(0.1, 10, (len(labels), 1))
    part = as_features(features.astype(np.float32), labels, 3)
    return dataclasses.replace(part, class_names=NAMES, indices=100 + part.indices)


TRAIN, TEST = example(0, [5, 60, 5]), example(1, [20, 50, 30])


@pytest.mark.parametrize("k", [1, 5])
def test_numbers_equal_those_of_scikit_learn(k):
    result = protocols.evaluate("anomaly", TRAIN, TEST, AnomalySettings(k=k))
    normal = TRAIN.features[TRAIN.labels == 1]
    index = NearestNeighbors(n_neighbors=k, metric="cosine").fit(normal)
    scores = index.kneighbors(TEST.features)[0].mean(axis=1)
    is_anomalous = TEST.labels != 1
    assert result["auroc"] == pytest.approx(roc_auc_score(is_anomalous, scores))
    precision = average_precision_score(is_anomalous, scores)
    assert result["average_precision"] == pytest.approx(precision)
    assert 0.6 < result["auroc"] < 0.95
    assert result["num_normal"] == 60
    for row, label in zip(result["per_class"], (0, 2), strict=True):
        chosen = (TEST.labels == label) | ~is_anomalous
        expected = roc_auc_score(is_anomalous[chosen], scores[chosen])
        assert row == {
            "class": NAMES[label],
            "num_test": (TEST.labels == label).sum(),
            "auroc": pytest.approx(expected),
        }
    order = np.argsort(-scores)
    assert [item["index"] for item in result["most_anomalous"]] == (100 + order[:32]).tolist()
    assert result["most_anomalous"][0]["score"] == pytest.approx(scores.max(), abs=1e-6)
    assert f"AUROC {result['auroc']:.4f} (" in summarize(result)


def test_interval_is_as_wide_as_that_of_hanley_and_mcneil():
    result = detect(TRAIN, TEST)
    low, high = result["auroc_interval"]
    area, positives, negatives = result["auroc"], 50, 50
    assert low < area < high
    # The standard error of Hanley and McNeil (1982), whose distributions are exponential.
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (positives - 1) * (q1 - area**2)
    variance += (negatives - 1) * (q2 - area**2)
    error = np.sqrt(variance / (positives * negatives))
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


@pytest.mark.parametrize("sign", [1, -1])
def test_interval_of_a_perfect_ranking_has_a_width(sign):
    labels = np.repeat([1, 0], [40, 12])
    part = as_features(np.zeros([52, 2], np.float32), labels, 2)
    scores = sign * np.arange(52.0)
    result = evaluate_scores(scores, part, AnomalySettings(normal="1"))
    assert result["auroc"] == (1 if sign == 1 else 0)
    # Wilson's interval of 12 of 12.
    low = 12 / (12 + scipy.stats.norm.ppf(0.975) ** 2)
    expected = (low, 1) if sign == 1 else (0, 1 - low)
    assert result["auroc_interval"] == pytest.approx(expected, abs=1e-12)


def test_training_images_without_labels_are_normal():
    normal = TRAIN.labels == 1
    unlabeled = dataclasses.replace(
        TRAIN, features=TRAIN.features[normal], indices=TRAIN.indices[normal], labels=None
    )
    assert detect(unlabeled, TEST) == detect(TRAIN, TEST)


def test_equal_scores_count_half():
    scores, is_positive = np.array([1.0, 1.0, 2.0, 0.0]), np.array([True, False, True, False])
    assert auroc(scores, is_positive) == roc_auc_score(is_positive, scores) == 0.875


@pytest.mark.parametrize(
    ("train", "test", "normal", "message"),
    [
        (TRAIN, TEST, "fine", "normal=fine: there is no such class; the classes are bent, good"),
        (example(0, [5, 0, 5]), TEST, "good", "there are no normal training images"),
        (TRAIN, example(0, [5, 0, 5]), "good", "there are no normal test images"),
        (TRAIN, example(0, [0, 5, 0]), "good", "there are no anomalous test images"),
    ],
)
def test_images_that_are_missing_are_named(train, test, normal, message):
    with pytest.raises(UserError, match=message):
        detect(train, test, AnomalySettings(normal=normal))
