"""Tables and names in Markdown."""

import re
from collections.abc import Iterable, Sequence

from moco_tf.names import printable


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table.

    Args:
        header: Titles of the columns.
        rows: Cells of each row, as many as there are columns. A `|` in a cell is escaped.

    Example:
        >>> print(table(["m", "top-1"], [["0.999", "59.0"]]))
        | m | top-1 |
        | --- | --- |
        | 0.999 | 59.0 |
    """
    lines = [header, ["---"] * len(header), *rows]
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def code(name: str) -> str:
    """Return a name or a path, in which nothing is Markdown, as a code span.

    Example:
        >>> print(code("a*b*"), code("`"))
        `a*b*` `` ` ``
    """
    text = printable(name)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    padding = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def text(value: str) -> str:
    r"""Return text on one line, in which nothing is Markdown or HTML.

    Example:
        >>> print(text("*<b>[a](b)"))
        \*&lt;b>\[a\](b)
    """
    escaped = printable(value).replace("&", "&amp;").replace("<", "&lt;")
    # A `|` ends a cell only in a table, which escapes it. `_` has no effect within a word.
    return re.sub(r"[\\`*\[\]~]", r"\\\g<0>", escaped)
