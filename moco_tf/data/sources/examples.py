"""Images and labels in records that are `tf.train.Example` messages."""

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from moco_tf.data.decoding import decode
from moco_tf.data.sources.indices import Indices
from moco_tf.data.sources.records import Records
from moco_tf.data.sources.source import Source
from moco_tf.data.tuning import without_tuning
from moco_tf.errors import UserError
from moco_tf.names import printable
from moco_tf.progress_bar import progress_bar

LABEL_BATCH_SIZE = 1024
UNKNOWN = np.iinfo(np.int64).min  # Stands for the label of a record that has none.
MAX_ATTEMPTS = 100  # Records to try when looking for the first readable one.
# TF-Slim's names of the features of a raw array, and its value of the format.
FORMAT_FEATURE = "image/format"
SHAPE_FEATURES = ("image/height", "image/width", "image/channels")
RAW_FORMAT = b"raw"


def make_source(
    name: str,
    records: Records,
    pretrain: Indices,
    train: Indices,
    test: Indices,
    image_feature: str,
    label_feature: str | None,
    class_names: list[str] | None = None,
    part_names: tuple[str, str, str] = ("", "", ""),
    label_names: Mapping[int, str] | None = None,
) -> Source:
    """Return the source of records that each hold an encoded image or a raw array.

    A record whose `image/format` is "raw" holds the bytes of a uint8 array of the shape
    `[image/height, image/width, image/channels]`. The first readable record decides whether all
    records are read as raw arrays.

    Args:
        name: The string that names the source.
        records: The records.
        pretrain: Indices of the images for pre-training, int64.
        train: Indices of the training images of an evaluation, int64.
        test: Indices of the test images of an evaluation, int64.
        image_feature: Feature that holds the bytes of the image.
        label_feature: int64 feature that holds the label; None for no labels.
        class_names: Names of the labels, counted from 0. If None, the distinct labels, in ascending
            order, are the classes.
        part_names: As in `Source`.
        label_names: Names of some labels, if `class_names` is None. Other classes are named by
            their labels.

    Returns:
        The source. Its labels are read when they are first used.

    Raises:
        UserError: If no record is readable, or the first readable one has no such image.
    """
    raw_channels = _raw_channels(name, records, image_feature)
    load_labels = None
    if label_feature is not None:
        # Cached here, so that copies made by dataclasses.replace share the pass over the records.
        load_labels = functools.cache(
            lambda: read_labels(
                records, label_feature, class_names, np.union1d(train, test), label_names
            )
        )
    read_record = records.reader()
    parse_raw = _raw_parser(image_feature, raw_channels) if raw_channels else None
    file_spec = {image_feature: tf.io.FixedLenFeature([], tf.string)}

    def read_file(index: tf.Tensor) -> tf.Tensor:
        return tf.io.parse_single_example(read_record(index), file_spec)[image_feature]

    def read(index: tf.Tensor) -> tf.Tensor:
        return parse_raw(read_record(index)) if parse_raw else decode(read_file(index))

    return Source(
        name=name,
        size=records.size,
        read=read,
        describe=records.describe,
        pretrain=pretrain,
        train=train,
        test=test,
        load_labels=load_labels,
        channels=raw_channels or 3,
        part_names=part_names,
        list_contents=records.list_contents,
        read_file=None if raw_channels else read_file,
    )


def first_readable(
    name: str, records: Records, indices: Sequence[int] | Indices
) -> tuple[int, tf.train.Example]:
    """Return the first record that can be read.

    Args:
        name: The string that names the source.
        records: The records.
        indices: Indices of the records to try.

    Returns:
        The index of the record, and its message.

    Raises:
        UserError: If none of the first hundred can be read.
    """
    read_record = records.reader()
    attempts = indices[:MAX_ATTEMPTS]
    for index in attempts:
        example = _read_example(read_record, index)
        if example is not None:
            return int(index), example
    raise UserError(
        f"data source '{name}': {records.describe(attempts[0])} is not a readable "
        f"tf.train.Example, and neither is any other of the first {len(attempts)} records"
    )


def feature_value(example: tf.train.Example, feature: str) -> bytes | int | float | None:
    """Return the value of a feature; None if it is missing or does not hold exactly one value."""
    values = feature_values(example, feature)
    return values[0] if len(values) == 1 else None


def feature_values(example: tf.train.Example, feature: str) -> list[bytes | int | float]:
    """Return all values of a feature; an empty list if it is missing."""
    message = example.features.feature.get(feature)
    list_name = message.WhichOneof("kind") if message is not None else None
    return list(getattr(message, list_name).value) if list_name else []


def _raw_channels(name: str, records: Records, image_feature: str) -> int | None:
    """Return the number of channels of raw arrays; None if the records hold encoded images.

    Raises:
        UserError: If no record is readable, or the first readable one holds no usable image.
    """
    index, example = first_readable(name, records, range(records.size))
    location = f"data source '{name}': {records.describe(index)}"
    contents = feature_value(example, image_feature)
    if not isinstance(contents, bytes):
        features = ", ".join(sorted(example.features.feature)[:20]) or "but it has none"
        raise UserError(
            f"{location} has no image bytes as '{image_feature}': set config.data.image_feature to "
            f"one of its features, {features}"
        )
    image_format = feature_value(example, FORMAT_FEATURE)
    if not isinstance(image_format, bytes) or image_format.lower() != RAW_FORMAT:
        return None
    shape = [feature_value(example, feature) for feature in SHAPE_FEATURES]
    height, width, channels = (side if isinstance(side, int) else 0 for side in shape)
    if min(height, width, channels) <= 0:
        raise UserError(
            f"{location} is a raw array whose {', '.join(SHAPE_FEATURES)} are {shape}: write three "
            "positive integers"
        )
    size = math.prod((height, width, channels))
    if len(contents) in (2 * size, 4 * size, 8 * size):
        raise UserError(
            f"{location} has {len(contents) // size} bytes for each value of an array of shape "
            f"{shape}, but images are uint8: scale the values to 0 to 255 and write them as uint8"
        )
    return channels


def read_labels(
    records: Records,
    label_feature: str,
    class_names: list[str] | None = None,
    labeled: np.ndarray | None = None,
    label_names: Mapping[int, str] | None = None,
) -> tuple[np.ndarray, list[str]]:
    """Read the labels of all records in one pass, with a progress bar on a terminal.

    Args:
        records: The records.
        label_feature: int64 feature that holds the label.
        class_names: Names of the labels, counted from 0. If None, the distinct labels, in ascending
            order, are the classes.
        labeled: Indices of the records whose labels are needed; by default all.
        label_names: As in `make_source`.

    Returns:
        The labels, int32 `[N]`, with -1 for a record that cannot be read or whose label is not
        needed; and the class names.

    Raises:
        UserError: If a file can no longer be read, or a readable record whose label is needed has
            none, or one without a class name.
    """
    spec = {label_feature: tf.io.FixedLenFeature([], tf.int64, UNKNOWN)}
    try:
        batches = (
            _in_order(records)
            .batch(LABEL_BATCH_SIZE)
            .map(
                lambda batch: tf.io.parse_example(batch, spec)[label_feature],
                num_parallel_calls=os.cpu_count(),
            )
        )
        values = _concatenate(without_tuning(batches.prefetch(1)), records.size)
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError):
        # A sequential pass cannot continue after a damaged record. Reading by index can, but takes
        # ten times as long.
        values = _read_labels_by_index(records, label_feature, spec)
    except tf.errors.OpError as error:
        raise UserError(
            f"the labels in {records.paths[0]} or in the files beside it cannot be read: {error}"
        ) from error
    is_needed = np.ones(records.size, bool)
    if labeled is not None:
        is_needed[:] = False
        is_needed[labeled] = True
    is_valid = is_needed & (values != UNKNOWN) & (values >= 0)
    if class_names is not None:
        is_valid &= (values >= 0) & (values < len(class_names))
    read_record = records.reader()
    for index in np.flatnonzero(is_needed & ~is_valid).tolist():
        example = _read_example(read_record, index)
        if example is not None:
            expected = (
                f"from 0 to {len(class_names) - 1}"
                if class_names
                else "that is an integer of 0 or greater; set config.data.label_feature='' to use "
                "no labels"
            )
            raise UserError(
                f"{records.describe(index)} has the label {feature_value(example, label_feature)!r}"
                f" as '{label_feature}': every record needs a label {expected}"
            )
    labels = np.full(records.size, -1, np.int32)
    if class_names is not None:
        labels[is_valid] = values[is_valid]
        return labels, [printable(class_name) for class_name in class_names]
    classes, labels[is_valid] = np.unique(values[is_valid], return_inverse=True)
    names = label_names or {}
    return labels, [printable(names.get(int(label), str(label))) for label in classes]


def _in_order(records: Records) -> tf.data.Dataset:
    """Return a dataset of all payloads."""
    if records.in_order:
        return records.in_order()
    return tf.data.Dataset.range(records.size).map(
        records.reader(), num_parallel_calls=os.cpu_count()
    )


def _read_labels_by_index(
    records: Records, label_feature: str, spec: dict[str, tf.io.FixedLenFeature]
) -> np.ndarray:
    """Return the labels as int64 `[N]`, with `UNKNOWN` for records that cannot be read."""
    read_record = records.reader()

    def read_label(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index, tf.io.parse_single_example(read_record(index), spec)[label_feature]

    batches = (
        tf.data.Dataset.range(records.size)
        .map(read_label, num_parallel_calls=os.cpu_count())
        .ignore_errors(log_warning=False)
        .batch(LABEL_BATCH_SIZE)
    )
    values = np.full(records.size, UNKNOWN)
    with progress_bar(records.size, "labels", "record") as bar:
        for indices, labels in without_tuning(batches).as_numpy_iterator():
            values[indices] = labels
            bar.update(len(labels))
    return values


def _concatenate(batches: tf.data.Dataset, size: int) -> np.ndarray:
    arrays = []
    with progress_bar(size, "labels", "record") as bar:
        for batch in batches.as_numpy_iterator():
            arrays.append(batch)
            bar.update(len(batch))
    return np.concatenate(arrays)


def _read_example(
    read_record: Callable[[tf.Tensor], tf.Tensor], index: int
) -> tf.train.Example | None:
    """Return the message of a record; None if it cannot be read."""
    try:
        return tf.train.Example.FromString(read_record(tf.constant(index, tf.int64)).numpy())
    except (tf.errors.OpError, DecodeError):
        return None


def _raw_parser(image_feature: str, channels: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function from a payload to the raw array in it, uint8 `[H, W, channels]`."""
    text = tf.io.FixedLenFeature([], tf.string)
    integer = tf.io.FixedLenFeature([], tf.int64)
    spec = {image_feature: text, FORMAT_FEATURE: text, **dict.fromkeys(SHAPE_FEATURES, integer)}

    def parse(payload: tf.Tensor) -> tf.Tensor:
        features = tf.io.parse_single_example(payload, spec)
        pixels = tf.io.decode_raw(features[image_feature], tf.uint8)
        shape = tf.stack([features[feature] for feature in SHAPE_FEATURES])
        is_raw = tf.strings.lower(features[FORMAT_FEATURE]) == RAW_FORMAT
        is_valid = is_raw & (tf.reduce_min(shape) > 0)
        check = tf.raw_ops.Assert(condition=is_valid, data=["not a raw array:", shape])
        with tf.control_dependencies([check]):
            return tf.ensure_shape(tf.reshape(pixels, shape), [None, None, channels])

    return parse
