"""The frames of a video file: their times, and the keyframes at which decoding can begin.

The index is made from the packets of the file, without decoding them, and kept on the disk.
"""

import contextlib
import fractions
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moco_tf.data.readers.image import MAX_PIXELS
from moco_tf.data.sources import index_cache
from moco_tf.errors import UserError

if TYPE_CHECKING:
    import av


class FrameIndex(NamedTuple):
    """The frames of a video file. Times are integers in units of `time_base` seconds.

    Attributes:
        times: int64 `[F]`, the time of each frame in ascending order.
        key_times: int64 `[E]`, the times of the keyframes in ascending order.
        key_dts: int64 `[E]`, the decoding times of the keyframes, by which some formats seek.
        time_base: The unit of the times in seconds.
        is_counted: Whether the packets do not tell the times, so that a frame is only found by
            counting the frames from the start of the file.
    """

    times: np.ndarray
    key_times: np.ndarray
    key_dts: np.ndarray
    time_base: fractions.Fraction
    is_counted: bool


def import_av() -> Any:
    """Return the module `av`.

    Raises:
        UserError: If PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(
            "video sources need PyAV, which is not installed: pip install '.[video]'"
        ) from error
    av.logging.set_level(None)  # Otherwise FFmpeg prints what is wrong with a file.
    return av


@contextlib.contextmanager
def opened(path: str) -> "Iterator[tuple[av.container.InputContainer, av.VideoStream]]":
    """Open the first video stream of a file, and close it at the end.

    Raises:
        av.FFmpegError: If the file cannot be opened.
        ValueError: If it has no video, or the frames are too large.
    """
    container = import_av().open(path)
    try:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("no decoder knows its codec")
        if stream.width * stream.height > MAX_PIXELS:
            raise ValueError(f"its frames have {stream.width} x {stream.height} pixels")
        # Images are read in parallel, so threads within a decoder would only compete.
        stream.thread_type = "NONE"
        stream.thread_count = 1
        # A damaged frame is an error. Otherwise the decoder makes up what is missing.
        stream.codec_context.options = {"err_detect": "explode"}
        yield container, stream
    finally:
        container.close()


def frame_index(path: str) -> FrameIndex:
    """Return the index of a video file, from the disk if it was made before.

    Raises:
        av.FFmpegError: If the file cannot be opened.
        ValueError: If it has no video or no frames, or the frames are too large.
    """
    arrays = index_cache.cached(path, "frame_times", _build)
    numerator, denominator, is_counted = arrays["unit"].tolist()
    return FrameIndex(
        arrays["times"],
        arrays["key_times"],
        arrays["key_dts"],
        fractions.Fraction(numerator, denominator),
        bool(is_counted),
    )


def sampled(index: FrameIndex, seconds: float) -> np.ndarray:
    """Return the numbers of the frames that are shown at the multiples of some seconds.

    Time is counted from the first frame. A frame that is shown at several of these times is
    returned once.

    Args:
        index: The frames of a video.
        seconds: Seconds between the times; 0 for all frames.

    Returns:
        int64 `[n]`, in ascending order.
    """
    times = index.times
    if not seconds:
        return np.arange(len(times))
    # Exact, because 0.1 and 1/30 have no exact representation as floats.
    step = fractions.Fraction(seconds).limit_denominator(10**6) / index.time_base
    if step <= 1:  # No two frames are closer than one unit of time.
        return np.arange(len(times))
    start, duration = int(times[0]), int(times[-1] - times[0])
    moments = [
        start + number * step.numerator // step.denominator
        for number in range(int(duration / step) + 1)
    ]
    return np.unique(np.searchsorted(times, np.array(moments, np.int64), side="right") - 1)


def _build(path: str) -> dict[str, np.ndarray]:
    with opened(path) as (container, stream):
        unit = stream.time_base or fractions.Fraction(1, 1000)
        times: list[int | None] = []
        keys: list[tuple[int, int]] = []
        for packet in container.demux(stream):
            if not packet.size:  # The end of the stream.
                continue
            times.append(packet.pts if _is_shown(stream, packet) else None)
            if packet.pts is None:
                return _build_by_counting(path)
            if packet.is_keyframe:
                keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
        may_reorder = stream.codec_context.has_b_frames
    in_file = np.array([time for time in times if time is not None], np.int64)
    shown = np.sort(in_file)
    if not keys or (np.diff(shown) == 0).any() or keys != sorted(keys):
        return _build_by_counting(path)
    # With B-frames, the order in the file is not that of the times. If it is nevertheless, either
    # the video happens to have no B-frames, or the times are those of decoding, as in AVI and ASF.
    if may_reorder and (np.diff(in_file) > 0).all() and not _times_ascend(path):
        return _build_by_counting(path)
    if not len(shown):
        raise ValueError("it has no frames")
    key_times, key_dts = np.array(keys, np.int64).T
    return _arrays(shown, key_times, key_dts, unit, is_counted=False)


def _is_shown(stream: "av.VideoStream", packet: "av.Packet") -> bool:
    """Return whether the frame of a packet is shown, and not only decoded for others."""
    if packet.is_discard:  # An edit list leaves it out.
        return False
    # VP8 has reference frames that are not shown in packets of their own; bit 4 tells them.
    return stream.codec_context.name not in ("vp8", "libvpx") or bool(bytes(packet)[0] & 0x10)


def _times_ascend(path: str) -> bool:
    """Return whether the times of the decoded frames ascend."""
    av = import_av()
    last = None
    with opened(path) as (container, stream):
        for packet in container.demux(stream):
            try:
                frames = stream.codec_context.decode(packet if packet.size else None)
            except av.FFmpegError:  # A damaged frame does not tell.
                continue
            for frame in frames:
                if frame.pts is None or (last is not None and frame.pts <= last):
                    return False
                last = frame.pts
    return True


def _build_by_counting(path: str) -> dict[str, np.ndarray]:
    """Return the index of a file whose packets do not tell the times, by decoding it."""
    with opened(path) as (container, stream):
        decoded = [frame.pts for frame in container.decode(stream)]
        unit = stream.time_base or fractions.Fraction(1, 1000)
        if not decoded:
            raise ValueError("it has no frames")
        times = np.array([-1 if time is None else time for time in decoded], np.int64)
        # Some formats, such as raw streams, have no times at all.
        if None in decoded or (np.diff(times) <= 0).any():
            unit = 1 / fractions.Fraction(stream.average_rate or 25)
            times = np.arange(len(times))
    no_keys = np.zeros(0, np.int64)
    return _arrays(times, no_keys, no_keys, unit, is_counted=True)


def _arrays(
    times: np.ndarray,
    key_times: np.ndarray,
    key_dts: np.ndarray,
    unit: fractions.Fraction,
    is_counted: bool,
) -> dict[str, np.ndarray]:
    return {
        "times": times,
        "key_times": key_times,
        "key_dts": key_dts,
        "unit": np.array([unit.numerator, unit.denominator, is_counted], np.int64),
    }
