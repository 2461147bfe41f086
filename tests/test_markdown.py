"""Tables in Markdown."""

from moco_tf.markdown import table


def test_table_has_a_header_a_rule_and_a_line_for_each_row():
    lines = table(["a", "b"], iter([("1", "2"), ("3", "4")])).splitlines()
    assert lines == ["| a | b |", "| --- | --- |", "| 1 | 2 |", "| 3 | 4 |"]


def test_table_without_rows_is_its_header():
    assert table(["a"], []).splitlines() == ["| a |", "| --- |"]
