"""The command moco-export FORMAT, which is `python export/FORMAT.py` in a checkout."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import flags

from moco_tf.cli import app
from moco_tf.cli.flag_groups import define_export_flags
from moco_tf.cli.formats import FORMATS

if TYPE_CHECKING:
    import keras

    from moco_tf.backbones.history import Origin


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


def run(
    name: str,
    help: str,
    out_help: str,
    export: Callable[[keras.Model, str, Origin], None],
    argv: Sequence[str] | None = None,
) -> int:
    """Run the command of a format that takes a backbone and an output path and nothing else.

    Args:
        name: A key of `FORMATS`.
        help: What `--help` prints before the flags.
        out_help: Help text of --out.
        export: Function that writes a backbone to a path, with a model card that names its origin.
        argv: Arguments without the name of the program; by default those of the process.

    Returns:
        The exit status.
    """

    def define_flags(values: flags.FlagValues, arguments: list[str]) -> None:
        define_export_flags(values, out_help)

    def export_backbone(values: flags.FlagValues) -> None:
        from moco_tf.cli import backbone_flags

        backbone, origin = backbone_flags.load_for_export(values)
        export(backbone, values.out, origin)
        print(f"wrote {values.out}")

    return app.run(command(name, help, define_flags, export_backbone), argv)


def command(
    name: str,
    help: str,
    define_flags: Callable[[flags.FlagValues, list[str]], None],
    export: Callable[[flags.FlagValues], int | None],
) -> app.Command:
    """Return the command of a format; the arguments are those of `app.Command`."""
    return app.Command(f"moco-export {name}", help, define_flags, export)


def _help() -> str:
    lines = ["Export a backbone.", "", "    moco-export FORMAT --workdir=DIR --out=PATH"]
    lines += ["    moco-export FORMAT --help", "", "Formats:", ""]
    for name, module in FORMATS.items():
        summary = (importlib.import_module(f"moco_tf.export.{module}").__doc__ or "").splitlines()
        lines.append(f"    {name:<14}{summary[0]}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
