"""The shots of a video: where the picture changes from one frame to the next.

A cut is between two consecutive frames whose histograms of color differ in more than a share
`THRESHOLD` of their pixels. This finds hard cuts. It does not find fades and dissolves, and it
takes a flash for two cuts.
"""

import numpy as np

from moco_tf.data.sources import index_cache
from moco_tf.data.sources.video_index import frame_index, import_av, opened

# Frames are shrunk to this width and height, which takes less time than their decoding.
SMALL = (64, 48)
LEVELS = 6  # Levels of red, of green and of blue.
THRESHOLD = 0.4


def shot_starts(path: str) -> np.ndarray:
    """Return the frames at which the shots of a video begin, from the disk if they are known.

    The whole video is decoded. Damaged frames are left out.

    Args:
        path: Path of the file.

    Returns:
        int64 `[S]`, the numbers of the frames in ascending order. The first shot, which begins with
        the video, is left out.
    """
    return index_cache.cached(path, "shot_frames", _find)["starts"]


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of pixels, from 0 to 1, in which two histograms differ."""
    return float(np.abs(first - second).sum() / 2)


def histogram(image: np.ndarray) -> np.ndarray:
    """Return the share of pixels of each color, float64 `[LEVELS**3]`.

    Args:
        image: uint8 `[H, W, 3]`.
    """
    levels = image.reshape(-1, 3).astype(np.int64) * LEVELS // 256
    colors = levels @ np.array([LEVELS**2, LEVELS, 1])
    return np.bincount(colors, minlength=LEVELS**3) / len(colors)


def _find(path: str) -> dict[str, np.ndarray]:
    av = import_av()
    index = frame_index(path)
    starts: list[int] = []
    count = 0  # Frames that were decoded.
    previous = None
    with opened(path) as (container, stream):
        for packet in container.demux(stream):
            try:
                frames = stream.codec_context.decode(packet if packet.size else None)
            except av.FFmpegError:
                continue
            for frame in frames:
                small = frame.reformat(*SMALL, format="rgb24", interpolation="AREA")
                current = histogram(small.to_ndarray())
                if previous is not None and difference(previous, current) > THRESHOLD:
                    # Where frames are found by their times, a damaged frame is not counted here.
                    starts.append(
                        count
                        if index.is_counted or frame.pts is None
                        else int(np.searchsorted(index.times, frame.pts))
                    )
                previous = current
                count += 1
    return {"starts": np.array(starts, np.int64)}
