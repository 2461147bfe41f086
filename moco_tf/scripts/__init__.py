"""The scripts as console commands: moco-train, moco-evaluate, moco-demo and moco-export.

In a checkout train.py, evaluate.py, demo.py, configs/ and export/ lie beside `moco_tf`; a wheel has
them in this folder, where setup.py puts them. Either way `moco_tf.scripts.export.saved_model` and
its like are found here.
"""

import ast
import importlib.util
import os
import re
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))
if not os.path.isfile(os.path.join(FOLDER, "train.py")):
    FOLDER = os.path.dirname(os.path.dirname(FOLDER))
# Where Python looks for the modules of this package.
__path__ = [FOLDER]

EXPORT_HELP = """Exports the backbone of a run.

    moco-export FORMAT --workdir=DIR --out=PATH
    moco-export FORMAT --help

"""


def train():
    """The command moco-train: train.py."""
    _run("train.py", "moco-train", sys.argv[1:])


def evaluate():
    """The command moco-evaluate: evaluate.py."""
    _run("evaluate.py", "moco-evaluate", sys.argv[1:])


def demo():
    """The command moco-demo: demo.py."""
    _run("demo.py", "moco-demo", sys.argv[1:])


def export():
    """The command moco-export FORMAT: export/FORMAT.py."""
    formats = _formats()
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name in ("--help", "-h"):
        print(EXPORT_HELP + "\n".join(f"    {name:<14}{what}" for name, what in formats.items()))
        sys.exit(0)
    if name not in formats:
        wrong = "moco-export needs a format" if name is None else f"'{name}' is not a format"
        print(f"error: {wrong}: choose among {', '.join(formats)}", file=sys.stderr)
        sys.exit(2)
    _run(os.path.join("export", f"{name}.py"), f"moco-export {name}", sys.argv[2:])


def in_commands(text):
    """A script's help with `moco-train` where it says `python train.py`, and so on."""
    text = re.sub(r"python export/(\w+)\.py", r"moco-export \1", text)
    return re.sub(r"python (train|evaluate|demo)\.py", r"moco-\1", text)


def _formats():
    """The first line on each module of export/ that is a script, by its name."""
    folder, found = os.path.join(FOLDER, "export"), {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".py"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                text = file.read()
            if '__name__ == "__main__"' in text:
                found[name[:-3]] = ast.get_docstring(ast.parse(text)).splitlines()[0]
    return found


def _run(script, command, arguments):
    """As `python FOLDER/script *arguments`, under the name of the command."""
    path = os.path.join(FOLDER, script)
    sys.argv = [command, *arguments]
    sys.path.insert(0, FOLDER)  # where the scripts find `export`, and configs each other
    # Not runpy, which would put the path in the place of the command.
    spec = importlib.util.spec_from_file_location("__main__", path)
    sys.modules["__main__"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["__main__"])
