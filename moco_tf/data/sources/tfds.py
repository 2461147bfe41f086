"""The `tfds` source: data sets of tensorflow-datasets, in TFRecord or ArrayRecord files."""

import contextlib
import dataclasses
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from absl import logging as absl_logging

from moco_tf.data.sources import arrayrecord, examples, tfrecord_files
from moco_tf.data.sources.records import Records
from moco_tf.data.sources.source import Source
from moco_tf.data.sources.tfrecord import IMAGE_FEATURE, LABEL_FEATURE
from moco_tf.errors import UserError
from moco_tf.files import read_json
from moco_tf.names import printable

if TYPE_CHECKING:  # Importing it takes seconds.
    import tensorflow_datasets as tfds

# Which records of which files make up a split: `tfds.core.utils.shard_utils.FileInstruction`s.
FileInstructions = Sequence[Any]
FILE_FORMATS = ("tfrecord", "array_record")

DATASET = re.compile(r"(?P<name>[^:]+)(:(?P<version>[\d.*]+))?(:(?P<split>[A-Za-z_].*))?")


def load(
    name: str,
    dataset: str,
    data_dir: str,
    image_feature: str = IMAGE_FEATURE,
    label_feature: str = LABEL_FEATURE,
) -> Source:
    """Open a data set that is prepared, or prepare it first.

    The requested split, "train" by default, is for training. The split for testing is "test", or
    "validation" if "test" is missing or has no labels. If neither can be used, a fifth of the
    requested split is held out.

    Args:
        name: The string that names the source.
        dataset: The data set as `"NAME[/CONFIG][:VERSION][:SPLIT]"`. SPLIT is as in `tfds.load`,
            such as "train[:10%]".
        data_dir: Directory of the data sets; `""` for the default of tensorflow-datasets.
        image_feature: Feature of the images. If it is that of TFRecord files, the feature is found.
        label_feature: Feature of the labels; `""` for no labels. If it is that of TFRecord files,
            the feature is found, if there is one.

    Returns:
        The source.

    Raises:
        UserError: If there is no such data set, version, split or feature, or the data set cannot
            be prepared, is not stored in TFRecord or ArrayRecord files, or holds no images.
    """
    builder, split = open_prepared(name, dataset, data_dir)
    image_key, label_key, class_names = _features(name, builder, image_feature, label_feature)
    instructions, other_splits = requested_and_other_splits(name, builder, split)
    records = scan_splits(instructions, *other_splits)
    pretrain = split_indices(name, records, instructions)
    if not len(pretrain):
        raise UserError(f"data source '{name}': there is no record in the split '{split}'")
    if not _has_labels(name, records, pretrain, label_key):
        label_key = None
    for other_split in other_splits:
        train, test = pretrain, split_indices(name, records, other_split)
        if len(test) and (label_key is None or _has_labels(name, records, test, label_key)):
            break
    else:
        is_held_out = np.isin(pretrain, records.of_files(held_out=True))
        train, test = pretrain[~is_held_out], pretrain[is_held_out]
    source = examples.make_source(
        name=name,
        records=records,
        pretrain=pretrain,
        train=train,
        test=test,
        image_feature=image_key,
        label_feature=label_key,
        class_names=class_names,
    )
    return dataclasses.replace(source, list_files=records.list_files)


def open_prepared(name: str, dataset: str, data_dir: str) -> tuple["tfds.core.DatasetBuilder", str]:
    """Open a data set that is prepared, or prepare it first.

    Args:
        name: The string that names the source.
        dataset: As in `load`.
        data_dir: As in `load`.

    Returns:
        The builder of the data set, and the requested split.

    Raises:
        UserError: If there is no such data set or version, or the data set cannot be prepared or is
            not stored in TFRecord or ArrayRecord files.
    """
    match = DATASET.fullmatch(dataset)
    if not match:
        raise UserError(
            f"data source '{name}' is not of the form tfds:NAME[/CONFIG][:VERSION][:SPLIT]"
        )
    with _quiet():
        builder = _prepared_builder(name, match["name"], match["version"], data_dir)
    file_format = builder.info.file_format.value
    if file_format not in FILE_FORMATS:
        raise UserError(
            f"data source '{name}' is stored in {file_format} files in {builder.data_path}: "
            "prepare it with tfds build --file_format=tfrecord"
        )
    return builder, match["split"] or "train"


def requested_and_other_splits(
    name: str, builder: "tfds.core.DatasetBuilder", split: str
) -> tuple[FileInstructions, list[FileInstructions]]:
    """Return which records of which files make up the splits.

    Args:
        name: The string that names the source.
        builder: The builder of the data set.
        split: The requested split.

    Returns:
        The file instructions of the requested split; and a list of those of "test" and
        "validation", in this order, if they exist and share no file with the requested split.

    Raises:
        UserError: If there is no such split.
    """
    requested = _file_instructions(name, builder, split)
    others = [
        _file_instructions(name, builder, other_split)
        for other_split in ("test", "validation")
        if other_split in builder.info.splits
    ]
    return requested, [other for other in others if not _paths(other) & _paths(requested)]


def scan_splits(*splits: FileInstructions) -> Records:
    """Find the records in the files of all the splits."""
    paths = sorted(set().union(*map(_paths, splits)))
    if all(".array_record" in os.path.basename(path) for path in paths):
        return arrayrecord.scan(paths)
    return tfrecord_files.scan(paths)


def split_indices(name: str, records: Records, instructions: FileInstructions) -> np.ndarray:
    """Return the indices of the records of a split.

    Args:
        name: The string that names the source.
        records: The records of all files of the split, and possibly of other files.
        instructions: The file instructions of the split.

    Returns:
        int64 `[M]`, in ascending order.

    Raises:
        UserError: If a file does not hold as many records as were written.
    """
    indices = [np.zeros(0, np.int64)]
    for instruction in instructions:
        path = str(instruction.filename)
        first, end = records.first_indices[records.paths.index(path) :][:2]
        if end - first != instruction.examples_in_shard:
            raise UserError(
                f"data source '{name}': {path} has {end - first} records instead of "
                f"{instruction.examples_in_shard}: prepare the data set again"
            )
        indices.append(first + instruction.skip + np.arange(instruction.take))
    return np.unique(np.concatenate(indices))


def _prepared_builder(
    name: str, dataset_name: str, version: str | None, data_dir: str
) -> "tfds.core.DatasetBuilder":
    import tensorflow_datasets as tfds

    tfds.display_progress_bar(sys.stderr.isatty())
    # With a version, even a wildcard, tfds looks for prepared files before it looks for code.
    dataset = f"{dataset_name}:{version or '*.*.*'}"
    if data_dir:
        _require_known_features(name, os.path.join(data_dir, dataset_name.partition("/")[0]))
    try:
        builder = tfds.builder(dataset, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f"data source '{name}': tensorflow-datasets {tfds.__version__} has no {dataset}, and "
            f"none is prepared in {data_dir or 'its default directory'}: set config.data.tfds_dir "
            "to the directory of the prepared data"
        ) from error
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(f"data source '{name}': {_one_line(error)}") from error
    if not builder.is_prepared():
        try:
            builder.download_and_prepare()
        except Exception as error:  # Every data set runs code of its own.
            raise UserError(
                f"data source '{name}' is not in {builder.data_path} and cannot be prepared: "
                f"{_one_line(error)}; prepare it on a machine where that works, and set "
                "config.data.tfds_dir to its directory"
            ) from error
    return builder


def _require_known_features(name: str, directory: str) -> None:
    """Raise a `UserError` if tfds would import a module that a prepared data set names.

    The module may be a file beside the data, which would run. Modules that are imported already, as
    by a program that defines features of its own, are known.
    """
    for levels in ("*", "*/*"):  # A version, and a config before it.
        for path in tf.io.gfile.glob(os.path.join(directory, levels, "features.json")):
            if not re.fullmatch(r"\d+\.\d+\.\d+", os.path.basename(os.path.dirname(path))):
                continue  # It is not a version, such as what a stopped preparation leaves.
            for class_name in _feature_classes(read_json(path, "prepare the data set again")):
                module = class_name.rpartition(".")[0]
                if module.partition(".")[0] != "tensorflow_datasets" and module not in sys.modules:
                    raise UserError(
                        f"data source '{name}': {path} names the code {printable(class_name)}, "
                        f"which was not run: if you trust it, import {printable(module)} first"
                    )


def _feature_classes(value: Any) -> Iterator[str]:
    """Yield the names of Python classes in a features.json."""
    if isinstance(value, dict):
        for key in ("pythonClassName", "python_class_name", "type"):
            if isinstance(class_name := value.get(key), str) and "." in class_name:
                yield class_name
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _feature_classes(item)


def _features(
    name: str, builder: "tfds.core.DatasetBuilder", image_feature: str, label_feature: str
) -> tuple[str, str | None, list[str] | None]:
    """Return the image feature, the label feature if there is one, and the names of the classes."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    candidates = [*(builder.info.supervised_keys or ()), "image", "label"]

    def first_of_type(feature_type: type) -> str | None:
        for key in candidates:
            if key in features and isinstance(features[key], feature_type):
                return key
        return None

    def require_type(setting: str, key: str, feature_type: type) -> str:
        keys = sorted(key for key in features if isinstance(features[key], feature_type))
        if key not in keys:
            raise UserError(
                f"data source '{name}' has no feature '{key}' of the type {feature_type.__name__}: "
                f"set config.data.{setting} to "
                + (f"one of {', '.join(keys)}" if keys else "its default")
            )
        return key

    image_key: str | None
    label_key: str | None
    if image_feature != IMAGE_FEATURE:
        image_key = require_type("image_feature", image_feature, tfds.features.Image)
    elif (image_key := first_of_type(tfds.features.Image)) is None:
        raise UserError(
            f"data source '{name}' has no images: its features are {', '.join(features)}; use "
            "another data set"
        )
    dtype = np.dtype(features[image_key].np_dtype)
    if dtype != np.uint8:
        raise UserError(
            f"data source '{name}' has images of the type {dtype}, but only uint8 is supported: "
            "use another data set"
        )
    if label_feature not in ("", LABEL_FEATURE):
        label_key = require_type("label_feature", label_feature, tfds.features.ClassLabel)
    else:
        label_key = first_of_type(tfds.features.ClassLabel) if label_feature else None
    return image_key, label_key, features[label_key].names if label_key else None


def _file_instructions(
    name: str, builder: "tfds.core.DatasetBuilder", split: str
) -> FileInstructions:
    """Return which records of which files make up a split."""
    splits = builder.info.splits
    try:
        return splits[split].file_instructions
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(
            f"data source '{name}': there is no split '{split}': use one of {', '.join(splits)}"
        ) from error


def _paths(instructions: FileInstructions) -> set[str]:
    """Return the paths of the files of a split."""
    return {str(instruction.filename) for instruction in instructions}


def _has_labels(
    name: str, records: Records, indices: np.ndarray, label_feature: str | None
) -> bool:
    """Return whether the first readable record has a label."""
    if label_feature is None:
        return False
    _, example = examples.first_readable(name, records, indices)
    label = examples.feature_value(example, label_feature)
    return isinstance(label, int) and label >= 0  # tensorflow-datasets writes -1 for no label.


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings about each attempt of a download, which the final error summarizes."""
    urllib3 = logging.getLogger("urllib3")
    absl_verbosity, urllib3_level = absl_logging.get_verbosity(), urllib3.level
    absl_logging.set_verbosity(absl_logging.ERROR)
    urllib3.setLevel(logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(absl_verbosity)
        urllib3.setLevel(urllib3_level)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
