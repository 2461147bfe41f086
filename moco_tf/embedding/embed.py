"""The features of all images of a source, written to files."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from moco_tf.data.sources.indices import Indices
from moco_tf.data.sources.source import Source, require_source
from moco_tf.data.unreadable import MAX_NAMES
from moco_tf.data.views import central_view
from moco_tf.embedding.directory import EmbeddingDirectory
from moco_tf.embedding.formats import Rows
from moco_tf.embedding.settings import DTYPES, FORMATS, ROWS_PER_FILE
from moco_tf.encoders import preprocessing
from moco_tf.errors import UserError
from moco_tf.evaluation.extraction import Extractor, feature_step
from moco_tf.evaluation.features import Features, normalize, require_finite
from moco_tf.evaluation.networks import network_checksum
from moco_tf.files import error_reason
from moco_tf.output_directory import source_facts
from moco_tf.paths import expand_argument
from moco_tf.progress_bar import progress_bar
from moco_tf.ranges import COUNT, checked, checked_bool
from moco_tf.shards import require_shard
from moco_tf.workers import several_workers


class Outcome(NamedTuple):
    """What a call of `embed` has written.

    Attributes:
        num_files: Number of the files that were written.
        num_images: Number of the images in them.
        num_unreadable: Number of the images of the shard that cannot be read, also those in files
            of earlier calls.
        unreadable: Names of the first of them, at most 10.
        is_complete: Whether the directory now has all of its files.
    """

    num_files: int
    num_images: int
    num_unreadable: int
    unreadable: list[str]
    is_complete: bool


def embed(
    backbone: Callable[[tf.Tensor], tf.Tensor],
    source: Source,
    out: str | os.PathLike[str],
    image_size: int,
    *,
    part: str = "all",
    format: str = "parquet",
    dtype: str = "float32",
    normalize: bool = False,
    rows_per_file: int = ROWS_PER_FILE,
    shard: tuple[int, int] = (0, 1),
    facts: Mapping[str, Any] | None = None,
) -> Outcome:
    """Write the features of the images of a source to files of `rows_per_file` rows.

    Every image has a row, in the order of the source. Its `label` is an index into the sorted
    `class_names` of this source; compare images of different sources by `class_name`. Files are
    written atomically. If the call is interrupted, the same call writes the files that are missing.
    The replicas of the current `tf.distribute` strategy share the work. The rows of one file and
    about 40 bytes for each image are held in memory.

    Args:
        backbone: Callable from images, float32 `[N, size, size, channels]` in the value range of
            the source, which is [0, 255] for 8 bits per channel, to features `[N, D]`, such as the
            result of `moco_tf.load_backbone`. A model of `moco_tf.encoders.build` gets its
            normalization.
        source: The result of `moco_tf.load_source`.
        out: Directory to write to, local or a path of TensorFlow such as `gs://...`: a new one, or
            one that an earlier call with the same arguments wrote.
        image_size: Side of the central view in pixels, as for `moco_tf.extract_features`.
        part: `"all"`, `"train"`, `"test"` or `"pretrain"`, as for `moco_tf.extract_features`.
        format: `"parquet"`; `"npy"`, a NumPy file with the features and a CSV file with the other
            columns; or `"csv"`.
        dtype: Data type of the features in the files, `"float32"` or `"float16"`.
        normalize: Whether to divide each feature by its L2 norm.
        rows_per_file: Number of rows of a file, 1 or greater.
        shard: `(i, n)` with i in [0, n): this call writes every n-th file, starting with file i. In
            this way n machines share the work without communication.
        facts: Further facts about the backbone for the metadata, as values of JSON. They are
            required if the backbone has neither `weights` nor `variables`, because only they then
            tell it from another backbone. Other backbones are recognized by their weights and, if
            they are layers or models of Keras, by the arguments and connections of their layers.

    Returns:
        An object with `num_files` and `num_images`, the numbers of files and images that were
        written; `num_unreadable` and `unreadable`, the number of images that cannot be read and
        the names of the first of them; and `is_complete`, whether the directory now has all of
        its files.

    Raises:
        UserError: If an argument is of the wrong kind or out of range, there is no such part, the
            directory holds other files, cannot be written or was written from other images, a
            feature is NaN or infinity, or none of the images can be read.

    Example:
        >>> import pandas as pd
        >>> import moco_tf
        >>> source = moco_tf.load_source("photos")
        >>> backbone = moco_tf.encoders.random_backbone("resnet8", stem="small")
        >>> moco_tf.embed(backbone, source, "features", image_size=32, part="test").num_images
        1818
        >>> table = pd.read_parquet("features")
        >>> len(table), len(table["features"][0])
        (1818, 64)
    """
    require_source(source)
    normalize = checked_bool("normalize", normalize)
    path = expand_argument(out, "out")
    indices = source.part(part)
    image_size = checked("image_size", image_size, COUNT)
    preprocessing.require_images(backbone, source, image_size)
    rows_per_file = checked("rows_per_file", rows_per_file, COUNT)
    _check_arguments(format, dtype, shard)
    if not len(indices):
        raise UserError(f"data source '{source.name}' has no images in the part '{part}'")
    # Before its network is recognized in the directory.
    backbone = preprocessing.for_images(backbone)
    weights_checksum = _weights_checksum(backbone)
    if weights_checksum is None and not facts:
        raise UserError(
            "the backbone has no weights, by which its features would be recognized: "
            "set facts, such as {'name': 'mean color'}"
        )
    directory = EmbeddingDirectory(
        path,
        {
            "backbone": dict(facts or {}),
            "weights_checksum": weights_checksum,
            "network_checksum": network_checksum(backbone),
            **source_facts(source),
            "part": part,
            "num_images": len(indices),
            "image_size": image_size,
            "format": format,
            "dtype": dtype,
            "normalized": normalize,
            "rows_per_file": rows_per_file,
        },
    )
    numbers = directory.missing(shard)
    num_images = 0
    for number, features, is_readable in _files(backbone, source, indices, directory, numbers):
        of_file = indices[directory.positions(number)]
        features = _as_written(features, is_readable, dtype, normalize)
        directory.write(number, _rows(source, of_file, features, is_readable, image_size))
        num_images += len(of_file)
    # Those of earlier calls too, so that the same call reports them again.
    unreadable = directory.unreadable(shard)
    if unreadable and len(unreadable) == directory.num_images(shard):
        raise UserError(
            f"data source '{source.name}': none of the {len(unreadable):,} images can be read: the "
            f"column 'error' of the files in {path} says why"
        )
    is_complete = not directory.missing((0, 1))
    return Outcome(len(numbers), num_images, len(unreadable), unreadable[:MAX_NAMES], is_complete)


def _check_arguments(format: str, dtype: str, shard: tuple[int, int]) -> None:
    for name, value, choices in (("format", format, FORMATS), ("dtype", dtype, DTYPES)):
        if value not in choices:
            raise UserError(f"{name}={value}: choose one of {', '.join(choices)}")
    require_shard(shard)
    if several_workers():
        raise UserError(
            "several workers cannot write features together: run an independent process on each "
            "machine, and give each its own shard"
        )


def _files(
    backbone: Callable[[tf.Tensor], tf.Tensor],
    source: Source,
    indices: Indices,
    directory: EmbeddingDirectory,
    numbers: list[int],
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield the number of each file, the features of its rows, and which images can be read.

    The images are read in one pass over all files, so that no device waits between two files.
    """
    if not numbers:
        return
    positions = np.concatenate([directory.positions(number) for number in numbers])
    image_size = directory.facts["image_size"]
    extractor = Extractor(source, indices[positions], image_size)
    files = deque((number, len(directory.positions(number))) for number in numbers)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    done = 0
    with progress_bar(len(positions), "features", "image") as bar:
        for batch in extractor.batches(feature_step(backbone)):
            parts.append(batch)
            while files and sum(len(found) for found, _ in parts) >= files[0][1]:
                number, size = files.popleft()
                found, features = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
                yield number, features[:size], found[:size] >= 0
                parts = [(found[size:], features[size:])]
            new = min(len(batch[0]), len(positions) - done)  # The last batch is filled up.
            done += new
            bar.update(new)


def _as_written(
    features: np.ndarray, is_readable: np.ndarray, dtype: str, unit_length: bool
) -> np.ndarray:
    """Return features as they are written; those of images that cannot be read are NaN."""
    written = np.full(features.shape, np.nan, dtype)
    found = features[is_readable]
    require_finite(Features(found, np.flatnonzero(is_readable), None))
    with np.errstate(over="ignore"):
        written[is_readable] = normalize(found) if unit_length else found
    if np.isinf(written).any():
        raise UserError(
            f"dtype={dtype}: the largest feature is {np.abs(found).max():g}, which float16 cannot "
            "represent: use float32, or normalize the features"
        )
    return written


def _rows(
    source: Source,
    indices: np.ndarray,
    features: np.ndarray,
    is_readable: np.ndarray,
    image_size: int,
) -> Rows:
    errors: list[str | None] = [None] * len(indices)
    for row in np.flatnonzero(~is_readable):
        errors[row] = _why_unreadable(source, int(indices[row]), image_size)
    return Rows(
        features,
        indices,
        [source.describe(int(index)) for index in indices],
        errors,
        None if source.labels is None else source.labels[indices],
        source.class_names,
    )


def _why_unreadable(source: Source, index: int, image_size: int) -> str:
    try:
        central_view(source.read(tf.constant(index, tf.int64)), image_size)
    except tf.errors.OpError as error:
        return error_reason(error)
    return "it could not be read at first, but can be read now"


def _weights_checksum(backbone: Callable[[tf.Tensor], tf.Tensor]) -> str | None:
    """Return the SHA-256 checksum of the weights; None if the backbone has none."""
    weights = getattr(backbone, "weights", None) or getattr(backbone, "variables", None)
    if not weights:
        return None
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(keras.ops.convert_to_numpy(weight).tobytes())
    return digest.hexdigest()
