"""Accuracies of class scores, their interval and the accuracy of each class."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score

from moco_tf.evaluation.metrics import classification
from moco_tf.evaluation.results import summarize
from tests.evaluation.helpers import as_features

CLASSES = 4


def example():
    """Return scores of 300 images that favor their class, which is never class 2."""
    generator = np.random.default_rng(0)
    labels = generator.choice([0, 1, 3], 300)
    scores = generator.normal(size=(300, CLASSES)) + 1.2 * np.eye(CLASSES)[labels]
    return scores, as_features(np.zeros((300, 2), np.float32), labels, CLASSES)


def test_accuracy_of_each_class_is_the_recall_of_scikit_learn():
    scores, test = example()
    result = classification(scores, test)
    expected = recall_score(test.labels, scores.argmax(axis=1), labels=[0, 1, 3], average=None)
    assert [row["class"] for row in result["per_class"]] == ["0", "1", "3"]
    assert [row["top1"] for row in result["per_class"]] == pytest.approx(list(expected))
    counts = [row["num_test"] for row in result["per_class"]]
    assert counts == np.bincount(test.labels)[[0, 1, 3]].tolist()
    mean = np.average([row["top1"] for row in result["per_class"]], weights=counts)
    assert result["top1"] == pytest.approx(mean)

    named = dataclasses.replace(test, class_names=["a", "b", "c", "d"])
    assert [row["class"] for row in classification(scores, named)["per_class"]] == ["a", "b", "d"]


def test_mean_of_the_classes_is_the_balanced_accuracy_of_scikit_learn():
    labels = np.repeat([0, 1], [270, 30])
    scores = np.zeros((300, 2))
    scores[:, 0] = 1  # Everything is taken for the larger class.
    result = classification(scores, as_features(np.zeros((300, 2), np.float32), labels, 2))
    expected = balanced_accuracy_score(labels, scores.argmax(axis=1))
    assert (result["top1"], result["mean_per_class"]) == (0.9, expected)
    numbers = {"num_train": 300, "num_test": 300}
    assert "top-5 1.0000, mean of the classes 0.5000 (300 " in summarize({**result, **numbers})
    # It is not printed if it says nothing else than the accuracy, nor for earlier results.
    assert "mean" not in summarize({**result, **numbers, "mean_per_class": 0.89})
    del result["mean_per_class"]
    assert "mean" not in summarize({**result, **numbers})


def test_interval_of_top1_is_that_of_a_binomial_proportion():
    scores, test = example()
    result = classification(scores, test)
    low, high = result["top1_interval"]
    top1 = result["top1"]
    half = 1.96 * np.sqrt(top1 * (1 - top1) / 300)
    assert (low, high) == (
        pytest.approx(top1 - half, abs=0.01),
        pytest.approx(top1 + half, abs=0.01),
    )
