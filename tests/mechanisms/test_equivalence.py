"""Replicas against one device: the same numbers, whatever their number, stopped or not."""

import subprocess
import sys

import numpy as np
import pytest

from tests.command import ROOT
from tests.replicas import QUEUE_SIZE, SETTINGS, STEPS

RESUMED = "groups=4, shuffle_bn=True"


def train(replicas, out, *arguments):
    """Strategies cannot follow each other in a process, so each number has a process of its own."""
    command = [sys.executable, "-m", "tests.replicas", f"--replicas={replicas}", f"--out={out}"]
    result = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The directory of each number of replicas."""
    folder = tmp_path_factory.mktemp("runs")
    small = [setting for setting in SETTINGS if setting != "whole"]
    return {
        1: train(1, folder / "1"),
        2: train(2, folder / "2"),
        # Four replicas of the whole would take half a minute to compile.
        4: train(4, folder / "4", "--settings", *small),
    }


def assert_equal(found, expected):
    found, expected = np.load(found), np.load(expected)
    assert found.files == expected.files
    for name in expected.files:
        wanted = expected[name]
        if name == "losses":
            wanted = wanted[-len(found[name]) :]
        # To 1e-8 of the largest, but for zeros.
        tolerance = 1e-8 * np.abs(wanted).max()
        assert np.abs(found[name] - wanted).max() <= tolerance, name


@pytest.mark.parametrize(
    "replicas, setting", [(r, s) for r in (2, 4) for s in SETTINGS if (r, s) != (4, "whole")]
)
def test_replicas_compute_what_one_device_computes(runs, replicas, setting):
    """In float64: losses of 20 steps, weights, momentum buffers, moving statistics, queue."""
    assert_equal(runs[replicas] / f"{setting}.npz", runs[1] / f"{setting}.npz")


@pytest.mark.parametrize("setting", SETTINGS)
def test_it_was_training(runs, setting):
    found = np.load(runs[1] / f"{setting}.npz")
    assert len(found["losses"]) == STEPS
    assert np.abs(np.diff(found["losses"])).min() > 0
    rows = STEPS * 16 * (2 if setting == "symmetric" else 1)
    assert found["queue/pointer"] == rows % QUEUE_SIZE


def test_shuffling_makes_a_difference(runs):
    shuffled, plain = (
        np.load(runs[1] / f"groups=4, shuffle_bn={shuffle_bn}.npz")["losses"]
        for shuffle_bn in (True, False)
    )
    assert np.abs(shuffled - plain).max() > 1e-3


@pytest.mark.parametrize("before, after", [(4, 2), (1, 4)])
def test_a_run_goes_on_on_another_number_of_replicas(runs, tmp_path, before, after):
    train(after, tmp_path, f"--resume={runs[before]}", "--settings", RESUMED)
    found = np.load(tmp_path / f"{RESUMED}.npz")
    assert len(found["losses"]) == STEPS // 2
    assert_equal(tmp_path / f"{RESUMED}.npz", runs[1] / f"{RESUMED}.npz")
