"""A line in the output of a notebook that is updated in place."""

import html
import sys
import time
from typing import Any

MIN_SECONDS = 0.5  # Between two updates.


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


class Line:
    """A line of text after a bar.

    Args:
        total: Value of a full bar.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._handle: Any = None
        self._shown_at = 0.0

    @property
    def is_shown(self) -> bool:
        """Whether the line has been shown."""
        return self._handle is not None

    def show(self, done: int, text: str, at_once: bool = False) -> None:
        """Show the line for the first time, or instead of the previous one.

        It is left as it is if it was shown just before, unless the bar is full now.

        Args:
            done: Value of the bar.
            text: The text.
            at_once: Whether to show it even if it was shown just before.
        """
        now = time.monotonic()
        if done < self.total and now - self._shown_at < MIN_SECONDS and not at_once:
            return
        self._shown_at = now
        bar = f'<progress value="{done}" max="{self.total}" style="width: 20em"></progress>'
        contents = {"text/plain": text, "text/html": f"{bar} {html.escape(text)}"}
        if self._handle is None:
            from IPython.display import display

            self._handle = display(contents, raw=True, display_id=True)
        else:
            self._handle.update(contents, raw=True)
