"""Sphinx extension: the directive `command-help`, which shows what a command prints for --help.

```{command-help} moco-export onnx
```
"""

import contextlib
import importlib.metadata
import io
import shlex

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import studies.__main__
import studies.fashion_mnist
import studies.small_data
import studies.transfer.__main__

STUDIES = {
    "python -m studies": studies.__main__.main,
    "python -m studies.fashion_mnist": studies.fashion_mnist.main,
    "python -m studies.small_data": studies.small_data.main,
    "python -m studies.transfer": studies.transfer.__main__.main,
}


def setup(app):
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class CommandHelp(SphinxDirective):
    required_arguments = 1
    final_argument_whitespace = True

    def run(self):
        # The text depends on modules that Sphinx does not watch.
        self.env.note_reread()
        command = " ".join(self.arguments[0].split())
        block = nodes.literal_block("", f"$ {command} --help\n\n{help_text(command)}")
        block["language"] = "text"
        self.set_source_info(block)
        return [block]


def help_text(command):
    """Return what a command prints for --help."""
    name, *arguments = shlex.split(command)
    if command in STUDIES:
        main, arguments = STUDIES[command], []
    else:
        [entry_point] = importlib.metadata.entry_points(group="console_scripts", name=name)
        main = entry_point.load()
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = main([*arguments, "--help"])
    if status:
        raise RuntimeError(f"{command} --help failed with exit status {status}")
    return output.getvalue().strip()
