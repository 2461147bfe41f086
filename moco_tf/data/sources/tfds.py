"""Data sets of tensorflow-datasets, which lie in TFRecord files of its own making."""

import contextlib
import logging
import re
import sys

import numpy as np
from absl import logging as absl_logging

from moco_tf.data.sources import examples, records
from moco_tf.errors import UserError

PLACE = re.compile(r"(?P<data_set>[^:]+)(:(?P<version>[\d.*]+))?(:(?P<split>[A-Za-z_].*))?")


def load(name, place, data_dir):
    """A data set that is prepared, or that a network lets us prepare.

    For training is the split that is asked for, "train" by default. For testing is "test", or
    "validation" where "test" has no labels or is missing; where neither is left, a fifth of the
    split is held out.

    Args:
        name: the string that names the source.
        place: str, "NAME[/CONFIG][:VERSION][:SPLIT]"; SPLIT as in `tfds.load`, "train[:10%]" too.
        data_dir: str, where data sets lie; "" for the default of tensorflow-datasets.

    Returns:
        A `moco_tf.data.source.Source`.

    Raises:
        UserError: no such data set, version or split, one that cannot be prepared, is not in
            TFRecord files, or holds no images.
    """
    builder, split = open_prepared(name, place, data_dir)
    image, label, class_names = _features(name, builder)
    chosen, others = split_and_others(name, builder, split)

    found = records.scan(sorted(set().union(*map(files, [chosen, *others]))))
    train = indices(name, found, chosen)
    if not len(train):
        raise UserError(f"data source '{name}': there is no record in that split")
    if not _labelled(name, found, train, label):
        label = None
    tests = [indices(name, found, other) for other in others]
    tests = [t for t in tests if len(t) and (not label or _labelled(name, found, t, label))]
    if tests:
        parts = train, train, tests[0]
    else:
        held_out = found.held_out()[train]
        parts = train, train[~held_out], train[held_out]
    return examples.source(name, found, parts, image, label, class_names)


def open_prepared(name, place, data_dir):
    """The builder of a data set that is prepared, or that a network lets us prepare.

    Args:
        name, place, data_dir: of `load`.

    Returns:
        A `tfds.core.DatasetBuilder`, and the split that is asked for, a str.

    Raises:
        UserError: no such data set or version, one that cannot be prepared, or is not in TFRecord
            files.
    """
    given = PLACE.fullmatch(place)
    if not given:
        raise UserError(
            f"data source '{name}' is not of the form tfds:NAME[/CONFIG][:VERSION][:SPLIT]"
        )
    with _quiet():
        builder = _prepared(name, given["data_set"], given["version"], data_dir)
    if builder.info.file_format.value != "tfrecord":
        raise UserError(
            f"data source '{name}' lies in {builder.info.file_format.value} files in "
            f"{builder.data_path}: prepare it with tfds build --file_format=tfrecord"
        )
    return builder, given["split"] or "train"


def split_and_others(name, builder, split):
    """Which records of which files make up the split that is asked for, and those of "test" and
    "validation", in this order, where they share no file with it: file instructions, and a list of
    such.

    Raises:
        UserError: no such split.
    """
    splits = builder.info.splits
    chosen = _instructions(name, splits, split)
    others = [_instructions(name, splits, key) for key in ("test", "validation") if key in splits]
    return chosen, [other for other in others if not files(other) & files(chosen)]


def _prepared(name, data_set, version, data_dir):
    """The builder of a data set, prepared."""
    import tensorflow_datasets as tfds

    tfds.display_progress_bar(sys.stderr.isatty())
    # A version, be it any, makes tfds look for prepared files before it looks for code.
    wanted = f"{data_set}:{version or '*.*.*'}"
    try:
        builder = tfds.builder(wanted, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f"data source '{name}': tensorflow-datasets {tfds.__version__} knows no {wanted}, and "
            f"none is prepared in {data_dir or 'its default directory'}: name the directory of "
            "prepared data by --config.data.tfds_dir"
        ) from error
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(f"data source '{name}': {_one_line(error)}") from error
    if not builder.is_prepared():
        try:
            builder.download_and_prepare()
        except Exception as error:  # every data set has code of its own
            raise UserError(
                f"data source '{name}' is not in {builder.data_path} and cannot be prepared: "
                f"{_one_line(error)}; prepare it where that works, and name its directory by "
                "--config.data.tfds_dir"
            ) from error
    return builder


def _features(name, builder):
    """The names of the image's and the label's features, and those of the classes."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    keys = [*(builder.info.supervised_keys or ()), "image", "label"]
    of_kind = {
        kind: [key for key in keys if key in features and isinstance(features[key], kind)]
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    }
    images, labels = of_kind.values()
    if not images:
        raise UserError(
            f"data source '{name}' has no image: its features are {', '.join(features)}"
        )
    dtype = np.dtype(features[images[0]].np_dtype)
    if dtype != np.uint8:
        raise UserError(f"data source '{name}': its images are {dtype}, and views are uint8")
    if not labels:
        return images[0], None, None
    return images[0], labels[0], features[labels[0]].names


def _instructions(name, splits, split):
    """Which records of which files make up a split."""
    try:
        return splits[split].file_instructions
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(
            f"data source '{name}': there is no split '{split}': it has {', '.join(splits)}"
        ) from error


def files(instructions):
    """The paths of the files in which a split lies, a set."""
    return {str(instruction.filename) for instruction in instructions}


def indices(name, found, instructions):
    """The indices of a split's records among those of `moco_tf.data.records.Records`, int64."""
    parts = [np.zeros(0, np.int64)]
    for instruction in instructions:
        path = str(instruction.filename)
        first, end = found.firsts[found.paths.index(path) :][:2]
        if end - first != instruction.examples_in_shard:
            raise UserError(
                f"data source '{name}': {path} has {end - first} records where "
                f"{instruction.examples_in_shard} belong: prepare the data set again"
            )
        parts.append(first + instruction.skip + np.arange(instruction.take))
    return np.unique(np.concatenate(parts))


def _labelled(name, found, indices, label):
    """Whether the first record has a label: -1 is what tensorflow-datasets writes for none."""
    if label is None:
        return False
    value = examples.value(examples.first(name, found, indices)[1], label)
    return isinstance(value, int) and value >= 0


@contextlib.contextmanager
def _quiet():
    """Keeps warnings of each of a download's attempts off the terminal; the error tells it all."""
    urllib3 = logging.getLogger("urllib3")
    before = absl_logging.get_verbosity(), urllib3.level
    absl_logging.set_verbosity(absl_logging.ERROR)
    urllib3.setLevel(logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before[0])
        urllib3.setLevel(before[1])


def _one_line(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
