"""What a report warns of: at runs made to be ill in one way each, and at a healthy one."""

import math

import pytest

from moco_tf.report.findings import look
from tests.report.made import evidence, metrics

BASELINES = {
    "random initialisation": {"knn": 0.33, "linear_cached": 0.45},
    "raw pixels": {"knn": 0.17, "linear_cached": 0.14},
}


def warnings(**changes):
    """`{kind: Finding}` of those that warn."""
    return {finding.kind: finding for finding in look(evidence(**changes)) if finding.warns}


def trained(knn, linear):
    return {"trained": {"knn": knn, "linear_cached": linear}, **BASELINES}


def test_a_healthy_run_is_not_warned_of():
    found = look(evidence())
    assert not [finding.kind for finding in found if finding.warns]
    assert {finding.kind for finding in found} == {
        "not_finite",
        "not_finished",
        "loss_at_chance",
        "leaking_normalization",
        "collapsed_features",
        "worse_than_baselines",
        "queue_larger_than_data",
        "few_images",
    }


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("not_finished", {"step": 400}, ["400 of 1,000", "epoch 4 of 10"]),
        (
            "loss_at_chance",
            {"metrics": metrics(8.3, 0.0), "config_momentum": 0.0},
            ["8.30", "ln(K+1) = 8.32", "4,097", "--config.momentum=0)"],
        ),
        (
            "leaking_normalization",
            {
                "metrics": metrics(0.1, 0.98),
                "accuracies": trained(0.35, 0.5),
                "config_shuffle_bn": False,
            },
            ["98.0 %", "35.0 %", "33.0 %", "shuffle_bn=False, bn_groups=8", "--config.shuffle_bn"],
        ),
        (
            "leaking_normalization",
            {
                "metrics": metrics(0.1, 0.98),
                "accuracies": None,
                "most_frequent": None,
                "config_shuffle_bn": False,
            },
            ["98.0 %", "Without labels"],
        ),
        ("collapsed_features", {"low_cosine": 0.997}, ["0.997", "40.0"]),
        ("collapsed_features", {"effective_rank": 1.2}, ["0.200", "1.2"]),
        ("queue_larger_than_data", {"config_queue_size": 65536}, ["65,536", "25,600"]),
        ("few_images", {"num_images": 4500}, ["4,500"]),
        ("worse_than_baselines", {"accuracies": trained(0.32, 0.7)}, ["32.0 %", "33.0 %", "500"]),
        ("worse_than_baselines", {"accuracies": trained(0.6, 0.44)}, ["44.0 %", "45.0 %"]),
        ("not_finite", {"finite": False, "low_cosine": None}, ["are not all finite"]),
        ("not_finite", {"metrics": metrics(math.nan, 0.4)}, ["line 1 of 100"]),
    ],
)
def test_what_is_wrong_is_said_alone_and_with_its_numbers(kind, changes, words):
    found = warnings(**changes)
    assert list(found) == [kind]
    text = " ".join((found[kind].title, found[kind].numbers, found[kind].remedy))
    for word in words:
        assert word in text


def test_a_high_contrastive_accuracy_is_no_leak_where_the_features_are_good():
    assert not warnings(metrics=metrics(0.1, 0.98))
    assert not warnings(metrics=metrics(0.1, 0.98), accuracies=None, most_frequent=None)


def test_only_the_last_epoch_counts():
    lines = metrics(5.0, 0.4)
    early = [{**line, "loss": 8.32, "contrastive_top1": 1.0} for line in lines[:-20]]
    assert not warnings(metrics=early + lines[-20:])


def test_chance_of_the_end_to_end_mechanism_is_that_of_its_batch():
    settings = {"config_mechanism": "end_to_end", "config_queue_size": 0}
    found = warnings(metrics=metrics(5.5, 0.0), **settings)["loss_at_chance"]
    assert "ln(N) = 5.55" in found.numbers and "momentum" not in found.remedy
    assert not warnings(metrics=metrics(4.0, 0.4), **settings)


def test_a_memory_bank_has_neither_a_key_encoder_to_leak_nor_a_queue():
    kinds = {finding.kind for finding in look(evidence(config_mechanism="memory_bank"))}
    assert not kinds & {"leaking_normalization", "queue_larger_than_data"}


def test_a_run_without_a_log_is_looked_at_as_far_as_it_goes():
    kinds = {finding.kind for finding in look(evidence(metrics=[]))}
    assert not kinds & {"leaking_normalization", "loss_at_chance"}
    assert "collapsed_features" in kinds
