"""The cached linear probe: logistic regression on frozen features that were computed once."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from moco_tf.errors import UserError
from moco_tf.evaluation.metrics import accuracies


def probe(train, train_labels, test, test_labels, num_classes, l2=1e-3, iterations=200):
    """Accuracy of multinomial logistic regression on features that were computed once.

    The paper trains the same layer by SGD on randomly cropped images, as
    `moco_tf.evaluation.linear` does; this solves for it on one central view of each image. Features
    are scaled to unit variance first, so that `l2` means the same for every backbone.

    Args:
        train, test: float32 `[M, D]` and `[N, D]`.
        train_labels, test_labels: int `[M]` and `[N]`, in 0 to `num_classes` - 1.
        num_classes: int.
        l2: float > 0; half of it times the squared weights is added to the mean log loss.
        iterations: int, of L-BFGS at the most.

    Returns:
        `{"top1": float, "top5": float}`, shares in 0 to 1.

    Raises:
        UserError: all training images are of one class.
    """
    if len(np.unique(train_labels)) < 2:
        raise UserError("the linear probe needs training images of two or more classes")
    scaler = StandardScaler().fit(train)
    classifier = LogisticRegression(C=1 / (l2 * len(train)), max_iter=iterations)
    with warnings.catch_warnings():
        # The accuracy stands long before the weights do.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(scaler.transform(train), train_labels)
    found = classifier.decision_function(scaler.transform(test))
    if found.ndim == 1:  # two classes: one score
        found = np.stack([-found, found], axis=1)
    scores = np.full((len(test), num_classes), -np.inf)
    scores[:, classifier.classes_] = found
    return accuracies(scores, test_labels)
