"""The warnings of a report: a run with one problem has one warning, and a healthy run none."""

import math

import pytest

from moco_tf.report.findings import PIXELS, RANDOM, TRAINED, check
from tests.report.examples import evidence, metrics

BASELINES = {
    RANDOM: {"knn": 0.33, "linear_cached": 0.45},
    PIXELS: {"knn": 0.17, "linear_cached": 0.14},
}


def warnings(**changes):
    """Return the warnings by name, for evidence with some changes."""
    return {finding.name: finding for finding in check(evidence(**changes)) if finding.is_warning}


def accuracies(knn, linear):
    return {TRAINED: {"knn": knn, "linear_cached": linear}, **BASELINES}


def test_healthy_run_passes_all_checks():
    findings = check(evidence())
    assert not [finding.name for finding in findings if finding.is_warning]
    assert {finding.name for finding in findings} == {
        "not_finite",
        "not_finished",
        "loss_at_chance",
        "leaking_normalization",
        "collapsed_features",
        "worse_than_baselines",
        "queue_larger_than_data",
        "few_images",
        "unreadable_images",
    }


@pytest.mark.parametrize(
    ("name", "changes", "facts"),
    [
        ("not_finished", {"step": 400}, ["400 of 1,000", "epoch 4 of 10"]),
        (
            "loss_at_chance",
            {"metrics": metrics(8.3, 0.0), "config_momentum": 0.0},
            ["8.30", "ln(K+1) = 8.32", "4,097", "config.momentum=0)"],
        ),
        (
            "leaking_normalization",
            {
                "metrics": metrics(0.1, 0.98),
                "accuracies": accuracies(0.35, 0.5),
                "config_shuffle_bn": False,
            },
            ["98.0 %", "35.0 %", "33.0 %", "config.shuffle_bn=False", "config.shuffle_bn=True"],
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
        (
            "queue_larger_than_data",
            {"config_queue_size": 65536},
            ["65,536", "25,600", "config.queue_size=4096"],
        ),
        ("few_images", {"num_images": 4500}, ["4,500", "moco-export"]),
        (
            "unreadable_images",
            {
                "unreadable": [f"{number:02}.png" for number in range(12)],
                "num_images_used": 2000,
                "unreadable_classes": ["cat", "dog"],
            },
            [
                "12 of the 2,000 images cannot be read: 00.png, ",
                ", 09.png and 2 more. No test image can be read of: cat, dog.",
                "eval/report_unreadable.txt",
            ],
        ),
        (
            "worse_than_baselines",
            {"accuracies": accuracies(0.32, 0.7)},
            ["32.0 %", "33.0 %", "500"],
        ),
        ("worse_than_baselines", {"accuracies": accuracies(0.6, 0.44)}, ["44.0 %", "45.0 %"]),
        ("not_finite", {"finite": False, "low_cosine": None}, ["are not finite"]),
        ("not_finite", {"metrics": metrics(math.nan, 0.4)}, ["line 1 of 100"]),
    ],
)
def test_problem_is_reported_alone_and_with_its_numbers(name, changes, facts):
    findings = warnings(**changes)
    assert list(findings) == [name]
    finding = findings[name]
    text = " ".join((finding.title, finding.observation, finding.remedy))
    for fact in facts:
        assert fact in text
    assert "--" not in text  # Messages of the library name no flags.


def test_high_contrastive_accuracy_is_no_leak_if_the_features_are_good():
    assert not warnings(metrics=metrics(0.1, 0.98))
    assert not warnings(metrics=metrics(0.1, 0.98), accuracies=None, most_frequent=None)


def test_only_the_last_epoch_counts():
    lines = metrics(5.0, 0.4)
    early = [{**line, "loss": 8.32, "contrastive_top1": 1.0} for line in lines[:-20]]
    assert not warnings(metrics=early + lines[-20:])


def test_chance_level_of_end_to_end_is_that_of_its_batch():
    settings = {"config_mechanism": "end_to_end", "config_queue_size": 0}
    finding = warnings(metrics=metrics(5.5, 0.0), **settings)["loss_at_chance"]
    assert "ln(N) = 5.55" in finding.observation
    assert "momentum" not in finding.remedy
    assert not warnings(metrics=metrics(4.0, 0.4), **settings)


def test_learning_rate_is_stated_per_256_images_only_if_it_is_scaled():
    for scaled in (True, False):
        finding = warnings(finite=False, low_cosine=None, config_scale_learning_rate=scaled)
        assert ("per 256 images" in finding["not_finite"].remedy) == scaled


def test_memory_bank_has_no_check_of_a_key_encoder_or_a_queue():
    names = {finding.name for finding in check(evidence(config_mechanism="memory_bank"))}
    assert not names & {"leaking_normalization", "queue_larger_than_data"}


def test_run_without_metrics_gets_the_other_checks():
    names = {finding.name for finding in check(evidence(metrics=[]))}
    assert not names & {"leaking_normalization", "loss_at_chance"}
    assert "collapsed_features" in names
