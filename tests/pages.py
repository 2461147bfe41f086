"""Run the commands and the code on pages of the documentation."""

import contextlib
import importlib.metadata
import io
import re
import runpy
import shlex
import sys
from unittest import mock

from tests.command import ROOT


def code_blocks(page, language):
    """Return the code blocks of a page, given by its path below docs/, in a language."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(page):
    """Return the commands on a page that call a script of this project or a console command."""
    pattern = r"^(?:python docs/|moco-).*$"
    text = "\n".join(code_blocks(page, "bash"))
    return re.findall(pattern, re.sub(r" \\\n +", " ", text), re.MULTILINE)


def run_command(command, *more_arguments):
    """Run a command in this process and the current directory, and return what it printed."""
    program, *arguments = [*shlex.split(command), *more_arguments]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        if program == "python":
            status = _run_script(*arguments)
        else:
            [entry_point] = importlib.metadata.entry_points(group="console_scripts", name=program)
            status = entry_point.load()(arguments)
    assert not status, f"exit status {status}: {output.getvalue()}"
    return output.getvalue()


def _run_script(script, *arguments):
    """Run a script of the checkout, and return the argument of `sys.exit`."""
    with mock.patch.object(sys, "argv", [script, *arguments]):
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as exit_:
            return exit_.code
    return None


def run_code(page):
    """Run the Python code of a page, and return its variables and what it printed."""
    variables, output = {}, io.StringIO()
    with contextlib.redirect_stdout(output):
        for code in code_blocks(page, "python"):
            exec(compile(code, page, "exec"), variables)
    return variables, output.getvalue()
