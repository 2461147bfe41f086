"""Runs the scripts as tests/command.py does, but in this process: without the seconds in which
Python starts and TensorFlow is imported.

What only a process of its own can show is not to be seen here: that nothing but the script's own
words reaches the terminal, that its imports suffice, and what it does on a signal.
"""

import contextlib
import io
import runpy
import sys
import warnings
from unittest import mock

from absl import app, flags

from tests.command import ROOT

app.define_help_flags()  # absl's own, which the first script would define and take away with it


def run(script, *arguments, status=0):
    """Runs `python script *arguments` to its end, which must be of that exit status, and returns
    what it printed."""
    path, output = str(ROOT / script), io.StringIO()
    known = set(flags.FLAGS)
    with (
        mock.patch.object(sys, "argv", [path, *map(str, arguments)]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        warnings.catch_warnings(action="ignore", category=DeprecationWarning),  # Python's default
    ):
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            found = end.code or 0
        finally:
            for name in set(flags.FLAGS) - known:  # the next script defines its own
                delattr(flags.FLAGS, name)
    assert found == status, output.getvalue()
    return output.getvalue()


def run_mistake(script, *arguments):
    """Runs something that must end in one line and exit status 2, and returns the line."""
    output = run(script, *arguments, status=2)
    lines = output.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), output
    return lines[0]
