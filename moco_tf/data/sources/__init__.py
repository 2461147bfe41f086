"""Data sources. A string names a source, and every image of a source has a stable index."""

import os
from collections.abc import Sequence
from typing import Any

import ml_collections

from moco_tf.data.sources.source import SOURCE_NAMES, Source
from moco_tf.errors import UserError
from moco_tf.names import printable
from moco_tf.paths import expand, expand_source, names_in


def load(
    name: str,
    image_feature: str = "image/encoded",
    label_feature: str = "image/class/label",
    tfds_dir: str = "",
    weights: Sequence[float] = (),
) -> Source:
    """Open a data source.

    Args:
        name: One of the following. In a path, `~` and environment variables are expanded.

            - `"photos"`: patches of the sample photographs that scikit-image and scikit-learn ship;
            - `"folder:PATH"`: a folder of JPEG, PNG, GIF, BMP and WebP files;
            - `"files:LIST"`: the image files in a list, a text file with a path on each line;
            - `"npy:FILE"`: an array of images in a file of `numpy.save`;
            - `"idx:PATH"`: a folder of IDX files, the format of MNIST and Fashion-MNIST;
            - `"tfrecord:GLOB"`: the TFRecord files that match a pattern;
            - `"arrayrecord:GLOB"`: the ArrayRecord files that match a pattern;
            - `"webdataset:GLOB"`: the tar files of WebDataset that match a pattern;
            - `"parquet:GLOB"`: the Parquet files with a column of images that match a pattern, as
              on the Hugging Face hub;
            - `"tfds:NAME[/CONFIG][:VERSION][:SPLIT]"`: a data set of tensorflow-datasets;
            - several of them, separated by semicolons: the images of all of them.
        image_feature: Feature of a `tfrecord` or `arrayrecord` record that holds the encoded image.
            Another value than the default also chooses the extension of the images in `webdataset`
            files, or the column of `parquet` files.
        label_feature: The same for the label; `""` for no labels.
        tfds_dir: Directory of tensorflow-datasets; `""` for its default.
        weights: How often pre-training uses the images of each of several sources, relative to the
            others; none to use every image equally often.

    Returns:
        A `Source`.

    Raises:
        UserError: If the name has none of these forms, or the data cannot be read.

    Example:
        >>> source = load("photos")
        >>> source.size, len(source.class_names)
        (9934, 19)
    """
    name = expand_source(name)
    if tfds_dir:
        tfds_dir = expand(tfds_dir, "tfds_dir")
    names = names_in(name)
    if len(names) > 1:
        from moco_tf.data.sources import mixture

        parts = [load(part, image_feature, label_feature, tfds_dir) for part in names]
        return mixture.mix(printable(name), parts, weights)
    if weights:
        raise UserError(
            f"config.data.weights={tuple(weights)} has no effect on one source, '{name}': name "
            "several, separated by semicolons"
        )
    # Readers are imported when they are used: tensorflow-datasets alone takes seconds.
    scheme, _, location = name.partition(":")
    name = printable(name)
    if name == "photos":
        from moco_tf.data.sources import photos

        return photos.load()
    if scheme == "folder" and location:
        from moco_tf.data.sources import folder

        return folder.load(name, location)
    if scheme == "files" and location:
        from moco_tf.data.sources import files

        return files.load(name, location)
    if scheme == "npy" and location:
        from moco_tf.data.sources import npy

        return npy.load(name, location)
    if scheme == "idx" and location:
        from moco_tf.data.sources import idx

        return idx.load(name, location)
    if scheme == "tfrecord" and location:
        from moco_tf.data.sources import tfrecord

        return tfrecord.load(name, location, image_feature, label_feature)
    if scheme == "arrayrecord" and location:
        from moco_tf.data.sources import arrayrecord

        return arrayrecord.load(name, location, image_feature, label_feature)
    if scheme == "webdataset" and location:
        from moco_tf.data.sources import webdataset

        return webdataset.load(name, location, image_feature, label_feature)
    if scheme == "parquet" and location:
        from moco_tf.data.sources import parquet

        return parquet.load(name, location, image_feature, label_feature)
    if scheme == "tfds" and location:
        from moco_tf.data.sources import tfds

        return tfds.load(name, location, tfds_dir)
    is_path = ":" not in name and ("/" in name or os.path.isdir(name))
    hint = f"did you mean folder:{name}? " if is_path else ""
    raise UserError(f"unknown data source '{name}': {hint}use {SOURCE_NAMES}")


def from_config(config: ml_collections.ConfigDict) -> Source:
    """Open the data source that a config names.

    Args:
        config: A config with the keys of `moco_tf.default_config`.

    Returns:
        A `Source`.

    Raises:
        UserError: As `load`.
    """
    # Runs of earlier versions have no weights.
    weights = config.data.get("weights", ())
    return load(config.data.source, **options(config), weights=weights)


def options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the settings of a config that are keyword arguments of `load`."""
    return {key: config.data[key] for key in ("image_feature", "label_feature", "tfds_dir")}
