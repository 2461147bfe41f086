"""The cached linear probe against SciPy's minimiser on the same objective."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from moco_tf.evaluation.logistic import probe

DIM = 5


def example(classes, size=240, noise=2.0, seed=0):
    """Overlapping classes, in features of very different scales and means."""
    generator = np.random.default_rng(seed)
    centres = 1.5 * generator.normal(size=(classes, DIM))
    parts = []
    for _ in range(2):
        labels = generator.integers(0, classes, size)
        features = centres[labels] + noise * generator.normal(size=(size, DIM))
        features = features * 10.0 ** np.arange(-2, 3) + np.arange(DIM)
        parts += [features.astype(np.float32), labels.astype(np.int32)]
    return parts


def reference_scores(train, labels, test, classes, l2):
    """Minimises mean log loss + l2 / 2 |W|^2 over weights and biases, in float64."""
    train, test = np.float64(train), np.float64(test)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    targets = np.eye(classes)[labels]

    def objective(parameters):
        weights, biases = np.split(parameters.reshape(DIM + 1, classes), [DIM])
        log_probabilities = scipy.special.log_softmax(train @ weights + biases, axis=1)
        loss = -(targets * log_probabilities).sum(axis=1).mean() + l2 / 2 * (weights**2).sum()
        error = (np.exp(log_probabilities) - targets) / len(train)
        gradient = np.concatenate([train.T @ error + l2 * weights, error.sum(0, keepdims=True)])
        return loss, gradient.ravel()

    found = scipy.optimize.minimize(
        objective,
        np.zeros((DIM + 1) * classes),
        jac=True,
        method="L-BFGS-B",
        options=dict(gtol=1e-10, ftol=1e-15, maxiter=5000),
    )
    weights, biases = np.split(found.x.reshape(DIM + 1, classes), [DIM])
    return test @ weights + biases


def certain(scores):
    """Rows whose best class is ahead by more than what an early stop could move."""
    ordered = np.sort(scores, axis=1)
    return ordered[:, -1] - ordered[:, -2] > 0.01


@pytest.mark.parametrize("l2", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("classes", [3, 7])
def test_predictions_are_those_of_scipys_minimum(classes, l2):
    train, train_labels, test, test_labels = example(classes)
    scores = reference_scores(train, train_labels, test, classes, l2)
    sure = certain(scores)
    assert sure.mean() > 0.9
    expected = scores.argmax(axis=1)
    # Asked whether the reference is right, the probe agrees everywhere.
    found = probe(train, train_labels, test[sure], expected[sure], classes, l2)
    assert found["top1"] == 1.0
    # And both are wrong equally often.
    found = probe(train, train_labels, test[sure], test_labels[sure], classes, l2)
    assert found["top1"] == pytest.approx((expected == test_labels)[sure].mean())
    assert 0.3 < found["top1"] < 0.95


def test_the_penalty_changes_predictions():
    # Else the comparison above would not tell whether it is used as it should be.
    train, labels, test, _ = example(7)
    weak, strong = (reference_scores(train, labels, test, 7, l2) for l2 in (1e-3, 1.0))
    assert (weak.argmax(axis=1) != strong.argmax(axis=1)).mean() > 0.02


def test_the_five_best_classes_are_those_of_scipys_minimum():
    train, train_labels, test, test_labels = example(9, noise=4.0)
    scores = reference_scores(train, train_labels, test, 9, 1e-3)
    best = np.argsort(-scores, axis=1)
    ordered = -np.sort(-scores, axis=1)
    sure = ordered[:, 4] - ordered[:, 5] > 0.01
    found = probe(train, train_labels, test[sure], test_labels[sure], 9)
    assert found["top5"] == pytest.approx((best[:, :5] == test_labels[:, None]).any(1)[sure].mean())
    assert found["top1"] < found["top5"] < 1.0


@pytest.mark.parametrize("classes", [2, 3, 8])
def test_separable_classes_are_told_apart_without_error(classes):
    generator = np.random.default_rng(0)
    labels = np.tile(np.arange(classes), 20)
    features = 10 * np.eye(classes, 8)[labels] + generator.normal(size=(len(labels), 8))
    (train, test), (train_labels, test_labels) = (
        np.split(x, 2) for x in (features.astype(np.float32), labels)
    )
    found = probe(train, train_labels, test, test_labels, classes)
    assert found == {"top1": 1.0, "top5": 1.0}


def test_two_classes_are_not_confused_with_each_other():
    train, train_labels, test, test_labels = example(2, noise=1.0)
    # With two classes scikit-learn has one row of weights w for our -w/2 and w/2, whose squares
    # sum up to half of its square.
    scores = reference_scores(train, train_labels, test, 2, 2 * 0.05)
    sure = certain(scores)
    expected = scores.argmax(axis=1)
    assert probe(train, train_labels, test[sure], expected[sure], 2, 0.05)["top1"] == 1.0
    assert probe(train, train_labels, test[sure], 1 - expected[sure], 2, 0.05)["top1"] == 0.0


@pytest.mark.parametrize("present", [(0, 1, 3), (1, 3), (2, 3)])
def test_a_class_without_a_training_image_is_never_predicted(present):
    generator = np.random.default_rng(0)

    def features(labels):
        x = 10 * np.eye(4)[labels] + generator.normal(size=(len(labels), 4))
        return x.astype(np.float32)

    train_labels = np.repeat(present, 20)
    test_labels = np.repeat(np.arange(4), 10)
    found = probe(features(train_labels), train_labels, features(test_labels), test_labels, 4)
    assert found["top1"] == len(present) / 4
