"""The import of TensorFlow by a command: quiet, and without what no command needs."""

import contextlib
import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from absl import logging


def start_tensorflow() -> None:
    """Import TensorFlow without the messages that it prints while it starts.

    If TF_CPP_MIN_LOG_LEVEL is set, it decides which messages are shown.
    """
    logging.set_verbosity(logging.WARNING)
    if "tensorflow" in sys.modules:
        return
    silent = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
    if silent:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with (
        held_back_output() if silent else contextlib.nullcontext(),
        _left_out("sklearn", "matplotlib.pyplot", "pandas"),
        _no_collection(),
    ):
        import tensorflow as tf
    if silent:
        tf.get_logger().setLevel("ERROR")


@contextlib.contextmanager
def held_back_output() -> Iterator[None]:
    """Show what is written to standard error in the block only if the block fails.

    Before its logging is set up, TensorFlow writes to the terminal whatever the level, and so do
    some of its converters.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except Exception:
            held_back.seek(0)
            os.write(terminal, held_back.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


@contextlib.contextmanager
def _left_out(*names: str) -> Iterator[None]:
    """Let imports of some modules fail in the block, as if they were not installed.

    TensorFlow imports Keras, which imports scikit-learn, Matplotlib and pandas for its wrappers,
    plots and data adapters if they are there. No command uses these, and loading them takes a
    quarter of the time.
    """
    names = tuple(name for name in names if name not in sys.modules)
    missing: dict[str, Any] = dict.fromkeys(names)
    sys.modules.update(missing)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Switch the garbage collector off in the block, and leave its objects out of collections.

    An import creates a million objects that stay. Looking through them again and again takes a
    fifth of its time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
