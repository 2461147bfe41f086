"""Run commands as tests/command.py does, but in this process.

That saves the seconds in which Python starts and imports TensorFlow. What only a process of its own
shows is not tested this way: that nothing else is printed to the terminal, that the command imports
all that it needs, and how it reacts to signals.
"""

import contextlib
import io
import pathlib
import warnings

import moco_tf.cli.demo
import moco_tf.cli.embed
import moco_tf.cli.evaluate
import moco_tf.cli.export
import moco_tf.cli.prepare
import moco_tf.cli.train
from moco_tf.cli.formats import FORMATS

MAIN = {
    "train.py": moco_tf.cli.train.main,
    "embed.py": moco_tf.cli.embed.main,
    "prepare.py": moco_tf.cli.prepare.main,
    "evaluate.py": moco_tf.cli.evaluate.main,
    "demo": moco_tf.cli.demo.main,
}


def run(script, *arguments, workdir=None, status=0):
    """Run `python script *arguments`, and return what it printed.

    Args:
        script: "train.py", "evaluate.py", "embed.py", "prepare.py", "demo" or "export/MODULE.py".
        *arguments: The arguments, converted to strings.
        workdir: Value of a further argument --workdir.
        status: The exit status that is expected, or a tuple of those that are possible.
    """
    arguments = [str(argument) for argument in arguments]
    if workdir is not None:
        arguments.append(f"--workdir={workdir}")
    main = MAIN.get(script, moco_tf.cli.export.main)
    if script.startswith("export/"):
        module = pathlib.Path(script).stem
        arguments.insert(0, next(name for name in FORMATS if FORMATS[name] == module))
    output = io.StringIO()
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        # As Python does by default outside of pytest.
        warnings.catch_warnings(action="ignore", category=DeprecationWarning),
    ):
        exit_status = main(arguments)
    assert exit_status in (status if isinstance(status, tuple) else (status,)), output.getvalue()
    return output.getvalue()


def run_mistake(script, *arguments, **kwargs):
    """Run a command that must fail with one line and exit status 2, and return the line."""
    output = run(script, *arguments, status=2, **kwargs)
    lines = output.strip().splitlines()
    assert len(lines) == 1, output
    assert lines[0].startswith("error: "), output
    return lines[0]
