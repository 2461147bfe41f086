"""The cached linear probe: a logistic regression on frozen features that were computed once."""

import contextlib
import hashlib
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import ThreadpoolController

from moco_tf.errors import UserError
from moco_tf.evaluation.features import Features, labeled, require_finite, with_classes_of
from moco_tf.evaluation.metrics import accuracies
from moco_tf.evaluation.settings import ProbeSettings


def probe(
    train: Features, test: Features, settings: ProbeSettings = ProbeSettings()
) -> dict[str, float]:
    """Fit a multinomial logistic regression on features, and return its accuracy.

    The paper trains the same layer by SGD on randomly cropped images, as
    `moco_tf.evaluation.linear` does. This function fits it to one central view of each image.
    Features are scaled to unit variance first, so that `l2` has the same effect on every backbone.

    Args:
        train: Labeled features of the training images. Images without a label are left out.
        test: Labeled features of the test images. Images without a label are left out.
        settings: L2 penalty and number of iterations. Half the penalty times the sum of the squared
            weights is added to the mean log loss.

    Returns:
        `{"top1": float, "top5": float}`, in [0, 1].

    Raises:
        UserError: If all training images are of one class, a feature is not finite, there are no
            labels, or both have names of classes, and test images are of a class whose name the
            training images do not have.
    """
    test = with_classes_of(train, labeled(test))
    assert test.labels is not None
    return accuracies(scores(train, test, settings), test.labels)


def scores(
    train: Features, test: Features, settings: ProbeSettings = ProbeSettings()
) -> np.ndarray:
    """Return the scores of the logistic regression for each class.

    Args:
        train: As for `probe`.
        test: Features of the test images, with labels or without.
        settings: As for `probe`.

    Returns:
        float `[N, classes]`. Classes without a training image have the lowest score.

    Raises:
        UserError: As `probe`.
    """
    train = labeled(train)
    require_finite(train, test)
    assert train.labels is not None
    if len(np.unique(train.labels)) < 2:
        label = train.labels[0]
        raise UserError(
            "the linear probe needs training images of two or more classes, but all of them have "
            f"the label {train.class_names[label] if train.class_names else label}: add images of "
            "other classes"
        )
    scaler = StandardScaler().fit(train.features)
    scaled, scaled_test = _merged_columns(
        scaler.transform(train.features), scaler.transform(test.features)
    )
    classifier = LogisticRegression(
        C=1 / (settings.l2 * len(train.features)), max_iter=settings.iterations
    )
    with warnings.catch_warnings(), _one_thread_of_scipy():
        # The accuracy settles long before the weights do.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(scaled, train.labels)
    fitted_scores = classifier.decision_function(scaled_test)
    if fitted_scores.ndim == 1:  # Two classes share one score.
        fitted_scores = np.stack([-fitted_scores, fitted_scores], axis=1)
    # Classes without a training image get the lowest score.
    result = np.full((len(test.features), train.num_classes), -np.inf)
    result[:, classifier.classes_] = fitted_scores
    return result


def _one_thread_of_scipy() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which SciPy's BLAS uses one thread, and NumPy's as many as before.

    Both come with a BLAS of their own, whose idle threads wait actively. L-BFGS calls SciPy's for
    short vectors, between the products of large matrices that NumPy's computes. On two cores, a fit
    takes more than twice as long if the threads of one wait while those of the other work. With
    another installation than the wheels for Linux, such as conda's, nothing changes.
    """
    controller = ThreadpoolController()
    of_scipy = [pool["filepath"] for pool in controller.info() if "scipy.libs" in pool["filepath"]]
    return controller.select(filepath=of_scipy).limit(limits=1)


def _merged_columns(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge columns that are equal in the training features; the regression stays the same.

    Of equal columns, one is enough, such as for the three channels of a gray image. The penalty is
    smallest if g equal columns share their weight equally, and that of one column that is
    multiplied by the square root of g is the same. The columns may differ in the test features: of
    few training images, many columns are equal, such as those that are not 0 for one image only.
    Each of them has the merged weight, divided by the square root of g.

    Args:
        train: float32 `[N, D]`.
        test: float32 `[M, D]`.

    Returns:
        The features of the training and of the test images, float32 `[N, C]` and `[M, C]`.
    """
    groups: dict[bytes, list[int]] = {}
    for position, column in enumerate(train.T):
        groups.setdefault(hashlib.sha256(column.tobytes()).digest(), []).append(position)
    if len(groups) == train.shape[1]:
        return train, test
    first = [positions[0] for positions in groups.values()]
    roots = np.sqrt([len(positions) for positions in groups.values()]).astype(train.dtype)
    sums = np.stack([test[:, positions].sum(axis=1) for positions in groups.values()], axis=1)
    return train[:, first] * roots, sums / roots
