"""The charts of a report show the values of metrics.jsonl under their names."""

import math

import pytest

from moco_tf.report.curves import charts
from moco_tf.report.findings import PIXELS, RANDOM
from tests.report.examples import evidence

KEYS = (
    "loss",
    "contrastive_top1",
    "contrastive_top5",
    "knn_top1",
    "effective_rank",
    "alignment",
    "uniformity",
    "feature_std",
    "dead_dimensions",
    "learning_rate",
)


def test_each_curve_has_the_values_of_its_name():
    lines = [
        {"step": step, **{key: number + step / 100 for number, key in enumerate(KEYS)}}
        for step in (10, 20)
    ]
    made = charts(evidence(metrics=lines, config_queue_size=4096))
    curves = [
        (series["name"], series["steps"], series["values"])
        for chart in made
        for series in chart["series"]
    ]
    names = ["loss", "top-1", "top-5", "kNN", "rank", "alignment", "uniformity"]
    names += ["standard deviation", "dead dimensions", "rate"]
    expected = [
        (name, [10, 20], [pytest.approx(number + 0.1), pytest.approx(number + 0.2)])
        for number, name in enumerate(names)
    ]
    assert curves == expected


def test_lines_of_reference_are_chance_and_the_knn_accuracies_of_the_baselines():
    lines = [{"step": 10, "loss": 5.0, "knn_top1": 0.5}]
    loss, knn = charts(evidence(metrics=lines, config_queue_size=4096))
    [chance] = loss["lines"]
    assert chance["name"] == "chance, ln(K+1) ="
    assert chance["value"] == pytest.approx(math.log(4097))
    assert knn["lines"] == [{"name": RANDOM, "value": 0.33}, {"name": PIXELS, "value": 0.17}]
