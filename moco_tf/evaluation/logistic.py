"""The cached linear probe: logistic regression on frozen features that were computed once."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from moco_tf.errors import UserError
from moco_tf.evaluation.features import Features
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
        train: Labeled features of the training images.
        test: Labeled features of the test images.
        settings: L2 penalty, of which half times the squared weights is added to the mean log
            loss, and number of iterations.

    Returns:
        `{"top1": float, "top5": float}`, in [0, 1].

    Raises:
        UserError: If all training images are of one class.
    """
    assert train.labels is not None
    assert test.labels is not None
    if len(np.unique(train.labels)) < 2:
        raise UserError("the linear probe needs training images of two or more classes")
    scaler = StandardScaler().fit(train.features)
    classifier = LogisticRegression(
        C=1 / (settings.l2 * len(train.features)), max_iter=settings.iterations
    )
    with warnings.catch_warnings():
        # The accuracy settles long before the weights do.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(scaler.transform(train.features), train.labels)
    known = classifier.decision_function(scaler.transform(test.features))
    if known.ndim == 1:  # Two classes share one score.
        known = np.stack([-known, known], axis=1)
    # Classes without a training image get no score.
    scores = np.full((len(test.features), train.num_classes), -np.inf)
    scores[:, classifier.classes_] = known
    return accuracies(scores, test.labels)
