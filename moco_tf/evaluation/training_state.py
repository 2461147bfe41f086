"""The state of an evaluation's training, from which it continues after an interruption.

The linear protocol, fine-tuning and transfer can take a day on a large data set. While one of them
trains, its state is saved now and then to a file, which is removed at the end. A training that is
continued ends like one that was never interrupted, because its images depend only on its seed and
on the number of the step.
"""

import hashlib
import io
import json
import os
import time
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import moco_tf
from moco_tf import workers
from moco_tf.errors import UserError
from moco_tf.files import error_reason, remove, write_atomically, write_remedy

SAVE_SECONDS = 300  # Between two saves. A shorter training writes no file.
# What reading a file raises that is missing, damaged or something else.
READ_ERRORS = (
    tf.errors.OpError,
    OSError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


class TrainingState:
    """A file with the state of a training; every worker has to call its methods.

    Args:
        path: Path of the file, which several workers share; None saves nothing.
        identity: What the training depends on, such as its images and its settings, as values of
            JSON.

    Attributes:
        facts: What is saved beside the variables, as values of JSON; empty for a training that
            starts.

    Raises:
        UserError: If the file is the state of another training.
    """

    def __init__(self, path: str | None = None, identity: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.identity = json.loads(json.dumps({"version": moco_tf.__version__, **(identity or {})}))
        self.facts: dict[str, Any] = {}
        self._seconds_before = 0.0
        self._arrays: list[np.ndarray] = []
        self._can_be_saved = path is not None
        if path is not None and tf.io.gfile.exists(path):
            self._read(path)
        # A path that is not shared has no file for the other workers.
        found = hashlib.sha256(json.dumps(self.facts).encode()).digest()[:4]
        if len(set(workers.gather_from_workers(int.from_bytes(found)))) > 1:
            if workers.is_chief():
                print(f"warning: the workers do not share {path}, so the training starts again")
            self.facts, self._seconds_before, self._arrays = {}, 0.0, []
        self._start = self._saved = time.monotonic()

    def restore(self, variables: Sequence[Any]) -> None:
        """Set variables to the values that were saved.

        Args:
            variables: Those that were passed to `save_if_due`, in the same order.

        Raises:
            UserError: If they are not those of the file.
        """
        if [tuple(v.shape) for v in variables] != [array.shape for array in self._arrays]:
            raise UserError(f"{self.path} does not fit this training: delete it to start again")
        for variable, array in zip(variables, self._arrays, strict=True):
            variable.assign(array)
        self._arrays = []

    def save_if_due(self, variables: Sequence[Any], facts: Mapping[str, Any]) -> None:
        """Save if the last time was `SAVE_SECONDS` ago; a failure gives a warning.

        Args:
            variables: All variables that change in the training.
            facts: Entries of `self.facts` to add or to replace.
        """
        self.facts.update(facts)
        if self.path is None:
            return
        now = time.monotonic()
        is_due = now - self._saved >= SAVE_SECONDS
        if not max(workers.gather_from_workers(int(is_due))):
            return
        self._saved = now
        # All workers read, since each of them may have a part of a value.
        arrays = [_as_array(variable) for variable in variables]
        if not (workers.is_chief() and self._can_be_saved):
            return
        header = {"identity": self.identity, "facts": self.facts, "seconds": self.elapsed()}
        contents = io.BytesIO()
        np.savez(contents, json.dumps(header), *arrays)
        try:
            tf.io.gfile.makedirs(os.path.dirname(self.path))
            write_atomically(self.path, contents.getvalue())
        except (tf.errors.OpError, OSError) as error:
            self._can_be_saved = False
            print(
                f"warning: the state of the training cannot be saved to {self.path} "
                f"({error_reason(error)}), so it cannot be continued if it is interrupted: "
                f"{write_remedy(error, os.path.dirname(self.path))}"
            )

    def elapsed(self) -> float:
        """Return the seconds of the training, with those before it was interrupted."""
        return round(self._seconds_before + time.monotonic() - self._start, 3)

    def restart_clock(self) -> None:
        """Begin to count the seconds of another training with the same state, such as a trial."""
        self._seconds_before, self._start = 0.0, time.monotonic()

    def remove(self) -> None:
        """Remove the file at the end of the training."""
        if self.path is not None and workers.is_chief() and tf.io.gfile.exists(self.path):
            remove(self.path)

    def _read(self, path: str) -> None:
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                contents = np.load(io.BytesIO(file.read()))
            header, *self._arrays = [contents[f"arr_{i}"] for i in range(len(contents.files))]
            header = json.loads(str(header))
            identity, self.facts = header["identity"], header["facts"]
            self._seconds_before = float(header["seconds"])
        except READ_ERRORS as error:
            raise UserError(
                f"{path} cannot be read as the state of a training ({error_reason(error)}): delete "
                "it to start again, or use another file"
            ) from error
        for name, value in self.identity.items():
            if identity.get(name) != value:
                raise UserError(
                    f"{path} is the state of a training with {name}="
                    f"{json.dumps(identity.get(name))}, not {json.dumps(value)}: start the same "
                    "training again, or use another file"
                )


def of_result(directory: str, protocol: str, identity: Mapping[str, Any]) -> TrainingState:
    """Return the state of a training whose result goes to `directory/eval`.

    Its file is `directory/eval/<protocol>.<digest>.state`, so that trainings with other settings
    have files of their own.

    Args:
        directory: Directory of the result.
        protocol: The name that the result goes by.
        identity: What the training depends on, as values of JSON.
    """
    text = json.dumps({"version": moco_tf.__version__, **identity}, sort_keys=True)
    name = f"{protocol}.{hashlib.sha256(text.encode()).hexdigest()[:12]}.state"
    state = TrainingState(os.path.join(directory, "eval", name), identity)
    if state.facts and workers.is_chief():
        print(f"the training continues from {state.path}", flush=True)
    return state


def _as_array(variable: Any) -> np.ndarray:
    """Return the value of a variable in a type of NumPy that a file can hold."""
    value = tf.convert_to_tensor(variable.value)
    is_half = value.dtype in (tf.bfloat16, tf.float16)
    return keras.ops.convert_to_numpy(tf.cast(value, tf.float32) if is_half else value)
