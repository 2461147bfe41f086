"""The command moco-export FORMAT, which is `python export/FORMAT.py` in a checkout."""

import importlib
import sys
from collections.abc import Sequence

# The module of `moco_tf.export` behind each format. Modules are not named after packages that they
# import, because a script finds the modules beside it first.
FORMATS = {
    "saved_model": "saved_model",
    "keras": "keras_v3",
    "keras_hub": "keras_hub_preset",
    "onnx": "onnx_file",
    "pytorch": "pytorch",
    "detectron2": "detectron2_pickle",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the exporter that the first argument names, and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else None
    if name in ("--help", "-h"):
        print(_help())
        return 0
    if name not in FORMATS:
        mistake = f"unknown format '{name}'" if name else "a format is required"
        print(f"error: {mistake}: choose one of {', '.join(FORMATS)}", file=sys.stderr)
        return 2
    return importlib.import_module(f"moco_tf.export.{FORMATS[name]}").main(arguments[1:])


def _help() -> str:
    lines = ["Export a backbone.", "", "    moco-export FORMAT --workdir=DIR --out=PATH"]
    lines += ["    moco-export FORMAT --help", "", "Formats:", ""]
    for name, module in FORMATS.items():
        summary = (importlib.import_module(f"moco_tf.export.{module}").__doc__ or "").splitlines()
        lines.append(f"    {name:<14}{summary[0]}")
    return "\n".join(lines)
