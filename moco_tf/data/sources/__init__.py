"""Data sources. A string names a source, and every image of a source has a stable index."""

import dataclasses
import inspect
import os
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from moco_tf.data.pixels import AUTO, DTYPES, WHOLE_RANGES, Form, parse_range
from moco_tf.data.sources.source import SOURCE_NAMES, Source
from moco_tf.errors import UserError
from moco_tf.names import printable
from moco_tf.paths import expand, expand_source, names_in
from moco_tf.ranges import NOT_NEGATIVE, Range, checked, checked_bool

# The sources of image files, whose channels can be chosen and which may have an orientation.
FILE_SCHEMES = ("folder:", "files:")
# The settings `config.data.NAME` that are keyword arguments of `load`.
OPTIONS = (
    *("image_feature", "label_feature", "tfds_dir"),
    *("pixels", "channels", "value_range", "orientation", "frame_seconds"),
)
# The kinds of sources that these options have an effect on. All others refuse them.
RECORD_SCHEMES = ("tfrecord:", "arrayrecord:", "webdataset:", "parquet:", "tfds:")
SCHEMES_OF_OPTION = {
    "image_feature": RECORD_SCHEMES,
    "label_feature": RECORD_SCHEMES,
    "tfds_dir": ("tfds:",),
    "orientation": FILE_SCHEMES,
    "frame_seconds": ("video:",),
}


def load(
    name: str | os.PathLike[str],
    image_feature: str = "image/encoded",
    label_feature: str = "image/class/label",
    tfds_dir: str = "",
    pixels: str = "uint8",
    channels: int = 0,
    value_range: str | Sequence[float] = AUTO,
    orientation: bool = False,
    frame_seconds: float = 1.0,
    weights: Sequence[float] = (),
) -> Source:
    """Open a data source.

    In a mixture of several sources, an option applies to those that it has an effect on.

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
            - several of them, separated by semicolons: the images of all of them;
            - a `pathlib.Path`: the folder of this path.
        image_feature: Feature of a `tfrecord` or `arrayrecord` record that holds the encoded image.
            Another value than the default also chooses the extension of the images in `webdataset`
            files, the column of `parquet` files, or the feature of a `tfds` data set.
        label_feature: The same for the label; `""` for no labels.
        tfds_dir: Directory of tensorflow-datasets; `""` for its default.
        pixels: Type of the pixel values: `"uint8"`, or `"uint16"` or `"float32"` (folder, files and
            npy sources only).
        channels: Number of channels (folder and files sources only); 0 for RGB.
        value_range: Pixel values of black and white, such as `(0, 4095)` or `"0,4095"`; `"auto"`
            for the whole range of an integer type; or `"measure"` for percentiles of a sample.
        orientation: Whether to turn images as their EXIF orientation says (folder and files sources
            only).
        frame_seconds: Seconds between the frames of a `video` source; 0 for all frames.
        weights: How often pre-training uses the images of each of several sources, relative to the
            others; none to use every image equally often.

    Returns:
        A `Source`, with `size`, the number of images; `labels`, int32 `[size]`, and `class_names`,
        or None without labels; the indices `train`, `test` and `pretrain` of its parts, int64; and
        `describe(index)`, the name of an image.

    Raises:
        UserError: If the name has none of these forms, the data cannot be read, or an option has no
            effect on it.

    Example:
        >>> import moco_tf
        >>> source = moco_tf.load_source("photos")
        >>> source.size, len(source.class_names)
        (9934, 19)
    """
    name = _name(name)
    if not isinstance(value_range, str):
        value_range = ",".join(map(str, np.asarray(value_range).ravel().tolist()))
    weights = _weights(weights)
    defaults = {key: inspect.signature(load).parameters[key].default for key in OPTIONS}
    limited: dict[str, Any] = {
        "image_feature": image_feature,
        "label_feature": label_feature,
        "tfds_dir": tfds_dir,
        "orientation": orientation,
        "frame_seconds": float(checked("frame_seconds", frame_seconds, NOT_NEGATIVE)),
    }
    limited["orientation"] = orientation = checked_bool("orientation", orientation)
    channels = checked("channels", channels, Range(minimum=0, is_whole=True))
    for key, value in limited.items():
        if value != defaults[key]:
            _require_effect(key, value, defaults[key], name)
    names = names_in(name)
    if len(names) > 1:
        from moco_tf.data.sources import mixture

        parts = [
            load(
                part,
                pixels=pixels,
                channels=channels,
                value_range=value_range,
                **{key: value for key, value in limited.items() if applies(key, part)},
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
    _require_pixels(source, pixels, channels)
    if values is None:
        from moco_tf.data import measure

        values = measure.value_range(source)
    changed: dict[str, Any] = {
        **limited,
        "pixels": pixels,
        "channels": 0 if channels == 3 else channels,  # 0 means 3, too.
    }
    del changed["tfds_dir"]  # The same images may be in another directory elsewhere.
    changed = {key: value for key, value in changed.items() if value != defaults[key]}
    if values != WHOLE_RANGES.get(pixels):
        changed["value_range"] = list(values)
    return dataclasses.replace(source, value_range=values, options=changed)


def _weights(weights: Any) -> tuple[float, ...]:
    """Return the weights of several sources as a tuple, after checking that they are numbers."""
    try:
        if not isinstance(weights, str):
            return tuple(map(float, weights))
    except (TypeError, ValueError):
        pass
    raise UserError(f"weights={weights!r:.100}: pass a list of numbers, such as [2, 1]")


def _name(name: Any) -> str:
    """Return the string that names a source, which may be given as the path of a folder."""
    if isinstance(name, str):
        return name
    if isinstance(name, os.PathLike):
        path = os.fsdecode(name)
        if os.path.isfile(path):
            raise UserError(
                f"the path {printable(path)} is that of a file: name its kind as well, such as "
                f"'npy:{printable(path)}' for an array or 'files:{printable(path)}' for a list of "
                "image files"
            )
        return f"folder:{path}"
    raise UserError(
        f"the name of the data source is of the type {type(name).__name__}: use {SOURCE_NAMES}. "
        "Save an array with numpy.save for npy:FILE, and the paths of image files, each on a line "
        "of a text, for files:LIST"
    )


def applies(option: str, name: str) -> bool:
    """Return whether an option has an effect on a source, or on a part of a mixture.

    Args:
        option: One of `OPTIONS`.
        name: The string that names the source.

    Example:
        >>> applies("frame_seconds", "photos;video:clips"), applies("frame_seconds", "photos")
        (True, False)
    """
    schemes = SCHEMES_OF_OPTION.get(option, ("",))
    return any(part.startswith(schemes) for part in names_in(name))


def _require_effect(option: str, value: Any, default: Any, name: str) -> None:
    """Raise a `UserError` if an option that was changed has no effect on a source."""
    if not applies(option, name):
        schemes = [scheme.rstrip(":") for scheme in SCHEMES_OF_OPTION[option]]
        kinds = " and ".join(filter(None, [", ".join(schemes[:-1]), schemes[-1]]))
        raise UserError(
            f"config.data.{option}={printable(str(value))} applies to {kinds} sources only: leave "
            f"it at {default!r} for '{printable(name)}'"
        )


def _require_pixels(source: Source, pixels: str, channels: int) -> None:
    """Raise a `UserError` if a source has other pixel values or another number of channels."""
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

        return tfds.load(name, location, tfds_dir, image_feature, label_feature)
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
    # Options without effect are left out, because runs of version 0.1 may have some.
    return load(config.data.source, **options(config, config.data.source), weights=weights)


def require_effect(config: ml_collections.ConfigDict) -> None:
    """Raise a `UserError` if the config of a new run has an option of no effect on its images.

    Args:
        config: A config with the keys of `moco_tf.default_config`.
    """
    parameters = inspect.signature(load).parameters
    for option in SCHEMES_OF_OPTION:
        value, default = config.data[option], parameters[option].default
        if value != default:
            _require_effect(option, value, default, config.data.source)


def options(config: ml_collections.ConfigDict, name: str = "") -> dict[str, Any]:
    """Return the settings of a config that are keyword arguments of `load`.

    Args:
        config: A config with the keys of `moco_tf.default_config`.
        name: The source that they are for, if it is another one than that of the config. Options
            that have no effect on it are left out.
    """
    return {key: config.data[key] for key in OPTIONS if not name or applies(key, name)}
