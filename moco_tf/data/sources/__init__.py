"""Data sources. A string names a source, and every image of a source has a stable index."""

import os
from typing import Any

import ml_collections

from moco_tf.data.sources.source import SOURCE_NAMES, Source
from moco_tf.errors import UserError
from moco_tf.names import printable
from moco_tf.paths import expand, expand_source

# The settings `data.NAME` that say how a source is read, arguments of `load`.
OPTIONS = ("image_feature", "label_feature", "tfds_dir", "frame_seconds")


def load(
    name: str,
    image_feature: str = "image/encoded",
    label_feature: str = "image/class/label",
    tfds_dir: str = "",
    frame_seconds: float = 1.0,
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
            - `"video:PATH"`: the frames of a video file, or of those below a folder; needs PyAV;
            - `"tfds:NAME[/CONFIG][:VERSION][:SPLIT]"`: a data set of tensorflow-datasets.
        image_feature: Feature of a `tfrecord` record that holds the encoded image.
        label_feature: Feature of a `tfrecord` record that holds the label; `""` for no labels.
        tfds_dir: Directory of tensorflow-datasets; `""` for its default.
        frame_seconds: Seconds between the frames of a `video` source; 0 for all frames.

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
    if scheme == "video" and location:
        from moco_tf.data.sources import video

        return video.load(name, location, frame_seconds)
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
    return load(config.data.source, **options(config))


def options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the settings of a config that are keyword arguments of `load`."""
    return {key: config.data[key] for key in OPTIONS}
