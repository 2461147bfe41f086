"""Features for protocols that use other images than training and test images of one source."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from moco_tf.data.sources.source import Source, sample
from moco_tf.evaluation.clustering import MAX_IMAGES
from moco_tf.evaluation.extraction import Extractor, feature_step
from moco_tf.evaluation.features import Features
from moco_tf.evaluation.protocols import require_labels


def extract_gallery(
    backbone: Callable[[tf.Tensor], tf.Tensor], gallery: Source, source: Source, image_size: int
) -> tuple[Features, Features]:
    """Extract the features of all images of two sources, a gallery and queries.

    Args:
        backbone: As for `moco_tf.evaluation.protocols.extract_both`.
        gallery: The source of the gallery, with labels or without.
        source: The source of the queries, with labels. Images without a label are left out.
        image_size: Side of the central view in pixels.

    Returns:
        The features of the gallery, whose labels are those of the queries' classes of the same
        names, -1 for other classes; and the features of the queries.

    Raises:
        UserError: If the source of the queries has no labels.
    """
    require_labels(source)
    step = feature_step(backbone)
    bank = Extractor(gallery, gallery.part("all"), image_size)(step, "gallery features")
    queries = np.flatnonzero(np.asarray(source.labels) >= 0)
    test = Extractor(source, queries, image_size)(step, "query features")
    if bank.labels is not None:
        labels = {name: label for label, name in enumerate(test.class_names)}
        new_labels = np.array([labels.get(name, -1) for name in bank.class_names], np.int32)
        known = np.where(bank.labels >= 0, new_labels[bank.labels], -1)
        bank = dataclasses.replace(
            bank, labels=known, num_classes=test.num_classes, class_names=test.class_names
        )
    return bank, test


def extract_queries(
    backbone: Callable[[tf.Tensor], tf.Tensor], source: Source, image_size: int
) -> Features:
    """Extract the features of the test images, for a protocol that needs no training images.

    Args:
        backbone: As for `moco_tf.evaluation.protocols.extract_both`.
        source: A source with labels.
        image_size: Side of the central view in pixels.
    """
    require_labels(source)
    return Extractor(source, source.test, image_size)(feature_step(backbone), "test features")


def extract_unlabeled(
    backbone: Callable[[tf.Tensor], tf.Tensor], source: Source, image_size: int
) -> tuple[Features, Features]:
    """Extract the features of the images of pre-training, for a protocol that needs no labels.

    Args:
        backbone: As for `moco_tf.evaluation.protocols.extract_both`.
        source: A source, whose labels are not used.
        image_size: Side of the central view in pixels.

    Returns:
        The same features twice, in place of training and test images.
    """
    indices = sample(source.pretrain, MAX_IMAGES)
    features = Extractor(source, indices, image_size)(feature_step(backbone), "features")
    features = dataclasses.replace(features, labels=None, num_classes=0, class_names=[])
    return features, features


def count_copies(bank: Features, test: Features) -> int:
    """Return how many queries have a copy in the gallery, which is nearer than any other image.

    Args:
        bank: Features of the gallery.
        test: Features of the queries.
    """
    rows = {row.tobytes() for row in bank.features}
    return sum(row.tobytes() in rows for row in test.features)
