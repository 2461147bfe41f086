"""Tables and names in Markdown, as a parser of CommonMark shows them."""

import html
import re

import pytest
from markdown_it import MarkdownIt

from moco_tf.markdown import code, table, text


def test_table_has_a_header_a_rule_and_a_line_for_each_row():
    lines = table(["a", "b"], iter([("1", "2"), ("3", "4")])).splitlines()
    assert lines == ["| a | b |", "| --- | --- |", "| 1 | 2 |", "| 3 | 4 |"]


def test_table_without_rows_is_its_header():
    assert table(["a"], []).splitlines() == ["| a |", "| --- |"]


def shown(markdown):
    """Return what a page shows for a line of Markdown, and the tags in it."""
    page = MarkdownIt("commonmark").enable("table").render(markdown)
    return html.unescape(re.sub(r"<[^>]*>", "", page)).strip("\n"), set(re.findall(r"<(\w+)", page))


VALUES = pytest.mark.parametrize(
    "value",
    [
        "plain, 0.5 ± 1",
        "<script>alert(1)</script>",
        "a`b``c",
        "`",
        "*a* [b](c) ~~d~~",
        "a|b",
        "\\<b>",
    ],
)


@VALUES
def test_text_and_code_show_the_value_itself(value):
    assert shown(f"- {text(value)} and {code('<b>')}") == (f"{value} and <b>", {"ul", "li", "code"})
    assert shown(f"- {code(value)}") == (value, {"ul", "li", "code"})


@VALUES
def test_cells_show_the_value_itself(value):
    content, tags = shown(table(["text", "code"], [[text(value), code(value)]]))
    assert [line for line in content.split("\n") if line] == ["text", "code", value, value]
    assert tags == {"table", "thead", "tbody", "tr", "th", "td", "code"}


def test_line_breaks_are_visible():
    assert shown(text("a\n## b")) == (r"a\n## b", {"p"})
    assert shown(code("a\n## b")) == (r"a\n## b", {"p", "code"})
