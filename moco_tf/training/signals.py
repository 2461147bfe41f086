"""Signals that stop a run after its current step."""

import signal
import threading
import types
from typing import Any

from moco_tf.interrupts import Interrupts
from moco_tf.training.callbacks import GlobalStep
from moco_tf.training.checkpoints import Checkpoints

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopOnSignals(GlobalStep):
    """Stops the run with a checkpoint at the first SIGINT, SIGTERM or SIGHUP, at once at a second.

    Until the first step has ended there is nothing to save, and a signal does what it does without
    this class. A signal that is ignored stays so, as SIGHUP is under `nohup`.

    Args:
        start: Global step that the run starts from.
        checkpoints: The run's `Checkpoints`, which save and stop.
        interrupts: The interrupts so far. One that was lost stops the run after the current step.
    """

    def __init__(self, start: int, checkpoints: Checkpoints, interrupts: Interrupts) -> None:
        super().__init__(start)
        self.checkpoints = checkpoints
        self.interrupts = interrupts
        self._previous: dict[int, Any] = {}

    def on_step(self, step: int, logs: dict[str, Any]) -> None:
        """Handle the signals from the first step on."""
        self.interrupts.raise_again()
        # Python allows this in the main thread only.
        if self._previous or threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            # There is no handler in Python if C code installed it: it could not be restored.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._previous[number] = signal.signal(number, self._stop)

    def restore(self) -> None:
        """Restore the handlers of before the run."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _stop(self, number: int, _: types.FrameType | None) -> None:
        self.checkpoints.stop_signal = number
        signal.signal(number, self._previous[number])
