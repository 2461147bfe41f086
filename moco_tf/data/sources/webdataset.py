"""The `webdataset` source: tar files with images and their labels."""

import concurrent.futures
import functools
import json
import tarfile
import zlib

import numpy as np
import tensorflow as tf

from moco_tf.data.decoding import decode
from moco_tf.data.sources import labeled, tar_files
from moco_tf.data.sources.index_cache import cached
from moco_tf.data.sources.record_parts import label_names, matching_files, split
from moco_tf.data.sources.records import SCAN_THREADS, Records, read_in_python, read_range
from moco_tf.data.sources.source import Source
from moco_tf.data.sources.tfrecord import IMAGE_FEATURE, LABEL_FEATURE
from moco_tf.data.sources.walk import listed
from moco_tf.errors import UserError
from moco_tf.names import printable


def load(name: str, pattern: str, image_feature: str, label_feature: str) -> Source:
    """Open the samples in tar files, ordered by the paths of the files.

    The places of the images and the labels are found in one pass, and kept in an index; see
    `index_cache`. The places take 8 bytes of memory for each image. The parts of the data set are
    found as in the source `tfrecord`, and a file labels.txt may name the classes as there. An image
    without a label is for pre-training only.

    Args:
        name: The string that names the source.
        pattern: Path with the wildcards `*`, `?` or `[...]`.
        image_feature: Extension of the images, such as `"left.png"`. If it is that of TFRecord
            files, the first image of a sample.
        label_feature: Extension of the labels, or else their key in files with the extension
            `json`; `""` for no labels. If it is that of TFRecord files, `cls`, or else the key
            `label`.

    Returns:
        The source.

    Raises:
        UserError: If no file matches, there are no images, or as `tar_files.index` and
            `record_parts.split`.
    """
    image_name = "" if image_feature == IMAGE_FEATURE else image_feature
    label_name = "" if label_feature == LABEL_FEATURE else label_feature
    paths = matching_files(name, pattern, "tar")
    # Another kind than that of earlier versions, whose indices lack `has_end` or `further`.
    kind = f"webdataset-{zlib.crc32(f'4/{image_name}/{label_name}'.encode()):08x}"
    build = functools.partial(tar_files.index, image_name=image_name, label_name=label_name)
    with concurrent.futures.ThreadPoolExecutor(SCAN_THREADS) as pool:
        indices = list(pool.map(lambda path: cached(path, kind, build), paths))
    places = np.concatenate([index["places"] for index in indices])
    skipped, further = (sum(int(index[key]) for index in indices) for key in ("skipped", "further"))
    if not len(places):
        wanted = f"the extension {image_name}" if image_name else "the extension of an image"
        raise UserError(
            f"data source '{name}': no sample in the files has a file with {wanted}"
            + ("; set config.data.image_feature to that of the images" if skipped else "")
        )
    records = _records(paths, places, [len(index["places"]) for index in indices])
    labels, label_of_image = (
        _joined_labels(indices) if label_feature else ([], -np.ones(records.size))
    )
    read_file = records.reader()
    samples = "sample has" if skipped == 1 else "samples have"
    return labeled.make_source(
        name=name,
        read=lambda index: decode(read_file(index)),
        describe=lambda index: _describe(records, places, index),
        list_contents=records.list_contents,
        list_files=records.list_files,
        labels=labels,
        label_of_image=label_of_image.astype(np.int32),
        split=split(name, records),
        no_labels=f"no sample has a file with the extension {label_name or 'cls'}, or an integer "
        f"or a text as {label_name or 'label'} in its .json",
        labels_file="the tar files",
        notes=[
            *([f"ignored: {skipped:,} {samples} no image"] if skipped else []),
            *([_note_on_further_images(further)] if further else []),
            *_notes_on_ends(paths, indices),
        ],
        read_file=read_file,
        label_names=label_names(records),
    )


def _records(paths: list[str], places: np.ndarray, counts: list[int]) -> Records:
    first_indices = np.cumsum([0, *counts], dtype=np.int64)

    def contents(index: int) -> bytes:
        file = int(np.searchsorted(first_indices, index, side="right")) - 1
        return read_range(paths[file], *tar_files.unpack(int(places[index])))

    return Records(
        paths=paths,
        first_indices=first_indices,
        sizes=[tf.io.gfile.stat(path).length for path in paths],
        reader=lambda: read_in_python(contents),
    )


def _note_on_further_images(number: int) -> str:
    """Return a note on images that are not used, because a sample has one image."""
    return (
        f"ignored: {number:,} further images in samples of several. Files whose names are equal up "
        "to the first dot are one sample: rename them if their names have dots, or set "
        "config.data.image_feature to the extension of the images"
    )


def _notes_on_ends(paths: list[str], indices: list[dict[str, np.ndarray]]) -> list[str]:
    """Return a note on the files that end without the mark of the end; none without such files."""
    cut = [path for path, index in zip(paths, indices, strict=True) if not index["has_end"]]
    if not cut:
        return []
    what = "file has" if len(cut) == 1 else "files have"
    names = listed([printable(path) for path in cut])
    return [f"{len(cut):,} {what} no end-of-archive mark and may be cut off: {names}"]


def _joined_labels(indices: list[dict[str, np.ndarray]]) -> tuple[list[str], np.ndarray]:
    """Return the distinct labels of all files, and the index into them for each image, or -1."""
    numbers: dict[str, int] = {}
    parts = []
    for index in indices:
        texts = json.loads(index["label_texts"].tobytes())
        of_file = [numbers.setdefault(text, len(numbers)) for text in texts]
        # One more entry, which the index -1 of an image without a label refers to.
        parts.append(np.array([*of_file, -1], np.int32)[index["labels"]])
    return list(numbers), np.concatenate(parts)


def _describe(records: Records, places: np.ndarray, index: int) -> str:
    """Return the name of an image, and its file."""
    files, numbers = records.locate(np.array([index]))
    path = records.paths[files[0]]
    offset, _ = tar_files.unpack(int(places[index]))
    try:
        header = read_range(path, offset - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE)
        name = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
    except (tarfile.TarError, tf.errors.OpError, OSError):
        name = f"sample {numbers[0]}"
    return f"{printable(name)} in {printable(path)}"
