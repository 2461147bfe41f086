"""Interrupts by Ctrl-C that other code loses."""

import contextlib
import signal
import threading
import types
from collections.abc import Iterator


class Interrupts:
    """Whether `KeyboardInterrupt` was raised by a signal; see `remembered`."""

    def __init__(self) -> None:
        self.happened = False

    def raise_again(self) -> None:
        """Raise `KeyboardInterrupt` if it was raised before."""
        if self.happened:
            raise KeyboardInterrupt


@contextlib.contextmanager
def remembered() -> Iterator[Interrupts]:
    """Remember the interrupts in a `with` block.

    A `KeyboardInterrupt` may be raised anywhere in Python code. If that is a callback of a weak
    reference, Python ignores the exception; if C code called it, another error may take its place.
    While TensorFlow compiles a training step, this happens to a few percent of the interrupts.

    If an error leaves the block after an interrupt, it becomes a `KeyboardInterrupt`. Call
    `raise_again` where an ignored interrupt should have its effect at the latest.

    Outside of the main thread, and with a handler of SIGINT that raises nothing, this does nothing.
    """
    interrupts = Interrupts()
    previous = signal.getsignal(signal.SIGINT)
    # Python allows handlers in the main thread only.
    if not callable(previous) or threading.current_thread() is not threading.main_thread():
        yield interrupts
        return

    def remember(number: int, frame: types.FrameType | None) -> None:
        try:
            previous(number, frame)
        except KeyboardInterrupt:
            interrupts.happened = True
            raise

    signal.signal(signal.SIGINT, remember)
    try:
        yield interrupts
    except Exception as error:
        if interrupts.happened:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
