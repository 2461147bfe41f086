"""The metrics of a run: damaged lines are refused, and lines after a checkpoint are removed."""

import json
import math

import pytest

from moco_tf import run_metrics
from moco_tf.errors import UserError


def test_metrics_are_rewound_without_the_incomplete_line(tmp_path):
    lines = [{"step": step, "loss": 1.0} for step in (1, 2, 3)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    assert run_metrics.read_metrics(str(tmp_path)) == []
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 4, "lo')
    assert run_metrics.read_metrics(str(tmp_path)) == lines
    run_metrics.rewind_metrics(str(tmp_path), 2)
    assert run_metrics.read_metrics(str(tmp_path)) == lines[:2]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("not json", "Expecting value: line 1 column 1 (char 0)"),
        ("[1, 2]", "no object with a step"),
        ('{"loss": 1.0}', "no object with a step"),
        ('{"step": "3"}', "no object with a step"),
        ('{"step": -1}', "no object with a step"),
        ('{"step": 3, "loss": "low"}', "loss is no number"),
        ("", "Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_damaged_line_of_metrics_is_named(tmp_path, line, reason):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "loss": null}}\n{line}\n{{"step": 4}}\n')
    with pytest.raises(UserError) as error:
        run_metrics.read_metrics(str(tmp_path))
    message = str(error.value)
    assert message.startswith(f"line 2 of {path} is not a line of metrics ({reason}): restore")
    path.write_text('{"step": 1, "loss": null}\n')
    assert run_metrics.read_metrics(str(tmp_path)) == [{"step": 1}]


def test_curve_has_a_gap_where_the_views_of_the_monitor_change():
    sizes = [None, 32, 32, 48, None, 64]
    lines = [
        {"step": step, "knn_top1": 0.1 * step, **({"evaluation_size": size} if size else {})}
        for step, size in enumerate(sizes)
    ]
    lines.insert(3, {"step": 2, "loss": 1.0})
    points = run_metrics.curve(lines, "knn_top1")
    assert [step for step, _ in points] == [0, 1, 2, 2, 3, 4, 5]
    assert [math.isnan(value) for _, value in points] == [False] * 3 + [True] + [False] * 3
    assert run_metrics.curve(lines, "loss") == [(2, 1.0)]
