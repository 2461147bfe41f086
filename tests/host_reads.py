"""Records when the host reads results of a training, for which it waits for the device."""

import collections
import contextlib
import pathlib
import sys
import threading
from unittest import mock

from tensorflow.python.framework import ops

from moco_tf.training.callbacks import Callbacks

ROOT = pathlib.Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def recorded_reads():
    """Collect the reads of a training in the block, as a dict from steps to sets of places.

    A read is a conversion of an eager tensor to Python or NumPy in the main thread, from the end of
    a step to the end of the next one. A place is the line of moco_tf that causes it, such as
    `"moco_tf/training/metrics_log.py:76"`.
    """
    reads = collections.defaultdict(set)
    step = 0
    convert, end_of_step = ops._EagerTensorBase._numpy, Callbacks.on_train_batch_end

    def recorded(tensor):
        if step and threading.current_thread() is threading.main_thread():
            reads[step].add(_place())
        return convert(tensor)

    def counted(callbacks, batch, logs=None):
        nonlocal step
        step += 1
        return end_of_step(callbacks, batch, logs)

    with (
        mock.patch.object(ops._EagerTensorBase, "_numpy", recorded),
        mock.patch.object(Callbacks, "on_train_batch_end", counted),
    ):
        yield reads


def _place():
    """Return the innermost line of moco_tf that is being executed."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        path = pathlib.Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "moco_tf"):
            return f"{path.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside of moco_tf"
