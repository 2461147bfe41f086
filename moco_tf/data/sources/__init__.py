"""Data sources. A string names a source, and every image of a source has a stable index."""

import dataclasses
import inspect
import os
from collections.abc import Sequence
from typing import Any

import ml_collections

from moco_tf.data.pixels import AUTO, DTYPES, WHOLE_RANGES, Form, parse_range
from moco_tf.data.sources.source import SOURCE_NAMES, Source
from moco_tf.errors import UserError
from moco_tf.names import printable
from moco_tf.paths import expand, expand_source, names_in

# The sources of image files, whose channels can be chosen and which may have an orientation.
FILE_SCHEMES = ("folder:", "files:")
# The settings `config.data.NAME` that are keyword arguments of `load`.
OPTIONS = (
    *("image_feature", "label_feature", "tfds_dir"),
    *("pixels", "channels", "value_range", "orientation", "frame_seconds"),
)
FRAME_SECONDS = 1.0  # The default, which is no mistake for a source without videos.


def load(
    name: str,
    image_feature: str = "image/encoded",
    label_feature: str = "image/class/label",
    tfds_dir: str = "",
    pixels: str = "uint8",
    channels: int = 0,
    value_range: str = AUTO,
    orientation: bool = False,
    frame_seconds: float = FRAME_SECONDS,
    weights: Sequence[float] = (),
) -> Source:
    """Open a data source.

    Args:
        name: One of the following. In a path, `~` and environment variables are expanded.

            - `"photos"`: patches of the sample photographs that scikit-image and scikit-learn ship;
            - `"folder:PATH"`: a folder of JPEG, PNG, GIF, BMP, WebP, TIFF and DICOM files;
            - `"files:LIST"`: the image files in a list, a text file with a path on each line;
            - `"npy:FILE"`: an array of images in a file of `numpy.save`;
            - `"idx:PATH"`: a folder of IDX files, the format of MNIST and Fashion-MNIST;
            - `"tfrecord:GLOB"`: the TFRecord files that match a pattern;
            - `"arrayrecord:GLOB"`: the ArrayRecord files that match a pattern;
            - `"webdataset:GLOB"`: the tar files of WebDataset that match a pattern;
            - `"parquet:GLOB"`: the Parquet files with a column of images that match a pattern, as
              on the Hugging Face hub;
            - `"video:PATH"`: the frames of a video file, or of those below a folder; needs PyAV;
            - `"tfds:NAME[/CONFIG][:VERSION][:SPLIT]"`: a data set of tensorflow-datasets;
            - several of them, separated by semicolons: the images of all of them.
        image_feature: Feature of a `tfrecord` or `arrayrecord` record that holds the encoded image.
            Another value than the default also chooses the extension of the images in `webdataset`
            files, or the column of `parquet` files.
        label_feature: The same for the label; `""` for no labels.
        tfds_dir: Directory of tensorflow-datasets; `""` for its default.
        pixels: Type of the pixel values: `"uint8"`, or `"uint16"` or `"float32"` (folder, files and
            npy sources only).
        channels: Number of channels (folder and files sources only); 0 for RGB.
        value_range: Pixel values of black and white, such as `"0,4095"`; `"auto"` for the whole
            range of an integer type; or `"measure"` for percentiles of a sample.
        orientation: Whether to turn images as their EXIF orientation says (folder and files sources
            only).
        frame_seconds: Seconds between the frames of a `video` source; 0 for all frames. In a
            mixture, it applies to the parts that are videos.
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
    if frame_seconds != FRAME_SECONDS and not has_videos(name):
        raise UserError(
            f"config.data.frame_seconds={frame_seconds} applies to video sources only: leave it at "
            f"{FRAME_SECONDS} for '{printable(name)}'"
        )
    names = names_in(name)
    if len(names) > 1:
        from moco_tf.data.sources import mixture

        if orientation and not any(part.startswith(FILE_SCHEMES) for part in names):
            raise UserError(_no_orientation(printable(name)))
        options = (image_feature, label_feature, tfds_dir, pixels, channels, value_range)
        parts = [
            load(
                part,
                *options,
                orientation and part.startswith(FILE_SCHEMES),
                frame_seconds if has_videos(part) else FRAME_SECONDS,
            )
            for part in names
        ]
        return mixture.mix(printable(expand_source(name)), parts, weights)
    if weights:
        raise UserError(
            f"config.data.weights={tuple(weights)} has no effect on one source, '{name}': name "
            "several, separated by semicolons"
        )
    if pixels not in DTYPES:
        raise UserError(f"pixels={pixels!r}: use {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    values = parse_range(value_range, pixels)
    form = Form(pixels, channels or 3, orientation)
    try:
        source = _open(name, image_feature, label_feature, tfds_dir, form, frame_seconds)
    except UserError as error:
        if ";" not in name:
            raise
        raise UserError(
            f"{error}; if several sources were meant, each has to begin with its kind, such as "
            f"folder:{printable(name.rpartition(';')[2].strip())}"
        ) from error
    _require_effect(source, pixels, channels, orientation)
    if values is None:
        from moco_tf.data import measure

        values = measure.value_range(source)
    changed: dict[str, Any] = {
        "image_feature": image_feature,
        "label_feature": label_feature,
        "pixels": pixels,
        "channels": 0 if channels == 3 else int(channels),  # 0 means 3, too.
        "orientation": bool(orientation),
        "frame_seconds": float(frame_seconds),
    }
    # Without tfds_dir: the same images may be in another directory elsewhere.
    defaults = inspect.signature(load).parameters
    changed = {key: value for key, value in changed.items() if value != defaults[key].default}
    if values != WHOLE_RANGES.get(pixels):
        changed["value_range"] = list(values)
    return dataclasses.replace(source, value_range=values, options=changed)


def _require_effect(source: Source, pixels: str, channels: int, orientation: bool) -> None:
    """Raise a `UserError` if a setting has no effect on a source."""
    is_files = source.name.startswith(FILE_SCHEMES)
    if pixels != source.dtype:
        raise UserError(
            f"config.data.pixels={pixels} applies to folder, files and npy sources only: leave it "
            f"at {source.dtype} for '{source.name}'"
        )
    if channels not in (0, source.channels):
        raise UserError(
            f"config.data.channels={channels} does not fit '{source.name}', whose images have "
            f"{source.channels} channels: leave it at 0"
        )
    if orientation and not is_files:
        raise UserError(_no_orientation(source.name))


def _no_orientation(name: str) -> str:
    return (
        "config.data.orientation=True applies to folder and files sources only: leave it at False "
        f"for '{name}'"
    )


def _open(
    name: str,
    image_feature: str,
    label_feature: str,
    tfds_dir: str,
    form: Form,
    frame_seconds: float,
) -> Source:
    """Open a data source; the value range of its pixels is still that of bytes."""
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

        return folder.load(name, location, form)
    if scheme == "files" and location:
        from moco_tf.data.sources import files

        return files.load(name, location, form)
    if scheme == "npy" and location:
        from moco_tf.data.sources import npy

        return npy.load(name, location, form.dtype)
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
    # Runs of earlier versions have no weights.
    weights = config.data.get("weights", ())
    return load(config.data.source, **options(config), weights=weights)


def options(config: ml_collections.ConfigDict, name: str = "") -> dict[str, Any]:
    """Return the settings of a config that are keyword arguments of `load`.

    Args:
        config: A config with the keys of `moco_tf.default_config`.
        name: The source that they are for, if it is another one than that of the config. Options
            that would be refused are left out: `frame_seconds` unless it has videos, and
            `orientation` unless it has image files.
    """
    left_out = set()
    if name and not has_videos(name):
        left_out.add("frame_seconds")
    if name and not any(part.startswith(FILE_SCHEMES) for part in names_in(name)):
        left_out.add("orientation")
    return {key: config.data[key] for key in OPTIONS if key not in left_out}


def has_videos(name: str) -> bool:
    """Return whether a string names a `video` source, or a mixture that has one.

    Example:
        >>> has_videos("photos;video:clips"), has_videos("photos")
        (True, False)
    """
    return any(part.startswith("video:") for part in names_in(name))
