"""Exact random access to the frames of video files.

A frame is decoded from the last keyframe before it. The result is the frame that decoding the
whole file from its start would give.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moco_tf.data.sources.video_index import FrameIndex, opened

if TYPE_CHECKING:
    import av

# Files that stay open. The decoder of a large video holds tens of megabytes of frames.
MAX_OPEN = 8
KEYFRAMES = 3  # Number of keyframes from which a frame is decoded until this succeeds.


class VideoReader:
    """An open video file.

    Args:
        path: Path of the file.
        index: Its frames.

    Raises:
        av.FFmpegError: If the file cannot be opened.
        ValueError: If it has no video, or the frames are too large.
    """

    def __init__(self, path: str, index: FrameIndex) -> None:
        self.path = path
        self.index = index
        self._position = -1  # Number of the last frame that was decoded.
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._open()

    def _open(self) -> None:
        self._context = opened(self.path)
        self._container, self._stream = self._context.__enter__()

    def close(self) -> None:
        """Close the file."""
        self._frames = iter(())
        self._context.__exit__(None, None, None)

    def distance(self, number: int) -> float:
        """Return how many frames lie before a frame, if decoding goes on; infinity if it cannot."""
        if not 0 <= self._position < number or self._position < self._entry_frame(number):
            return np.inf
        return number - self._position

    def read(self, number: int) -> np.ndarray:
        """Return a frame as RGB.

        Args:
            number: Number of the frame, from 0.

        Returns:
            uint8 `[H, W, 3]`.

        Raises:
            av.FFmpegError: If the frame, or one that it depends on, is damaged.
            ValueError: If there is no such frame, because the file is damaged.
        """
        if self.index.is_counted:
            frame = self._counted(number)
        elif self.distance(number) < np.inf:
            frame = self._next(number)
        else:
            frame = self._sought(number)
        if frame is None or frame.is_corrupt:
            raise ValueError(f"frame {number} is missing or damaged")
        self._position = number
        return frame.to_ndarray(format="rgb24")

    def _entry(self, number: int) -> int:
        """Return the number of the last keyframe that is not after a frame."""
        time = self.index.times[number]
        return max(int(np.searchsorted(self.index.key_times, time, side="right")) - 1, 0)

    def _entry_frame(self, number: int) -> int:
        """Return the number of the first frame of those that need the same keyframe."""
        if self.index.is_counted:
            return 0
        return int(np.searchsorted(self.index.times, self.index.key_times[self._entry(number)]))

    def _counted(self, number: int) -> "av.VideoFrame | None":
        if self.distance(number) == np.inf:
            self.close()
            self._open()
            self._frames = self._container.decode(self._stream)
            self._position = -1
        frame = None
        for _ in range(number - self._position):
            frame = next(self._frames, None)
        return frame

    def _next(self, number: int) -> "av.VideoFrame | None":
        """Return the frame with the time of a number from the frames that are decoded next."""
        time = self.index.times[number]
        for frame in self._frames:
            if frame.pts is not None and frame.pts >= time:
                return frame if frame.pts == time else None
        return None

    def _sought(self, number: int) -> "av.VideoFrame | None":
        import av

        entry = self._entry(number)
        failure: Exception | None = None
        # With gradual refresh, the frames behind a keyframe need the keyframes before it.
        for start in range(entry, max(entry - KEYFRAMES, -1), -1):
            self._frames = self._decoded_from(start)
            try:
                frame = self._next(number)
            except av.FFmpegError as error:
                failure = failure or error
                continue
            if frame is not None and not frame.is_corrupt:
                return frame
        if failure is not None:
            raise failure
        return None

    def _decoded_from(self, entry: int) -> "Iterator[av.VideoFrame]":
        """Yield the frames that are decoded from a keyframe on."""
        import av

        first = self.index.key_times[entry]
        for packet in self._packets_from(entry):
            try:
                yield from self._stream.codec_context.decode(packet if packet.size else None)
            except av.FFmpegError:
                # Frames of an open group are before the keyframe in time, but behind it in the
                # file, and need earlier ones. No frame behind the keyframe needs them.
                if packet.pts is None or packet.pts >= first:
                    raise

    def _packets_from(self, entry: int) -> "Iterator[av.Packet]":
        """Yield the packets from a keyframe on."""
        time, dts = self.index.key_times[entry], self.index.key_dts[entry]
        # Formats seek by one of the two times. Where a seek ends is checked, not trusted.
        for target in (time, dts, None):
            if target is None:
                self._reopen()
            elif not self._seek(int(target)):
                continue
            packets = self._container.demux(self._stream)
            for packet in packets:
                if packet.is_keyframe and packet.pts == time:
                    yield packet
                    yield from packets
                    return
                if packet.is_keyframe and packet.pts is not None and packet.pts > time:
                    break  # The seek ended behind the keyframe.

    def _reopen(self) -> None:
        """Return to the start of the file."""
        self._context.__exit__(None, None, None)
        self._open()

    def _seek(self, time: int) -> bool:
        """Seek to the last keyframe up to a time; return whether the format can seek."""
        try:
            self._container.seek(time, stream=self._stream)
        except OSError:  # That of PyAV among them.
            return False
        return True


class Videos:
    """Frames of several video files, read by several threads.

    Up to `MAX_OPEN` files stay open between reads. Which ones does not change any frame.

    Args:
        paths: Paths of the files.
        indices: The frames of each file; None for a file that is not read.
    """

    def __init__(self, paths: Sequence[str], indices: Sequence[FrameIndex | None]) -> None:
        self._paths = paths
        self._indices = indices
        self._idle: list[tuple[int, VideoReader]] = []  # The one used last is at the end.
        self._lock = threading.Lock()

    def read(self, file: int, number: int) -> np.ndarray:
        """Return frame `number` of file `file` as RGB, uint8 `[H, W, 3]`.

        Raises:
            ValueError: If it cannot be read.
        """
        import av

        reader = None
        try:
            reader = self._taken(file, number) or self._opened(file)
            frame = reader.read(number)
        except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
            if reader is not None:
                reader.close()
            raise ValueError(f"{self._paths[file]}, frame {number}: {error}") from error
        with self._lock:
            self._idle.append((file, reader))
            surplus = self._idle[:-MAX_OPEN]
            del self._idle[:-MAX_OPEN]
        for _, unused in surplus:
            unused.close()
        return frame

    def _opened(self, file: int) -> VideoReader:
        index = self._indices[file]
        if index is None:
            raise ValueError("it cannot be opened")
        return VideoReader(self._paths[file], index)

    def _taken(self, file: int, number: int) -> VideoReader | None:
        """Take an open reader of a file, preferably the one that is just before the frame."""
        with self._lock:
            places = [place for place, (other, _) in enumerate(self._idle) if other == file]
            if not places:
                return None
            best: Any = min(places, key=lambda place: self._idle[place][1].distance(number))
            return self._idle.pop(best)[1]
