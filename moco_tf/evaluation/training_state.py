"""The state of an evaluation's training, from which it continues after an interruption.

The linear protocol, fine-tuning and transfer can take a day on a large data set. While one of them
trains, its state is saved now and then to a file, which is removed at the end. A training that is
continued ends like one that was never interrupted, because its images depend only on its seed and
on the number of the step.
"""

import contextlib
import hashlib
import io
import json
import lzma
import os
import re
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from moco_tf import workers
from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_atomically, write_remedy

SAVE_SECONDS = 300  # Between two saves. A shorter training writes no file.
# What decoding a file raises that is damaged, or not a state.
DECODING_ERRORS = (
    AttributeError,
    EOFError,
    KeyError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
)
# What the checksums in an identity are about.
CHECKSUMS = {
    "weights": "other weights of the backbone",
    "network": "other layers of the backbone",
    "data_checksum": "other images",
    "labels_checksum": "other labels",
    "parts": "other training or test images",
}


class TrainingState:
    """A file with the state of a training; every worker has to call its methods.

    Args:
        path: Path of the file, which several workers share; None saves nothing.
        identity: What the training depends on, as values of JSON, such as the result of
            `moco_tf.evaluation.identity.identify_training`.

    Attributes:
        facts: What is saved beside the variables, as values of JSON; empty for a training that
            starts.

    Raises:
        UserError: If the file is the state of another training, or cannot be read.
    """

    def __init__(self, path: str | None = None, identity: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity or {}))  # With lists in place of tuples.
        self.facts: dict[str, Any] = {}
        self._arrays: list[np.ndarray] = []
        self._seconds_before = 0.0
        self._has_failed = False
        if path is not None:
            self._read(path)
            self._require_shared(path)
        self._start = self._saved = time.monotonic()

    def restore(self, variables: Sequence[Any], position: str) -> None:
        """Set variables to the values that were saved, once.

        Args:
            variables: Those that were passed to `save_if_due`, in the same order.
            position: How far the training is, for the message, such as "epoch 3 of 20".

        Raises:
            UserError: If they are not those of the file.
        """
        if [tuple(v.shape) for v in variables] != [array.shape for array in self._arrays]:
            raise UserError(f"{self.path} does not fit this training: delete it to start again")
        for variable, array in zip(variables, self._arrays, strict=True):
            variable.assign(array)
        self._arrays = []
        _say(f"the training continues after {position}, from {self.path}")

    def save_if_due(self, variables: Sequence[Any], facts: Mapping[str, Any]) -> None:
        """Save if the last time was `SAVE_SECONDS` ago; a failure gives a warning.

        Args:
            variables: All variables that change in the training.
            facts: Entries of `self.facts` to add or to replace.
        """
        is_due = time.monotonic() - self._saved >= SAVE_SECONDS
        if self.path is not None and max(workers.gather_from_workers(int(is_due))):
            self.save(variables, facts)
        else:
            self.facts.update(facts)

    def save(self, variables: Sequence[Any], facts: Mapping[str, Any]) -> None:
        """Save at once, with the arguments of `save_if_due`."""
        self.facts.update(facts)
        if self.path is None:
            return
        self._saved = time.monotonic()
        # All workers read, since each of them may have a part of a value.
        arrays = [_as_array(variable) for variable in variables]
        if workers.is_chief():
            self._write(self.path, arrays)

    def elapsed(self) -> float:
        """Return the seconds of the training, with those before it was interrupted."""
        return round(self._seconds_before + time.monotonic() - self._start, 3)

    def begin_another(self) -> None:
        """Begin another training with the same facts, such as the next trial."""
        self._arrays = []
        self._seconds_before, self._start = 0.0, time.monotonic()

    def remove(self) -> None:
        """Remove the file at the end of the training; a failure gives a warning."""
        if self.path is None or not workers.is_chief():
            return
        folder, name = os.path.split(self.path)
        try:
            names = tf.io.gfile.listdir(folder or ".") if tf.io.gfile.isdir(folder or ".") else []
            for found in names:
                # A kill while the state was written leaves a temporary file.
                if re.fullmatch(re.escape(name) + r"(\.[0-9a-f]{8}\.tmp)?", found):
                    tf.io.gfile.remove(os.path.join(folder, found))
        except (tf.errors.NotFoundError, FileNotFoundError):
            pass  # Another process has removed it.
        except (tf.errors.OpError, OSError) as error:
            _say(f"warning: {self.path} cannot be removed ({error_reason(error)}): delete it")

    def _write(self, path: str, arrays: list[np.ndarray]) -> None:
        header = {"identity": self.identity, "facts": self.facts, "seconds": self.elapsed()}
        folder = os.path.dirname(path) or "."
        try:
            contents = io.BytesIO()
            np.savez(contents, json.dumps(header), *arrays)
            tf.io.gfile.makedirs(folder)
            write_atomically(path, contents.getvalue())
            self._has_failed = False
        except (tf.errors.OpError, OSError, MemoryError) as error:
            if not self._has_failed:
                _say(
                    f"warning: the state of the training cannot be saved to {path} "
                    f"({error_reason(error)}): {write_remedy(error, folder)}. The training goes "
                    "on, and tries again later"
                )
            self._has_failed = True

    def _read(self, path: str) -> None:
        try:
            if not tf.io.gfile.exists(path):
                return
            with tf.io.gfile.GFile(path, "rb") as file:
                contents = io.BytesIO(file.read())
        except (tf.errors.OpError, OSError) as error:
            raise UserError(
                f"{path}, where the state of the training belongs, cannot be read "
                f"({error_reason(error)}): check the path, its permissions, and the disk or the "
                "network that it is on"
            ) from error
        try:
            arrays = np.load(contents)
            header, *self._arrays = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
            values = json.loads(str(header))
            identity, self.facts = dict(values["identity"]), dict(values["facts"])
            self._seconds_before = float(values["seconds"])
        except DECODING_ERRORS as error:
            raise UserError(
                f"{path} is not the state of a training ({error_reason(error)}): use another file, "
                "or delete it to start again if it is damaged"
            ) from error
        # The protocol and the versions explain other differences, so they come first.
        names = [*self.identity, *(name for name in identity if name not in self.identity)]
        for name in names:
            saved, value = identity.get(name), self.identity.get(name)
            if saved != value:
                difference = f"{name}={json.dumps(saved)}, not {json.dumps(value)}"
                raise UserError(
                    f"{path} is the state of a training with {CHECKSUMS.get(name, difference)}: "
                    "start the same training again, use another file, or delete it"
                )

    def _require_shared(self, path: str) -> None:
        """Start again if the workers have not read the same file."""
        digest = zlib.crc32(json.dumps(self.facts).encode())
        if len(set(workers.gather_from_workers(digest))) > 1:
            _say(f"warning: the workers do not share {path}, so the training starts again")
            self.facts, self._arrays, self._seconds_before = {}, [], 0.0


def state_in(directory: str, protocol: str, identity: Mapping[str, Any]) -> TrainingState:
    """Return the state of a training whose result goes to `directory/eval`.

    Its file is `directory/eval/<protocol>.<digest>.state`, so that trainings with other settings
    have files of their own.

    Args:
        directory: Directory of the result.
        protocol: The name that the result goes by.
        identity: As for `TrainingState`.

    Raises:
        UserError: As `TrainingState`.
    """
    identity = {"protocol": protocol, **identity}
    text = json.dumps(identity, sort_keys=True)
    name = f"{protocol}.{hashlib.sha256(text.encode()).hexdigest()[:12]}.state"
    folder = os.path.join(directory, "eval")
    state = TrainingState(os.path.join(folder, name), identity)
    names = tf.io.gfile.listdir(folder) if not state.facts and tf.io.gfile.isdir(folder) else []
    for other in sorted(names):
        if re.fullmatch(re.escape(protocol) + r"\.[0-9a-f]{12}\.state", other):
            _say(
                f"note: {os.path.join(folder, other)} is of an unfinished training with other "
                "settings, weights, images or versions, which this one does not continue; delete "
                "it if you do not need it"
            )
    return state


def _say(text: str) -> None:
    if workers.is_chief():
        with contextlib.suppress(OSError):  # The training goes on without its log.
            print(text, flush=True)


def _as_array(variable: Any) -> np.ndarray:
    """Return the value of a variable in a type of NumPy that a file can hold."""
    value = tf.convert_to_tensor(variable.value)
    is_half = value.dtype in (tf.bfloat16, tf.float16)
    return keras.ops.convert_to_numpy(tf.cast(value, tf.float32) if is_half else value)
