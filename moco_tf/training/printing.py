"""Output that a run or an evaluation goes on without if its terminal, pipe or disk is gone."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from moco_tf.files import error_reason


class _Output:
    """A text stream that discards its output from the first failure on."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: Any = stream
        self._has_failed = stream is None  # A process without a terminal may have no stream.

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(self._printable(text)))
        return len(text)

    def _printable(self, text: str) -> str:
        """Return a text with escapes for the characters that the encoding of the stream lacks."""
        encoding = getattr(self._stream, "encoding", None)
        errors = getattr(self._stream, "errors", None) or "strict"
        if encoding and isinstance(text, str):
            try:
                text.encode(encoding, errors)
            except UnicodeEncodeError:
                return text.encode(encoding, "backslashreplace").decode(encoding)
        return text

    def flush(self) -> None:
        self._try(lambda: self._stream.flush())

    def _try(self, operation: Callable[[], object]) -> None:
        if self._has_failed:
            return
        try:
            operation()
        except OSError as error:
            self._has_failed = True
            # Python writes what is left in the buffer when the process ends.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if self._stream is not sys.__stderr__:
                reason = error_reason(error)
                message = f"warning: output cannot be printed any more ({reason}); the run goes on"
                print(message, file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def printing_may_fail() -> Iterator[None]:
    """Go on without standard output and standard error in the block once they cannot be written."""
    with (
        contextlib.redirect_stdout(_Output(sys.stdout)),
        contextlib.redirect_stderr(_Output(sys.stderr)),
    ):
        yield
