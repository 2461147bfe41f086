"""The `tfrecord` source: TFRecord files that match a pattern, such as TF-Slim's ImageNet."""

import os
import re

import tensorflow as tf

from moco_tf.data.sources import examples
from moco_tf.data.sources.indices import Blocks
from moco_tf.data.sources.layout import TEST, TRAIN, UNLABELED, VALIDATION, part_of
from moco_tf.data.sources.records import Records, scan
from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError
from moco_tf.names import printable

# The default label feature. Records without it are unlabeled; any other feature has to exist.
LABEL_FEATURE = "image/class/label"


def load(name: str, pattern: str, image_feature: str, label_feature: str) -> Source:
    """Open the records of TFRecord files, ordered by the paths of the files.

    If a word in the name of each file is that of a part of a data set, as `layout.part_of` knows
    them, pre-training uses the training and the unlabeled files, and an evaluation trains on the
    training files and tests on the validation files, or on the test files if there are none of
    validation. If there are files of one part only, or no file is named as a part, an evaluation
    holds out a fifth of the records.

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
    records = scan(_matching_files(name, pattern))
    if not records.size:
        raise UserError(f"data source '{name}': the files hold no records")
    has_labels = _has_labels(name, records, label_feature)
    pretrain, train, test, part_names = _split(name, records)
    return examples.make_source(
        name=name,
        records=records,
        pretrain=pretrain,
        train=train,
        test=test,
        image_feature=image_feature,
        label_feature=label_feature if has_labels else None,
        part_names=part_names,
    )


def _matching_files(name: str, pattern: str) -> list[str]:
    try:
        paths = sorted(tf.io.gfile.glob(pattern))
        is_folder = paths == [pattern] and tf.io.gfile.isdir(pattern)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"data source '{name}' cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"data source '{name}' has a file whose name is not encoded in UTF-8 "
            f"({printable(error.object)}): rename the file, or use another pattern"
        ) from error
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


def _split(name: str, records: Records) -> tuple[Blocks, Blocks, Blocks, tuple[str, str, str]]:
    """Return the indices for pre-training, training and testing, and the names of these parts."""
    parts = _parts(name, records.paths)
    present = set(parts)

    def indices(*names: str, held_out: bool | None = None) -> Blocks:
        files = [number for number, part in enumerate(parts) if part in names]
        return records.of_files(files, held_out)

    if len(present) == 1:
        train, test = (indices(*present, held_out=held_out) for held_out in (False, True))
        return indices(*present), train, test, ("", "", "")
    train_part = TRAIN if TRAIN in present else UNLABELED
    test_part = VALIDATION if VALIDATION in present else TEST
    pretrain = indices(TRAIN, UNLABELED)
    pretrain_names = ", ".join(part for part in (TRAIN, UNLABELED) if part in present)
    if test_part not in present:
        train, test = (indices(train_part, held_out=held_out) for held_out in (False, True))
        return pretrain, train, test, (pretrain_names, train_part, "")
    unused = ", not test" if {VALIDATION, TEST} <= present else ""
    names = (pretrain_names, train_part, f"{test_part}{unused}")
    return pretrain, indices(train_part), indices(test_part), names


def _parts(name: str, paths: list[str]) -> list[str]:
    """Return the part of each file, "" if no file is named as a part.

    Raises:
        UserError: If some of the files are, or there is no part for pre-training.
    """
    parts = [_part_of_file(path) for path in paths]
    present = set(parts)
    if len(present) > 1 and "" in present:
        named = next(path for path, part in zip(paths, parts, strict=True) if part)
        raise UserError(
            f"data source '{name}' mixes files that are named as parts, such as "
            f"{printable(named)}, with others, such as {printable(paths[parts.index('')])}: use a "
            "pattern that matches only the former, or only the latter"
        )
    if present == {VALIDATION, TEST}:
        raise UserError(
            f"data source '{name}' has files for validation and for testing, but none for "
            "training: use a pattern that matches files for training as well"
        )
    return parts


def _part_of_file(path: str) -> str:
    """Return the part that the one such word in a file's name states; "" without one.

    Example:
        >>> _part_of_file("data/mnist-train.tfrecord-00000-of-00001")
        'train'
    """
    words = re.findall(r"[^\W\d_]+", os.path.basename(path))
    parts = {part for part in map(part_of, words) if part}
    return parts.pop() if len(parts) == 1 else ""


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
