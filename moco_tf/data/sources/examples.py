"""Images and labels in records that are `tf.train.Example` messages."""

import functools
import math
import os

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tqdm.auto import tqdm

from moco_tf.data.decoding import decode
from moco_tf.data.sources.source import Later, Source
from moco_tf.data.tuning import without_tuning
from moco_tf.errors import UserError

LABELS_AT_ONCE = 1024
READ_AT_ONCE = 8 << 20  # bytes
UNKNOWN = np.iinfo(np.int64).min  # the label of a record that has none
ATTEMPTS = 100  # records looked at for the first that can be read
# Of raw arrays, by TF-Slim's names.
RAW, FORMAT, SHAPE = b"raw", "image/format", ("image/height", "image/width", "image/channels")


def source(name, records, parts, image_feature, label_feature, class_names=None):
    """The `Source` of records that hold an encoded image each, or a raw array.

    A record whose `image/format` is "raw" holds the bytes of a uint8 array `[image/height,
    image/width, image/channels]`. The first record that can be read says whether all are.

    Args:
        name: the string that names it.
        records: `moco_tf.data.records.Records`.
        parts: the indices of `pretrain`, `train` and `test`, int64 each.
        image_feature: the feature that holds an image's bytes.
        label_feature: the int64 feature that holds its label; None for no labels.
        class_names: the names of the labels, from 0; None where the distinct labels found, in
            their order, are the classes.

    Raises:
        UserError: no record can be read, or the first has no such image.
    """
    channels = raw_channels(name, records, image_feature)
    pretrain, train, test = parts
    labels = names = None
    if label_feature is not None:
        read = functools.cache(lambda: read_labels(records, label_feature, class_names))
        labels, names = Later(lambda: read()[0]), class_names or Later(lambda: read()[1])
    payload = records.reader()
    image = _raw(image_feature, channels) if channels else _encoded(image_feature)
    return Source(
        name=name,
        size=records.size,
        read=lambda index: image(payload(index)),
        describe=records.describe,
        pretrain=pretrain,
        train=train,
        test=test,
        labels=labels,
        class_names=names,
        channels=channels or 3,
    )


def first(name, records, indices):
    """The first record that can be read, of those at some indices.

    Args:
        name: the source's.
        records: `moco_tf.data.records.Records`.
        indices: ints.

    Returns:
        Its index and the `tf.train.Example` in it.

    Raises:
        UserError: none of the first hundred can be.
    """
    read = records.reader()
    for index in indices[:ATTEMPTS]:
        if (example := _example(read, index)) is not None:
            return index, example
    raise UserError(
        f"data source '{name}': {records.describe(indices[0])} is no tf.train.Example, nor is any "
        f"of the {len(indices[:ATTEMPTS])} looked at"
    )


def value(example, feature):
    """The one value of a feature: bytes, an int or a float; None where it is missing or several."""
    of_feature = example.features.feature.get(feature)
    kind = of_feature and of_feature.WhichOneof("kind")
    values = getattr(of_feature, kind).value if kind else []
    return values[0] if len(values) == 1 else None


def raw_channels(name, records, image_feature):
    """The channels of the raw arrays that the records hold; None for encoded images.

    Raises:
        UserError: no record can be read, or the first that can be holds no image.
    """
    index, example = first(name, records, range(records.size))
    where = f"data source '{name}': {records.describe(index)}"
    contents = value(example, image_feature)
    if not isinstance(contents, bytes):
        raise UserError(
            f"{where} has no image bytes as '{image_feature}': set --config.data.image_feature to "
            f"one of its features, {_names(example)}"
        )
    of_format = value(example, FORMAT)
    if not isinstance(of_format, bytes) or of_format.lower() != RAW:
        return None
    shape = [value(example, feature) for feature in SHAPE]
    if not all(isinstance(side, int) and side > 0 for side in shape):
        raise UserError(
            f"{where} is raw, and {', '.join(SHAPE)} are {shape}: give three integers above 0"
        )
    values = math.prod(shape)
    if len(contents) in (2 * values, 4 * values, 8 * values):
        raise UserError(
            f"{where} has {len(contents) // values} bytes for each value of an array of shape "
            f"{shape}: scale the values to 0 to 255 and write them as uint8, as views are uint8"
        )
    return shape[-1]


def read_labels(records, label_feature, class_names=None):
    """The labels of all records, in one pass over the files, with a progress bar on a terminal.

    Args:
        records: `moco_tf.data.records.Records`.
        label_feature: the int64 feature.
        class_names: their names, where they are known.

    Returns:
        int32 `[N]`, and the names. Where these are not given, the distinct values found, in
        order, are the classes. A record that cannot be read has the label -1.

    Raises:
        UserError: a file that can no longer be read; a record that can be, and has no label, or
            one without a name.
    """
    spec = {label_feature: tf.io.FixedLenFeature([], tf.int64, UNKNOWN)}
    try:
        in_order = tf.data.TFRecordDataset(records.paths, buffer_size=READ_AT_ONCE)
        batches = in_order.batch(LABELS_AT_ONCE).map(
            lambda payloads: tf.io.parse_example(payloads, spec)[label_feature],
            num_parallel_calls=os.cpu_count(),
        )
        values = _concatenated(without_tuning(batches.prefetch(1)), records.size)
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError):
        # After a damaged record the pass loses its place; looked up by their indices, which takes
        # ten times as long, the others can be read.
        values = _labels_by_index(records, label_feature, spec)
    except tf.errors.OpError as error:
        raise UserError(f"the labels of {records.paths[0]} and so on: {error}") from error
    known = values != UNKNOWN
    if class_names is not None:
        known &= (values >= 0) & (values < len(class_names))
    read = records.reader()
    for index in np.flatnonzero(~known):
        if (example := _example(read, index)) is not None:
            raise UserError(
                f"{records.describe(index)} has the label {value(example, label_feature)} as "
                f"'{label_feature}': every record needs "
                + (f"one of 0 to {len(class_names) - 1}" if class_names else "one, an integer")
            )
    labels = np.full(records.size, -1, np.int32)
    if class_names is not None:
        labels[known] = values[known]
        return labels, class_names
    classes, labels[known] = np.unique(values[known], return_inverse=True)
    return labels, [str(label) for label in classes]


def _labels_by_index(records, label_feature, spec):
    read = records.reader()

    def label(index):
        return index, tf.io.parse_single_example(read(index), spec)[label_feature]

    readable = (
        tf.data.Dataset.range(records.size)
        .map(label, num_parallel_calls=os.cpu_count())
        .ignore_errors(log_warning=False)
        .batch(LABELS_AT_ONCE)
    )
    values = np.full(records.size, UNKNOWN)
    with _progress(records.size) as bar:
        for indices, labels in without_tuning(readable).as_numpy_iterator():
            values[indices] = labels
            bar.update(len(labels))
    return values


def _concatenated(batches, size):
    found = []
    with _progress(size) as bar:
        for batch in batches.as_numpy_iterator():
            found.append(batch)
            bar.update(len(batch))
    return np.concatenate(found)


def _progress(size):
    # tqdm's None: no bar where there is no terminal.
    return tqdm(total=size, desc="labels", unit="record", disable=None)


def _example(read, index):
    """The `tf.train.Example` at an index, or None where it cannot be read."""
    try:
        return tf.train.Example.FromString(read(tf.constant(index, tf.int64)).numpy())
    except (tf.errors.OpError, DecodeError):
        return None


def _names(example):
    names = sorted(example.features.feature)
    return ", ".join(names[:20]) or "of which it has none"


def _encoded(image_feature):
    """From a payload to the uint8 `[H, W, 3]` of the image file in it."""
    spec = {image_feature: tf.io.FixedLenFeature([], tf.string)}
    return lambda payload: decode(tf.io.parse_single_example(payload, spec)[image_feature])


def _raw(image_feature, channels):
    """From a payload to the uint8 `[H, W, channels]` in it."""
    bytes_, number = tf.io.FixedLenFeature([], tf.string), tf.io.FixedLenFeature([], tf.int64)
    spec = {image_feature: bytes_, FORMAT: bytes_, **dict.fromkeys(SHAPE, number)}

    def array(payload):
        features = tf.io.parse_single_example(payload, spec)
        pixels = tf.io.decode_raw(features[image_feature], tf.uint8)
        shape = tf.stack([features[side] for side in SHAPE])
        right = (tf.strings.lower(features[FORMAT]) == RAW) & (tf.reduce_min(shape) > 0)
        check = tf.raw_ops.Assert(condition=right, data=["no raw array:", shape])
        with tf.control_dependencies([check]):
            return tf.ensure_shape(tf.reshape(pixels, shape), [None, None, channels])

    return array
