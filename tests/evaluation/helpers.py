"""Helpers of the tests of the evaluation."""

import numpy as np

from moco_tf.evaluation.features import Features


def as_features(features, labels, num_classes):
    """Return labeled features of the images 0, 1, 2, ... of a source."""
    return Features(features, np.arange(len(features)), np.asarray(labels), num_classes)
