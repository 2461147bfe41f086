"""When the images of a source were taken, if they are frames of videos."""

import dataclasses
from collections.abc import Callable

import numpy as np

# Times are sums of fractions, such as thirtieths of a second, as floats.
TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Timeline:
    """The videos, the times and the shots of the images of a source.

    Attributes:
        videos: int64 `[N]`, the number of each image's video, in ascending order.
        seconds: float64 `[N]`, the time of the image in its video; ascending within a video.
        load_shots: Function that returns the number of each image's shot, int64 `[N]`, in ascending
            order. A video has at least one shot of its own. The function may take long.
    """

    videos: np.ndarray
    seconds: np.ndarray
    load_shots: Callable[[], np.ndarray]

    def nearby(self, limit: float, same_shot: bool = False) -> np.ndarray:
        """Return the range of images that are near each image, which is one of them.

        Args:
            limit: The most seconds between the two images.
            same_shot: Whether they must be of the same shot, and not only of the same video.

        Returns:
            int64 `[N, 2]`, the index of the first image of each range, and of the one behind it.

        Example:
            >>> timeline = Timeline(np.array([0, 0, 0, 1]), np.array([0.0, 1, 2, 0]), None)
            >>> timeline.nearby(1).tolist()
            [[0, 2], [0, 3], [1, 3], [3, 4]]
        """
        groups = self.load_shots() if same_shot else self.videos
        starts = np.flatnonzero(np.diff(groups, prepend=-1))
        ranges = np.empty([len(groups), 2], np.int64)
        for start, end in zip(starts, [*starts[1:], len(groups)], strict=True):
            seconds = self.seconds[start:end]
            reach = limit + TOLERANCE
            ranges[start:end, 0] = start + np.searchsorted(seconds, seconds - reach)
            ranges[start:end, 1] = start + np.searchsorted(seconds, seconds + reach)
        return ranges
