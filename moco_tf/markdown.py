"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table.

    Args:
        header: Titles of the columns.
        rows: Cells of each row, as many as there are columns.

    Example:
        >>> print(table(["m", "top-1"], [["0.999", "59.0"]]))
        | m | top-1 |
        | --- | --- |
        | 0.999 | 59.0 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
