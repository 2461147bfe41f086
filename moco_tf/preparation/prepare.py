"""The images of a source at a bounded size, written to a few large files."""

import glob
import itertools
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf.data.sources.layout import TEST, TRAIN, UNLABELED
from moco_tf.data.sources.record_parts import HELD_OUT, LABEL_NAMES_FILE
from moco_tf.data.sources.source import Source, require_source
from moco_tf.errors import UserError
from moco_tf.files import read_json
from moco_tf.names import printable
from moco_tf.output_directory import OutputDirectory, source_facts
from moco_tf.paths import expand_argument
from moco_tf.preparation.results import Result, results
from moco_tf.preparation.settings import (
    FORMATS,
    IMAGES_PER_FILE,
    MAX_QUALITY,
    MAX_SIDE,
    QUALITY,
)
from moco_tf.preparation.writers import WRITERS, Item
from moco_tf.progress_bar import ProgressBar, progress_bar
from moco_tf.ranges import COUNT, Range, checked
from moco_tf.shards import require_shard

QUALITIES = Range(minimum=1, maximum=MAX_QUALITY, is_whole=True)
DROPPED_FILE = "dropped.tsv"


class Outcome(NamedTuple):
    """What a call of `prepare` has written, and what the directory holds now.

    Attributes:
        data: The data source that the directory is once it is complete.
        num_files: Number of the files that this call has written.
        is_complete: Whether the directory now has all of its files.
        num_images: Number of the images in the directory.
        num_copied: Number of those whose files were copied as they are.
        num_dropped: Number of the images that cannot be read and were left out.
        source_bytes: Size of the files of those images in the source; 0 for arrays.
        bytes: Size of their files now.
    """

    data: str
    num_files: int
    is_complete: bool
    num_images: int
    num_copied: int
    num_dropped: int
    source_bytes: int
    bytes: int


def prepare(
    source: Source,
    out: str | os.PathLike[str],
    *,
    format: str = "tfrecord",
    max_side: int = MAX_SIDE,
    quality: int = QUALITY,
    images_per_file: int = IMAGES_PER_FILE,
    shard: tuple[int, int] = (0, 1),
) -> Outcome:
    """Write the images of a source to files from which training reads them faster.

    Images are shrunk until their longer side has `max_side` pixels, and none is enlarged. Those
    that cannot be read are left out; their names and the reasons are in `dropped.tsv`. The result
    is a data source with the same labels, class names and parts. A label is an index into the
    `class_names` of the source, and `labels.txt` has the name of each. All cores are used. Files
    are written atomically. If the call is interrupted, the same call writes the files that are
    missing.

    Args:
        source: The result of `moco_tf.load_source`, with RGB images.
        out: Directory to write to, local or a path of TensorFlow such as `gs://...`: a new one, or
            one that an earlier call with the same arguments wrote.
        format: `"tfrecord"`, `"arrayrecord"` or `"webdataset"`.
        max_side: Maximum of the longer side in pixels, 1 or greater.
        quality: Quality of the JPEG files, 1 to 95. Images that are small enough are copied.
        images_per_file: Number of images of a file, 1 or greater.
        shard: `(i, n)` with i in [0, n): this call writes every n-th file, starting with file i. In
            this way n machines share the work without communication.

    Returns:
        An object with `data`, the source to open; `num_files`; `is_complete`, whether the
        directory now has all of its files; the numbers of images `num_images`, `num_copied` and
        `num_dropped`; and `source_bytes` and `bytes`, the sizes before and after.

    Raises:
        UserError: If an argument is of the wrong kind or out of range, the images are not RGB, the
            directory holds other files, cannot be written or was written from other images, or none
            of the images can be read.

    Example:
        >>> import moco_tf
        >>> outcome = moco_tf.prepare(moco_tf.load_source("photos"), "prepared")
        >>> outcome.num_images
        9934
        >>> moco_tf.load_source(outcome.data).class_names[:2]
        ['astronaut', 'brick']
    """
    require_source(source)
    path = expand_argument(out, "out")
    _check_arguments(source, format, shard)
    max_side = checked("max_side", max_side, COUNT)
    quality = checked("quality", quality, QUALITIES)
    images_per_file = checked("images_per_file", images_per_file, COUNT)
    parts = _parts(source)
    facts = {
        **source_facts(source),
        "num_images": {name: len(indices) for name, indices in parts.items()},
        "format": format,
        "max_side": max_side,
        "quality": quality,
        "images_per_file": images_per_file,
    }
    directory = OutputDirectory(path, facts, (), "prepared images")
    if source.class_names:
        lines = [f"{label}:{name}\n" for label, name in enumerate(source.class_names)]
        directory.write_again(LABEL_NAMES_FILE, "".join(lines))
    files = _files(path, parts, images_per_file, format)
    missing = [file for file in files[shard[0] :: shard[1]] if not file.exists()]
    _write_files(source, directory, missing, format, max_side, quality)
    reports = [read_json(file.report) for file in files if file.exists()]
    dropped = [line for report in reports for line in report["dropped"]]
    outcome = Outcome(
        data=f"{format}:{os.path.join(glob.escape(path), '*' + WRITERS[format][0])}",
        num_files=len(missing),
        is_complete=len(reports) == len(files),
        num_images=sum(report["images"] for report in reports),
        num_copied=sum(report["copied"] for report in reports),
        num_dropped=len(dropped),
        source_bytes=sum(report["source_bytes"] for report in reports),
        bytes=sum(report["bytes"] for report in reports),
    )
    if outcome.is_complete and dropped:
        directory.write_again(DROPPED_FILE, "".join(f"{n}\t{why}\n" for n, why in dropped))
        if not outcome.num_images:
            raise UserError(
                f"data source '{source.name}': none of the {len(dropped):,} images can be read: "
                f"{os.path.join(path, DROPPED_FILE)} says why"
            )
    return outcome


class _File(NamedTuple):
    """A file of the directory, the report on it, and the indices of its images in the source."""

    path: str
    report: str
    indices: np.ndarray

    def exists(self) -> bool:
        return tf.io.gfile.exists(self.path) and tf.io.gfile.exists(self.report)


def _check_arguments(source: Source, format: str, shard: tuple[int, int]) -> None:
    if format not in FORMATS:
        raise UserError(f"format={format}: choose one of {', '.join(FORMATS)}")
    require_shard(shard)
    if source.channels != 3 or source.dtype != "uint8":
        raise UserError(
            f"data source '{source.name}' has images with {source.channels} channels of the type "
            f"{source.dtype}, but only RGB images with 8 bits per channel can be prepared: train "
            "on them as they are"
        )


def _parts(source: Source) -> dict[str, np.ndarray]:
    """Return the indices of the images of each part, by the word in the names of its files.

    These words are such that `record_parts.split` finds the same split. Images that neither
    training nor evaluation uses are left out.
    """
    is_pretrain, is_train, is_test = np.zeros((3, source.size), bool)
    is_pretrain[source.pretrain] = is_train[source.train] = is_test[source.test] = True
    masks = {
        TRAIN: is_train,
        HELD_OUT: is_test & is_pretrain,
        TEST: is_test & ~is_pretrain,
        UNLABELED: is_pretrain & ~is_train & ~is_test,
    }
    return {name: np.flatnonzero(mask) for name, mask in masks.items() if mask.any()}


def _files(
    path: str, parts: dict[str, np.ndarray], images_per_file: int, format: str
) -> list[_File]:
    files = []
    for part, indices in parts.items():
        count = -(-len(indices) // images_per_file)
        for number in range(count):
            name = f"{part}-{number:05}-of-{count:05}"
            of_file = indices[number * images_per_file : (number + 1) * images_per_file]
            file_path = os.path.join(path, name + WRITERS[format][0])
            files.append(_File(file_path, os.path.join(path, f"_{name}.json"), of_file))
    return files


def _write_files(
    source: Source,
    directory: OutputDirectory,
    files: list[_File],
    format: str,
    max_side: int,
    quality: int,
) -> None:
    """Write files. Images are read in one pass over all of them, so that no core waits."""
    if not files:
        return
    write = WRITERS[format][1]
    indices = np.concatenate([file.indices for file in files])
    prepared = results(source, indices, max_side, quality)
    with progress_bar(len(indices), "images", "image") as bar:
        for file in files:
            report: dict[str, Any] = dict(images=0, copied=0, source_bytes=0, bytes=0, dropped=[])
            of_file = itertools.islice(prepared, len(file.indices))

            def write_both(
                paths: list[str],
                of_file: Iterator[Result] = of_file,
                report: dict[str, Any] = report,
            ) -> None:
                write(paths[0], _items(source, of_file, report, bar))
                with open(paths[1], "w", encoding="utf-8") as report_file:
                    json.dump(report, report_file)

            directory.write([file.path, file.report], write_both)


def _items(
    source: Source, results: Iterator[Result], report: dict[str, Any], bar: ProgressBar
) -> Iterator[Item]:
    """Yield the images to write, and add them and the others to a report."""
    labels, class_names = source.labels, source.class_names
    for result in results:
        bar.update()
        name = source.describe(result.index)
        if result.image is None:
            report["dropped"].append([name, printable(result.reason)])
            continue
        report["images"] += 1
        report["copied"] += result.image.is_copy
        report["source_bytes"] += result.source_bytes
        report["bytes"] += len(result.image.contents)
        label = int(labels[result.index]) if labels is not None else -1
        class_name = class_names[label] if class_names and label >= 0 else None
        yield Item(result.index, name, result.image, label if label >= 0 else None, class_name)
