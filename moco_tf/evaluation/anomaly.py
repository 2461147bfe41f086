"""Anomaly detection: how far a test image is from the images that are known to be normal."""

from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from moco_tf.errors import UserError
from moco_tf.evaluation.bootstrap import interval, share_interval
from moco_tf.evaluation.features import Features, labeled, require_finite
from moco_tf.evaluation.knn import nearest
from moco_tf.evaluation.metrics import class_names
from moco_tf.evaluation.settings import AnomalySettings

# Number of the most anomalous test images that a result names.
NAMED = 32


def detect(
    train: Features, test: Features, settings: AnomalySettings = AnomalySettings()
) -> dict[str, Any]:
    """Tell anomalous test images from normal ones by the distance to normal training images.

    The score of a test image is the mean cosine distance to its k nearest normal training images.

    Args:
        train: Features of the training images. With labels, only those of the class
            `settings.normal` are used; without labels, all of them are normal.
        test: Labeled features of the test images. An image is anomalous if it is of another class.
            Images without a label are left out.
        settings: Name of the normal class, and k.

    Returns:
        A dict with `auroc`, the probability that an anomalous image has a larger score than a
        normal one, and `auroc_interval`, of `moco_tf.evaluation.bootstrap.interval`, or that of
        a share of the rarer kind of image if the AUROC is 0 or 1;
        `average_precision`, with the anomalous images as the positive ones; `num_normal`
        and `num_train`, the number of normal training images; `per_class`, a list of dicts with
        `class`, `num_test` and `auroc` for each anomalous class alone; and `most_anomalous`, a list
        of dicts with `index`, `class` and `score`.

    Raises:
        UserError: If a feature is not finite, there is no such class, or there are no normal
            training images, no normal test images or no anomalous ones.
    """
    require_finite(train, test)
    normal = normal_label(class_names(test), settings)
    bank = train.features if train.labels is None else train.features[train.labels == normal]
    if not len(bank):
        raise UserError(f"normal={settings.normal}: there are no normal training images: add some")
    _, similarities = nearest(bank, test.features, settings.k)
    scores = (1 - similarities.astype(np.float64)).mean(axis=1)
    counts = {"num_normal": len(bank), "num_train": len(bank)}
    return {**evaluate_scores(scores, test, settings), **counts}


def normal_label(names: list[str], settings: AnomalySettings) -> int:
    """Return the label of the normal class.

    Args:
        names: Names of the classes.
        settings: Name of the normal class.

    Raises:
        UserError: If there is no such class.
    """
    if settings.normal not in names:
        raise UserError(
            f"normal={settings.normal}: there is no such class; the classes are {', '.join(names)}"
        )
    return names.index(settings.normal)


def evaluate_scores(
    scores: np.ndarray, test: Features, settings: AnomalySettings
) -> dict[str, Any]:
    """Return how well scores tell anomalous test images from normal ones.

    Args:
        scores: float `[N]`, larger for more anomalous images.
        test: Labeled features of the test images, of which those without a label are left out. The
            features themselves are not used.
        settings: Name of the normal class.

    Returns:
        The entries of `detect` without `num_normal` and `num_train`.

    Raises:
        UserError: If there are no normal test images or no anomalous ones, or there are no labels.
    """
    if test.labels is not None:
        scores = scores[test.labels >= 0]
    test = labeled(test)
    assert test.labels is not None
    names = class_names(test)
    is_anomalous = test.labels != normal_label(names, settings)
    for count, what in (((~is_anomalous).sum(), "normal"), (is_anomalous.sum(), "anomalous")):
        if not count:
            raise UserError(f"normal={settings.normal}: there are no {what} test images: add some")

    def auroc_of(drawn: np.ndarray) -> float:
        return auroc(scores[drawn], is_anomalous[drawn])

    groups = [np.flatnonzero(is_anomalous), np.flatnonzero(~is_anomalous)]
    value = auroc_of(np.arange(len(scores)))
    if value in (0, 1):
        # Every draw has the same AUROC. Its variance is at most that of a share of the images of
        # the rarer kind (Birnbaum and Klose 1957).
        rarer = min(map(len, groups))
        ends = share_interval(round(value * rarer), rarer)
    else:
        ends = interval(auroc_of, groups)
    most = np.argsort(-scores, kind="stable")[:NAMED]
    return {
        "auroc": value,
        "auroc_interval": ends,
        "average_precision": float(average_precision_score(is_anomalous, scores)),
        "per_class": [
            {
                "class": names[label],
                "num_test": int((test.labels == label).sum()),
                "auroc": auroc_of(np.flatnonzero((test.labels == label) | ~is_anomalous)),
            }
            for label in np.unique(test.labels[is_anomalous])
        ],
        "most_anomalous": [
            {
                "index": int(test.indices[row]),
                "class": names[test.labels[row]],
                "score": float(scores[row]),
            }
            for row in most
        ],
    }


def auroc(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """Return the area under the receiver operating characteristic curve.

    It is the probability that a positive has a larger score than a negative, where an equal score
    counts half (Mann-Whitney).

    Args:
        scores: float `[N]`.
        is_positive: bool `[N]`, with both values.

    Example:
        >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
        0.75
    """
    positives = is_positive.sum()
    ranks = rankdata(scores)[is_positive].sum() - positives * (positives + 1) / 2
    return float(ranks / (positives * (len(scores) - positives)))
