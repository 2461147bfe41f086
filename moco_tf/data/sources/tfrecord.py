"""The `tfrecord` source: TFRecord files that match a pattern, such as TF-Slim's ImageNet."""

import os

import numpy as np
import tensorflow as tf

from moco_tf.data.sources import examples
from moco_tf.data.sources.records import Records, scan
from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError

# The default label feature. Records without it are unlabeled; any other feature has to exist.
LABEL_FEATURE = "image/class/label"


def load(name: str, pattern: str, image_feature: str, label_feature: str) -> Source:
    """Open the records of TFRecord files, ordered by the paths of the files.

    If the name of every file begins with either `train` or one of `validation`, `val` and `test`,
    the former files are for training and the latter for testing. Otherwise an evaluation holds out
    a fifth of the records.

    Args:
        name: The string that names the source.
        pattern: Path with the wildcards `*`, `?` or `[...]`.
        image_feature: Feature of a record's `tf.train.Example` that holds the image.
        label_feature: Feature that holds the label; `""` for no labels.

    Returns:
        The source.

    Raises:
        UserError: If no file matches, a file cannot be read, or the records hold no images.
    """
    records = scan(_matching_files(name, pattern))
    if not records.size:
        raise UserError(f"data source '{name}': the files hold no records")
    has_labels = _has_labels(name, records, label_feature)
    pretrain, train, test = _split(records)
    return examples.make_source(
        name=name,
        records=records,
        pretrain=pretrain,
        train=train,
        test=test,
        image_feature=image_feature,
        label_feature=label_feature if has_labels else None,
    )


def _matching_files(name: str, pattern: str) -> list[str]:
    try:
        paths = sorted(tf.io.gfile.glob(pattern))
        is_folder = paths == [pattern] and tf.io.gfile.isdir(pattern)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"data source '{name}' cannot be read: {error}") from error
    if is_folder:
        raise UserError(
            f"data source '{name}': '{pattern}' is a folder: use a pattern that matches its files, "
            f"such as tfrecord:{pattern.rstrip('/')}/*"
        )
    if not paths:
        raise UserError(
            f"data source '{name}': no file matches '{pattern}': use a pattern that matches "
            "TFRecord files, such as tfrecord:/data/imagenet/train-*"
        )
    return paths


def _split(records: Records) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the indices for pre-training, for training and for testing, int64 each."""
    file_names = [os.path.basename(path) for path in records.paths]
    is_train_file = np.array([name.startswith("train") for name in file_names])
    is_test_file = np.array([name.startswith(("val", "test")) for name in file_names])
    indices = np.arange(records.size)
    files, _ = records.locate(indices)
    if is_train_file.any() and is_test_file.any() and (is_train_file | is_test_file).all():
        train = indices[is_train_file[files]]
        return train, train, indices[is_test_file[files]]
    held_out = records.held_out()
    return indices, indices[~held_out], indices[held_out]


def _has_labels(name: str, records: Records, label_feature: str) -> bool:
    """Return whether the first readable record has a label.

    Raises:
        UserError: If it has no feature of this name and the name is not the default, or the feature
            is not an integer.
    """
    if not label_feature:
        return False
    index, example = examples.first_readable(name, records, range(records.size))
    if label_feature not in example.features.feature and label_feature == LABEL_FEATURE:
        return False
    label = examples.feature_value(example, label_feature)
    if not isinstance(label, int):
        raise UserError(
            f"data source '{name}': {records.describe(index)} has the label {label!r} as "
            f"'{label_feature}': set config.data.label_feature to a feature that holds an integer, "
            "or to '' for no labels"
        )
    return True
