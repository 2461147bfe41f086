"""The progress of long work: a bar in a terminal, a line in a notebook, or lines in a log."""

import contextlib
import sys
import time
from typing import Any, Protocol, Self

from tqdm.std import tqdm

from moco_tf.notebook import Line, in_notebook
from moco_tf.workers import is_chief

LOG_SECONDS = 60  # Between two lines of a log. Work that takes less time prints none.
BRIEF_DELAY = 3  # Seconds before a bar appears that disappears at the end.


class ProgressBar(Protocol):
    """What `progress_bar` returns; its context is left, or it is closed, at the end of the work."""

    def update(self, number: int = 1) -> Any:
        """Count items that are done."""

    def set_postfix(self, *, refresh: bool, **values: str) -> Any:
        """Set the values to show behind the progress; without `refresh`, at the next update."""

    def close(self) -> Any:
        """End the display."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: Any) -> Any: ...


def progress_bar(
    total: int,
    description: str | None,
    unit: str,
    *,
    start: int = 0,
    brief: bool = False,
    smoothing: float = 0.3,
) -> ProgressBar:
    """Show the progress of some work, with an estimate of the remaining time.

    A terminal shows a bar, and a notebook a line that is updated in place. Everywhere else, such as
    in the log of a job, a line is printed once a minute. All but the line of a notebook go to
    stderr. Of several workers, the chief alone shows them.

    Args:
        total: Number of items of the work.
        description: What is done, such as "test features"; None shows nothing.
        unit: What an item is, in the singular.
        start: Number of items that are already done.
        brief: Whether a bar or the line of a notebook appears only after three seconds. The bar
            disappears at the end.
        smoothing: How much the estimate in a terminal follows the latest items, from 0, which is
            the mean over all, to 1.

    Example:
        >>> with progress_bar(2, "images", "image") as bar:
        ...     for _ in range(2):
        ...         bar.update()
    """
    visible = is_chief() and sys.stderr is not None
    if description and visible and (in_notebook() or not _is_terminal()):
        return _Lines(total, description, unit, start, BRIEF_DELAY if brief else 0)
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        initial=start,
        disable=not (description and visible),
        delay=BRIEF_DELAY if brief else 0,
        leave=not brief,
        smoothing=smoothing,
    )


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # It was replaced, or closed.
        return False


class _Lines:
    """Progress where there is no terminal.

    Args:
        total, description, unit, start: As for `progress_bar`.
        delay: Seconds before the line of a notebook appears.
    """

    def __init__(self, total: int, description: str, unit: str, start: int, delay: float) -> None:
        self.total = total
        self.description = description
        self.unit = unit
        self.done = start
        self.values: dict[str, str] = {}
        self.line = Line(total) if in_notebook() else None
        self.begin = self.printed_at = time.monotonic()
        self.delay = delay
        # Items and time after the first update, before which a step may be compiled.
        self.clock_start: tuple[int, float] | None = None

    def update(self, number: int = 1) -> None:
        self.done += number
        now = time.monotonic()
        if self.clock_start is None:
            self.clock_start = self.done, now
        if self.line is not None:
            if now - self.begin >= self.delay:
                self.line.show(self.done, str(self))
        elif now - self.printed_at >= LOG_SECONDS:
            self.printed_at = now
            with contextlib.suppress(OSError, ValueError):  # The work goes on without its log.
                print(self, file=sys.stderr, flush=True)

    def set_postfix(self, *, refresh: bool, **values: str) -> None:
        self.values = values

    def close(self) -> None:
        if self.line is not None and self.line.is_shown:
            self.line.show(self.done, str(self), at_once=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def __str__(self) -> str:
        values = "".join(f", {name} {value}" for name, value in self.values.items())
        return (
            f"{self.description}: {self.done:,} of {self.total:,} {self.unit}s{values}; "
            f"{self._time_left()} left"
        )

    def _time_left(self) -> str:
        first, start = self.clock_start or (self.done, 0.0)
        if self.done == first < self.total:
            return "unknown time"
        seconds_per_item = (time.monotonic() - start) / max(self.done - first, 1)
        return tqdm.format_interval(seconds_per_item * (self.total - self.done))
