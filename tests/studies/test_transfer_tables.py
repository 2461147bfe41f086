"""The tables of the study of transfer, from made-up results: complete ones, and a part of them."""

import copy
import dataclasses
import importlib
import json
import math
import statistics

import numpy as np
import pytest
import scipy.stats

from studies.transfer import design as designs
from studies.transfer import figure
from tests.command import ROOT

SEEDS = (0, 1, 2, 3, 4)
# A score of each initialization, and how it varies with the seed.
MEANS = {"random": 0.2, "supervised": 0.35, "moco": 0.36}
NOISE = {
    "random": (0.01, -0.01, 0.0, 0.005, -0.005),
    "supervised": (0.02, -0.02, 0.01, -0.01, 0.0),
    "moco": (-0.01, 0.02, -0.02, 0.0, 0.01),
}


@pytest.fixture(scope="module")
def tables():
    """Import docs/transfer_tables.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        yield importlib.import_module("transfer_tables")


@pytest.fixture
def results():
    design = designs.Design()
    runs = []
    for training in designs.pretrainings(design):
        measures = {"top1": 0.8, "final_loss": 4.5, "chance": 6.9, "final_contrastive_top1": 0.3}
        runs.append({**dataclasses.asdict(training), **measures, "seconds": 600.0})
    for trial in designs.trials(design, list(SEEDS)):
        name = trial.settings["initialization"]
        score = MEANS[name] + NOISE[name][trial.seed] + 0.1 * trial.settings["schedule"]
        keys = ("ap", "ap50", "ap75") if trial.settings["task"] == "detection" else ("mean_iou",)
        runs.append({**dataclasses.asdict(trial), **dict.fromkeys(keys, score), "seconds": 60.0})
    return {
        "config": json.loads(json.dumps(dataclasses.asdict(design))),
        "data": {"encoder": "resnet18"},
        "seeds": list(SEEDS),
        "seconds": 9000.0,
        "runs": runs,
    }


@pytest.fixture
def write(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    return lambda results: (tmp_path / "results.json").write_text(json.dumps(results))


def test_unfinished_study_shows_the_seeds_that_are_finished(tables, results, write):
    assert tables.transfer() == tables.NO_RESULTS
    unfinished = copy.deepcopy(results)
    # Two pre-trainings and eleven of the twelve trials of the first seed.
    del unfinished["runs"][13:]
    write(unfinished)
    assert tables.transfer() == tables.NO_RESULTS
    unfinished["runs"] = results["runs"][: 2 + 3 * 12 + 1]
    write(unfinished)
    text = tables.transfer()
    assert "*This study is not complete: these are 3 of 5 trials of each row" in text
    assert "| trials | 3 of each row |" in text
    percents = [100 * (MEANS["moco"] + noise + 0.1) for noise in NOISE["moco"][:3]]
    assert f"| 1x | MoCo | {np.mean(percents):.1f} ± {np.std(percents, ddof=1):.1f} |" in text
    assert "t-test" not in text
    assert ".png" not in text
    write(results)
    text = tables.transfer()
    assert "not complete" not in text
    assert "paired t-test" in text


def test_scores_are_means_and_sample_deviations(tables, results):
    lines = tables.scores(results).splitlines()
    assert len(lines) == 2 + 2 * 3
    percents = [100 * (MEANS["moco"] + noise + 0.1) for noise in NOISE["moco"]]
    cell = f"{np.mean(percents):.1f} ± {np.std(percents, ddof=1):.1f}"
    assert lines[4] == f"| 1x | MoCo | {cell} | {cell} | {cell} | {cell} |"


def test_differences_are_paired_t_tests_with_holms_correction(tables, results):
    table, note = tables.differences(results).split("\n\n")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert len(rows) == 12
    assert "for\n12 tests at a level of 0.05" in note
    # The statistic by its definition, and its distribution by numerical integration.
    for row, first, second in zip(
        rows[:3], ("moco", "moco", "supervised"), ("random", "supervised", "random"), strict=True
    ):
        pairs = zip(NOISE[first], NOISE[second], strict=True)
        gaps = [100 * (MEANS[first] - MEANS[second] + a - b) for a, b in pairs]
        mean, error = statistics.mean(gaps), statistics.stdev(gaps) / math.sqrt(5)
        assert row[2].startswith(f"{mean:+.1f} (")
        half = 2.776 * error  # The 97.5 % quantile of t with 4 degrees of freedom.
        assert row[2].endswith(f"({mean - half:+.1f} to {mean + half:+.1f})")
        p = 2 * scipy.stats.t.sf(abs(mean / error), 4)
        assert row[3] == (f"{p:.4f}" if p >= 1e-4 else "< 0.0001")
    assert [row[4] for row in rows[:3]] == ["higher", "no clear difference", "higher"]


def test_holms_correction_of_a_worked_example(tables):
    # p of 0.01, 0.04, 0.03 and 0.005 are compared with 0.05/4, /3, /2 and /1 in ascending order.
    assert tables.holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert tables.holm([0.012, 0.04, 0.02, 0.012]) == [True, True, True, True]


def test_all_numbers_of_the_design_are_those_of_the_results(tables, results, write):
    results["config"]["detection_steps"] = 123
    write(results)
    text = tables.transfer()
    assert "| steps of detection | 123 (1x) and 246 (2x) |" in text
    assert "| time | 2.5 hours on two CPU cores, beside other work |" in text
    assert "80.0 % of 1,024 test images" in text


def test_figure_of_unfinished_results(results, tmp_path):
    results["runs"] = results["runs"][:5]
    path = figure.write(str(tmp_path), results)
    with open(path, "rb") as file:
        assert file.read(4) == b"\x89PNG"
