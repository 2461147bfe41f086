"""The `video` source: frames of video files, decoded by PyAV as they are needed."""

import concurrent.futures
import os
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf.data.sources import folder, shots
from moco_tf.data.sources.image_files import FileKind, suffix
from moco_tf.data.sources.source import Source
from moco_tf.data.sources.video_index import FrameIndex, frame_index, import_av, sampled
from moco_tf.data.sources.video_reader import Videos
from moco_tf.data.sources.walk import listed
from moco_tf.data.timeline import Timeline
from moco_tf.errors import UserError
from moco_tf.files import error_reason
from moco_tf.names import printable

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"}
    | {".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)
VIDEOS = FileKind("video", VIDEO_SUFFIXES, lambda path, name: suffix(name) in VIDEO_SUFFIXES)
# Number of files that are indexed at the same time. This waits for the disk most of the time.
INDEX_THREADS = 8


def load(name: str, path: str, frame_seconds: float = 1.0) -> Source:
    """Open the frames of a video file, or of the video files below a folder.

    Each image is the frame that is shown at a multiple of `frame_seconds` after the first frame of
    its file. The files are in the order of their paths, and the frames of a file in the order of
    their times. The parts and the classes of a folder are those of `folder.load`. An evaluation
    holds out whole files, never frames of a file that it also trains on.

    Args:
        name: The string that names the source.
        path: Path of a local file or folder.
        frame_seconds: Seconds between the frames, finite and 0 or greater; 0 for all frames.

    Returns:
        The source. A file that cannot be opened is skipped, with a note.

    Raises:
        UserError: If PyAV is not installed, there is no such path, no file can be opened, or as
            `folder.load`.
    """
    import_av()
    if "://" in path:
        raise UserError(f"data source '{name}': copy the videos to a local disk, to seek in them")
    if os.path.isfile(path):
        files = _one_file(name, path)
        root = os.path.dirname(path)
    elif os.path.isdir(path):
        files = folder.load(name, path, kind=VIDEOS)
        root = path
    else:
        raise UserError(f"data source '{name}': there is no file or folder '{printable(path)}'")
    names = files.list_contents()
    paths = [os.path.join(root, os.fsdecode(file_name)) for file_name in names]
    opened = _indexed(name, paths, [printable(file_name) for file_name in names])
    frames = _frames(opened.indices, frame_seconds)
    videos = Videos(paths, opened.indices)

    def frame_at(number: np.ndarray) -> np.ndarray:
        return videos.read(int(frames.files[number]), int(frames.numbers[number]))

    # A tf.function, so that errors are TensorFlow's in eager execution too.
    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)], autograph=False)
    def read(number: tf.Tensor) -> tf.Tensor:
        frame = tf.numpy_function(frame_at, [number], tf.uint8, stateful=False)
        return tf.ensure_shape(frame, [None, None, 3])

    def describe(number: int) -> str:
        file = frames.files[number]
        return f"{printable(paths[file])} at {frames.seconds[number]:.2f} s"

    train, test = _split(files, names, np.bincount(frames.files, minlength=len(paths)))
    load_labels = None
    if files.has_labels:

        def load_labels() -> tuple[np.ndarray, list[str]]:
            labels, class_names = files.labels, files.class_names
            assert labels is not None
            assert class_names is not None
            return labels[frames.files], class_names

    count = sum(index is not None for index in opened.indices)
    return Source(
        name=name,
        size=len(frames.files),
        read=lambda number: read(tf.cast(number, tf.int64)),
        describe=describe,
        pretrain=np.flatnonzero(np.isin(frames.files, files.pretrain)),
        train=np.flatnonzero(np.isin(frames.files, train)),
        test=np.flatnonzero(np.isin(frames.files, test)),
        load_labels=load_labels,
        ignored=[*files.ignored, *opened.skipped],
        no_labels=files.no_labels.replace("images", "videos"),
        found=", ".join([f"in {count:,} video{'s' * (count != 1)}", *filter(None, [files.found])]),
        part_names=files.part_names,
        notes=(*files.notes, *opened.notes, *_empty_classes(files, opened.indices)),
        list_contents=lambda: _contents(names, opened.indices, frames.files),
        list_files=lambda: map(os.fsencode, paths),
        timeline=Timeline(
            frames.files, frames.seconds, lambda: _shots(paths, opened.indices, frames)
        ),
    )


class _Indexed(NamedTuple):
    """The videos of a source.

    Attributes:
        indices: The frames of each file; None if it cannot be opened.
        skipped: Printable paths of the files that cannot be opened.
        notes: Lines of the summary about them, and about those that are slow to read.
    """

    indices: list[FrameIndex | None]
    skipped: list[str]
    notes: list[str]


class _Frames(NamedTuple):
    """The frames that are the images of a source.

    Attributes:
        files: int64 `[N]`, the number of each frame's file.
        numbers: int64 `[N]`, the number of the frame in its file.
        seconds: float64 `[N]`, the time of the frame from the first one of its file.
    """

    files: np.ndarray
    numbers: np.ndarray
    seconds: np.ndarray


def _one_file(name: str, path: str) -> Source:
    """Return the source of one file, as `folder.load` does for the files of a folder."""
    one, none = np.arange(1), np.arange(0)
    return Source(
        name=name,
        size=1,
        read=lambda index: index,
        describe=lambda index: printable(path),
        pretrain=one,
        train=one,
        test=none,
        no_labels="there is only one video",
        list_contents=lambda: [os.fsencode(os.path.basename(path))],
    )


def _indexed(name: str, paths: Sequence[str], names: Sequence[str]) -> _Indexed:
    """Index the files at `paths`, which messages call `names`."""
    with concurrent.futures.ThreadPoolExecutor(INDEX_THREADS) as pool:
        results = list(pool.map(_index_or_reason, paths))
    indices = [None if isinstance(result, str) else result for result in results]
    reasons = [
        f"{names[file]} ({result})"
        for file, result in enumerate(results)
        if isinstance(result, str)
    ]
    counted = [
        names[file] for file, index in enumerate(indices) if index is not None and index.is_counted
    ]
    if len(reasons) == len(paths):
        number = "the video" if len(paths) == 1 else f"all {len(paths):,} videos"
        raise UserError(
            f"data source '{name}': {number} cannot be opened: {listed(reasons)}: use files that "
            "are videos, neither damaged nor incomplete"
        )
    notes = []
    if reasons:
        files = "video" if len(reasons) == 1 else "videos"
        notes.append(f"skipped {len(reasons):,} {files} that cannot be opened: {listed(reasons)}")
    if counted:
        files = "video has" if len(counted) == 1 else "videos have"
        notes.append(
            f"warning: {len(counted):,} {files} no time for each frame and can only be read from "
            f"the start, which is slow: convert them to MP4 ({listed(counted)})"
        )
    skipped = [printable(paths[file]) for file, index in enumerate(indices) if index is None]
    return _Indexed(indices, skipped, notes)


def _index_or_reason(path: str) -> FrameIndex | str:
    """Return the frames of a file, or why there are none."""
    av = import_av()
    try:
        return frame_index(path)
    except (av.FFmpegError, OSError, ValueError) as error:
        return error_reason(error)


def _frames(indices: Sequence[FrameIndex | None], frame_seconds: float) -> _Frames:
    files, numbers, seconds = [], [], []
    for file, index in enumerate(indices):
        if index is None:
            continue
        chosen = sampled(index, frame_seconds)
        files.append(np.full(len(chosen), file))
        numbers.append(chosen)
        seconds.append((index.times[chosen] - index.times[0]) * float(index.time_base))
    return _Frames(*map(np.concatenate, (files, numbers, seconds)))


def _split(
    files: Source, names: Sequence[bytes], frame_counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the files for training and for testing.

    With few files, a fifth chosen by a checksum may be none of them. Then the file with the least
    checksum is for testing, or the one with the greatest is for training.
    """
    train = files.train[frame_counts[files.train] > 0]
    test = files.test[frame_counts[files.test] > 0]
    order = sorted([*train, *test], key=lambda file: (zlib.crc32(names[file]), file))
    if len(order) < 2 or (len(train) and len(test)):
        return train, test
    cut = 1 if len(train) else len(order) - 1
    return np.sort(order[cut:]), np.sort(order[:cut])


def _empty_classes(files: Source, indices: Sequence[FrameIndex | None]) -> list[str]:
    """Return a line of the summary about the classes that have no video that can be opened."""
    labels, class_names = files.labels, files.class_names
    if labels is None or class_names is None:
        return []
    readable = {labels[file] for file, index in enumerate(indices) if index is not None}
    empty = [name for label, name in enumerate(class_names) if label not in readable]
    if not empty:
        return []
    classes = "class has" if len(empty) == 1 else "classes have"
    return [f"warning: {len(empty):,} {classes} no video that can be opened: {listed(empty)}"]


def _contents(
    names: Sequence[bytes], indices: Sequence[FrameIndex | None], files: np.ndarray
) -> list[bytes]:
    """Return a line about each file: its name, and the numbers of frames."""
    counts = np.bincount(files, minlength=len(names))
    return [
        name + f": {count} of {0 if index is None else len(index.times)} frames".encode()
        for name, count, index in zip(names, counts, indices, strict=True)
    ]


def _shots(
    paths: Sequence[str], indices: Sequence[FrameIndex | None], frames: _Frames
) -> np.ndarray:
    """Return the number of each frame's shot, int64 `[N]`."""
    readable = [file for file, index in enumerate(indices) if index is not None]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda file: shots.shot_starts(paths[file]), readable))
    numbers = np.empty(len(frames.files), np.int64)
    first = 0
    for file, starts in zip(readable, found, strict=True):
        is_here = frames.files == file
        numbers[is_here] = first + np.searchsorted(starts, frames.numbers[is_here], side="right")
        first += len(starts) + 1
    return numbers
