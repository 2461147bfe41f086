"""The cached linear probe against SciPy's minimizer of the same objective."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from moco_tf.errors import UserError
from moco_tf.evaluation import logistic
from moco_tf.evaluation.logistic import probe
from moco_tf.evaluation.settings import ProbeSettings
from tests.evaluation.helpers import as_features

DIM = 5


def example(classes, size=240, noise=2.0, seed=0):
    """Return overlapping classes, in features of very different scales and means."""
    generator = np.random.default_rng(seed)
    centers = 1.5 * generator.normal(size=(classes, DIM))
    parts = []
    for _ in range(2):
        labels = generator.integers(0, classes, size)
        features = centers[labels] + noise * generator.normal(size=(size, DIM))
        features = features * 10.0 ** np.arange(-2, 3) + np.arange(DIM)
        parts.append(as_features(features.astype(np.float32), labels.astype(np.int32), classes))
    return parts


def reference_scores(train, test, l2):
    """Minimize mean log loss + l2 / 2 |W|^2 over weights and biases, in float64."""
    classes, dim = train.num_classes, train.features.shape[1]
    x, x_test = np.float64(train.features), np.float64(test.features)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    x, x_test = (x - mean) / deviation, (x_test - mean) / deviation
    targets = np.eye(classes)[train.labels]

    def objective(parameters):
        weights, biases = np.split(parameters.reshape(dim + 1, classes), [dim])
        log_probabilities = scipy.special.log_softmax(x @ weights + biases, axis=1)
        loss = -(targets * log_probabilities).sum(axis=1).mean() + l2 / 2 * (weights**2).sum()
        error = (np.exp(log_probabilities) - targets) / len(x)
        gradient = np.concatenate([x.T @ error + l2 * weights, error.sum(0, keepdims=True)])
        return loss, gradient.ravel()

    minimum = scipy.optimize.minimize(
        objective,
        np.zeros((dim + 1) * classes),
        jac=True,
        method="L-BFGS-B",
        options=dict(gtol=1e-10, ftol=1e-15, maxiter=5000),
    )
    weights, biases = np.split(minimum.x.reshape(dim + 1, classes), [dim])
    return x_test @ weights + biases


def select(test, rows, labels=None):
    """Return some of the test features, optionally with other labels."""
    labels = test.labels if labels is None else labels
    return as_features(test.features[rows], labels[rows], test.num_classes)


def certain(scores):
    """Return the rows whose best class leads by more than an early stop could change."""
    ordered = np.sort(scores, axis=1)
    return ordered[:, -1] - ordered[:, -2] > 0.01


@pytest.mark.parametrize("columns", [range(DIM), [0, 1, 2, 3, 4, 0, 0, 3]])
@pytest.mark.parametrize("l2", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("classes", [3, 7])
def test_predictions_equal_those_of_scipy(classes, l2, columns):
    train, test = (
        as_features(part.features[:, columns], part.labels, classes) for part in example(classes)
    )
    scores = reference_scores(train, test, l2)
    rows = certain(scores)
    assert rows.mean() > 0.9
    predictions = scores.argmax(axis=1)
    settings = ProbeSettings(l2)
    # With the reference's predictions as the labels, the probe is right everywhere.
    assert probe(train, select(test, rows, predictions), settings)["top1"] == 1.0
    # And both are wrong equally often.
    result = probe(train, select(test, rows), settings)
    assert result["top1"] == pytest.approx((predictions == test.labels)[rows].mean())
    assert 0.3 < result["top1"] < 0.95


def test_columns_that_are_equal_in_the_training_features_only():
    train, test = example(3)
    rng = np.random.default_rng(1)
    others = rng.permutation(test.features)[:, [0, 0, 3]]
    train = as_features(train.features[:, [0, 1, 2, 3, 4, 0, 0, 3]], train.labels, 3)
    test = as_features(np.concatenate([test.features[:, :5], others], axis=1), test.labels, 3)
    expected = reference_scores(train, test, 0.1)
    found = logistic.scores(train, test, ProbeSettings(0.1))

    def centered(scores):
        return scores - scores.mean(axis=1, keepdims=True)

    np.testing.assert_allclose(centered(found), centered(expected), atol=0.01)


def test_penalty_changes_predictions():
    # Otherwise the comparison above would not show that the penalty is used correctly.
    data = example(7)
    weak, strong = (reference_scores(*data, l2) for l2 in (1e-3, 1.0))
    assert (weak.argmax(axis=1) != strong.argmax(axis=1)).mean() > 0.02


def test_five_best_classes_equal_those_of_scipy():
    train, test = example(9, noise=4.0)
    scores = reference_scores(train, test, 1e-3)
    best = np.argsort(-scores, axis=1)
    ordered = -np.sort(-scores, axis=1)
    rows = ordered[:, 4] - ordered[:, 5] > 0.01
    result = probe(train, select(test, rows))
    hits = (best[:, :5] == test.labels[:, None]).any(axis=1)
    assert result["top5"] == pytest.approx(hits[rows].mean())
    assert result["top1"] < result["top5"] < 1.0


@pytest.mark.parametrize("classes", [2, 3, 8])
def test_separable_classes_are_classified_without_error(classes):
    generator = np.random.default_rng(0)
    labels = np.tile(np.arange(classes), 20)
    features = 10 * np.eye(classes, 8)[labels] + generator.normal(size=(len(labels), 8))
    train, test = (
        as_features(part, part_labels, classes)
        for part, part_labels in zip(
            np.split(features.astype(np.float32), 2), np.split(labels, 2), strict=True
        )
    )
    assert probe(train, test) == {"top1": 1.0, "top5": 1.0}


def test_two_classes_are_not_swapped():
    train, test = example(2, noise=1.0)
    # With two classes scikit-learn has one row of weights w for our -w/2 and w/2, whose squares
    # sum up to half of its square.
    scores = reference_scores(train, test, 2 * 0.05)
    rows = certain(scores)
    predictions = scores.argmax(axis=1)
    settings = ProbeSettings(l2=0.05)
    assert probe(train, select(test, rows, predictions), settings)["top1"] == 1.0
    assert probe(train, select(test, rows, 1 - predictions), settings)["top1"] == 0.0


@pytest.mark.parametrize("present", [(0, 1, 3), (1, 3), (2, 3)])
def test_class_without_training_images_is_never_predicted(present):
    generator = np.random.default_rng(0)

    def features(labels):
        x = 10 * np.eye(4)[labels] + generator.normal(size=(len(labels), 4))
        return as_features(x.astype(np.float32), labels, 4)

    train, test = features(np.repeat(present, 20)), features(np.repeat(np.arange(4), 10))
    assert probe(train, test)["top1"] == len(present) / 4


def test_training_images_of_one_class_are_refused():
    train = as_features(np.eye(4, dtype=np.float32), [1, 1, 1, 1], 2)
    with pytest.raises(UserError, match="training images of two or more classes"):
        probe(train, train)


def test_fit_leaves_one_thread_to_scipy_and_all_to_numpy(monkeypatch):
    def threads():
        return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}

    seen = []

    class Recorded(LogisticRegression):
        def fit(self, *args):
            seen.append(threads())
            return super().fit(*args)

    monkeypatch.setattr(logistic, "LogisticRegression", Recorded)
    with threadpool_limits(2):
        before = threads()
        probe(*example(classes=3))
        assert threads() == before
    [during] = seen
    assert during == {path: 1 if "scipy.libs" in path else n for path, n in before.items()}
