"""The tables of all settings, and what each command prints for --help."""

import contextlib
import importlib.metadata
import io
import shlex
from typing import Any

import studies.__main__
import studies.fashion_mnist
import studies.small_data
import studies.transfer.__main__
from moco_tf import markdown
from moco_tf.cli.formats import FORMATS
from moco_tf.ranges import Range
from moco_tf.settings import FROM_PRESET, GROUPS, Setting

STUDIES = {
    "python -m studies": studies.__main__.main,
    "python -m studies.fashion_mnist": studies.fashion_mnist.main,
    "python -m studies.small_data": studies.small_data.main,
    "python -m studies.transfer": studies.transfer.__main__.main,
}


def settings() -> str:
    """Return a table for each group of settings.

    Every row has an anchor, so that pages can link to a setting.
    """
    tables = []
    for title, group in GROUPS.items():
        rows = [
            [
                f'<a id="setting-{setting.key}"></a>`{setting.key}`',
                _default(setting.default),
                _valid_values(setting.range),
                _description(setting),
            ]
            for setting in group
        ]
        header = ["setting", "default", "valid values", "description"]
        tables.append(f"**{title}**\n\n{markdown.table(header, rows)}")
    return "\n\n".join(tables)


def _default(value: Any) -> str:
    """Return a default as it is given on the command line, or where it comes from."""
    if value is None:
        return FROM_PRESET
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    return f"`{value}`" if value != "" else '`""`'


def _valid_values(range: Range) -> str:
    if range.choices:
        return ", ".join(f"`{choice}`" for choice in range.choices)
    return str(range)


def _description(setting: Setting) -> str:
    resumed = " It may change when a run is resumed." if setting.operational else ""
    return markdown.text(setting.help + resumed)


def command_help() -> str:
    """Return a section for each command with what it prints for --help."""
    sections = [_section(f"moco-{name}", 2) for name in ("train", "evaluate", "embed", "prepare")]
    sections.append(_section("moco-export", 2))
    sections += [_section(f"moco-export {name}", 3) for name in FORMATS]
    sections += [_section(command, 2) for command in ("moco-demo", *STUDIES)]
    return "\n\n".join(sections)


def _section(command: str, level: int) -> str:
    text = _help(command)
    return f"{'#' * level} {command}\n```text\n$ {command} --help\n\n{text}\n```"


def _help(command: str) -> str:
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
