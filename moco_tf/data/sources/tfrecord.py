"""TFRecord files that a pattern names, such as ImageNet's by TF-Slim's scripts."""

import os

import numpy as np
import tensorflow as tf

from moco_tf.data.sources import examples, records
from moco_tf.errors import UserError

LABEL_FEATURE = "image/class/label"


def load(name, pattern, image_feature, label_feature):
    """Every record of the files, in the order of their paths.

    Where the files divide by the beginning of their names into `train` and `validation`, `val` or
    `test`, the former are for training and the latter for testing. Otherwise evaluation holds out
    a fifth of the records.

    Args:
        name: the string that names the source.
        pattern: str, a path with `*`, `?` or `[...]`.
        image_feature, label_feature: the features of a record's `tf.train.Example`; "" as the
            latter for no labels.

    Returns:
        A `moco_tf.data.source.Source`.

    Raises:
        UserError: no such file, one that cannot be read, or records without images.
    """
    found = records.scan(_files(name, pattern))
    if not found.size:
        raise UserError(f"data source '{name}': there is no record in the files")
    return examples.source(
        name,
        found,
        _parts(found),
        image_feature,
        label_feature if _labelled(name, found, label_feature) else None,
    )


def _files(name, pattern):
    try:
        paths = sorted(tf.io.gfile.glob(pattern))
        is_folder = paths == [pattern] and tf.io.gfile.isdir(pattern)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"data source '{name}' cannot be read: {error}") from error
    if is_folder:
        raise UserError(
            f"data source '{name}': '{pattern}' is a folder: give a pattern of its files, such as "
            f"tfrecord:{pattern.rstrip('/')}/*"
        )
    if not paths:
        raise UserError(
            f"data source '{name}': no file matches '{pattern}': give a pattern of TFRecord files, "
            "such as tfrecord:/data/imagenet/train-*"
        )
    return paths


def _parts(found):
    """Indices of pretrain, train and test."""
    names = [os.path.basename(path) for path in found.paths]
    is_train = np.array([name.startswith("train") for name in names])
    is_test = np.array([name.startswith(("val", "test")) for name in names])
    indices = np.arange(found.size)
    file, _ = found.place(indices)
    if is_train.any() and is_test.any() and (is_train | is_test).all():
        train = indices[is_train[file]]
        return train, train, indices[is_test[file]]
    held_out = found.held_out()
    return indices, indices[~held_out], indices[held_out]


def _labelled(name, found, label_feature):
    """Whether the first record has a label, as a feature of this name.

    Raises:
        UserError: it has not, and the name is not the usual one, or what it has is no integer.
    """
    if not label_feature:
        return False
    index, example = examples.first(name, found, range(found.size))
    if label_feature not in example.features.feature and label_feature == LABEL_FEATURE:
        return False
    label = examples.value(example, label_feature)
    if not isinstance(label, int):
        raise UserError(
            f"data source '{name}': {found.describe(index)} has {label!r} as '{label_feature}': "
            "set --config.data.label_feature to a feature that holds an integer, or leave it empty"
        )
    return True
