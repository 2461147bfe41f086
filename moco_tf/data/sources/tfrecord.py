"""The `tfrecord` source: TFRecord files that match a pattern, such as TF-Slim's ImageNet."""

import dataclasses
from collections.abc import Sequence

from moco_tf.data.sources import examples
from moco_tf.data.sources.indices import Indices
from moco_tf.data.sources.record_parts import label_names, matching_files, split
from moco_tf.data.sources.records import Records
from moco_tf.data.sources.source import Source
from moco_tf.data.sources.tfrecord_files import scan
from moco_tf.errors import UserError

IMAGE_FEATURE = "image/encoded"  # The default.
# The default label feature. Records without it are unlabeled; any other feature has to exist.
LABEL_FEATURE = "image/class/label"


def load(name: str, pattern: str, image_feature: str, label_feature: str) -> Source:
    """Open the records of TFRecord files, ordered by the paths of the files.

    The names of the files say which parts of a data set they are, see `record_parts.split`, and a
    file labels.txt beside them may name the classes, see `record_parts.label_names`.

    Args:
        name: The string that names the source.
        pattern: Path with the wildcards `*`, `?` or `[...]`.
        image_feature: Feature of a record's `tf.train.Example` that holds the image.
        label_feature: Feature that holds the label; `""` for no labels.

    Returns:
        The source.

    Raises:
        UserError: If no file matches, a file cannot be read, the records hold no images, files of
            parts are mixed with others, or there is no part for pre-training.
    """
    return open_records(
        name, scan(matching_files(name, pattern, "TFRecord")), image_feature, label_feature
    )


def open_records(name: str, records: Records, image_feature: str, label_feature: str) -> Source:
    """Return the source of records that are `tf.train.Example` messages.

    Args:
        name: The string that names the source.
        records: The records.
        image_feature: As in `load`.
        label_feature: As in `load`.

    Returns:
        The source.

    Raises:
        UserError: As `load`.
    """
    if not records.size:
        raise UserError(f"data source '{name}': the files hold no records")
    pretrain, train, test, part_names = split(name, records)
    # Those of a part without labels say nothing about the others.
    candidates: Sequence[int] | Indices = train if len(train) else range(records.size)
    has_labels = _has_labels(name, records, candidates, label_feature)
    source = examples.make_source(
        name=name,
        records=records,
        pretrain=pretrain,
        train=train,
        test=test,
        image_feature=image_feature,
        label_feature=label_feature if has_labels else None,
        part_names=part_names,
        label_names=label_names(records),
    )
    return dataclasses.replace(source, list_files=records.list_files)


def _has_labels(
    name: str, records: Records, indices: Sequence[int] | Indices, label_feature: str
) -> bool:
    """Return whether the first readable one of some records has a label.

    Raises:
        UserError: If it has no feature of this name and the name is not the default, or the feature
            is not an integer.
    """
    if not label_feature:
        return False
    index, example = examples.first_readable(name, records, indices)
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
