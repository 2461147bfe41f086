"""Replicas compute what one device computes, for any number of them and after a resumption."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests import replicas
from tests.command import ROOT
from tests.precision import in_float64
from tests.replicas import QUEUE_SIZE, RESUMED, SETTINGS, STEPS

pytestmark = pytest.mark.slow


def train(count, out, *arguments):
    """Train on `count` replicas in a separate process: `tests.replicas` lists the arguments."""
    command = [sys.executable, "-m", "tests.replicas", f"--replicas={count}", f"--out={out}"]
    result = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return out


@pytest.fixture(scope="module")
def float64():
    with in_float64():
        yield


@pytest.fixture(scope="module")
def one_device(float64, tmp_path_factory):
    """The directory of the runs on one device."""
    out = tmp_path_factory.mktemp("one_device")
    for name in SETTINGS:
        replicas.train(name, tf.distribute.get_strategy(), out)
    return out


@pytest.fixture(scope="module")
def four_replicas(one_device, tmp_path_factory):
    """The directory of a run on four replicas, and of a run on one device that goes on there.

    There is only one of the settings, because four replicas take long to compile. Two strategies of
    different size cannot follow each other in a process, so these have a process of their own.
    """
    folder = tmp_path_factory.mktemp("four_replicas")
    resumed = folder / "resumed"
    train(4, folder, "--settings", RESUMED, "--then_resume", str(one_device), str(resumed))
    return folder, resumed


def assert_equal(path, expected_path):
    """Compare losses and variables with a tolerance of 1e-8 of the largest value of each."""
    actual, expected = np.load(path), np.load(expected_path)
    assert actual.files == expected.files
    for name in expected.files:
        values = expected[name]
        if name == "losses":
            values = values[-len(actual[name]) :]  # A resumed run has those of the second half.
        assert np.abs(actual[name] - values).max() <= 1e-8 * np.abs(values).max(), name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.nightly)
        if name in ("augmented", "symmetric")
        else name
        for name in SETTINGS
    ],
)
def test_two_replicas_compute_what_one_device_computes(one_device, two_replicas, tmp_path, name):
    """Losses of 20 steps, weights, momentum buffers, moving statistics and queue in float64."""
    replicas.train(name, two_replicas, tmp_path)
    assert_equal(tmp_path / f"{name}.npz", one_device / f"{name}.npz")


@pytest.mark.nightly
@pytest.mark.distributed
def test_four_replicas_compute_what_one_device_computes(one_device, four_replicas):
    assert_equal(four_replicas[0] / f"{RESUMED}.npz", one_device / f"{RESUMED}.npz")


@pytest.mark.nightly
@pytest.mark.distributed
def test_run_of_one_device_continues_on_four_replicas(one_device, four_replicas):
    path = four_replicas[1] / f"{RESUMED}.npz"
    assert len(np.load(path)["losses"]) == STEPS // 2
    assert_equal(path, one_device / f"{RESUMED}.npz")


@pytest.mark.nightly
@pytest.mark.distributed
def test_run_of_four_replicas_continues_on_two(
    float64, one_device, four_replicas, two_replicas, tmp_path
):
    replicas.train(RESUMED, two_replicas, tmp_path, resume=four_replicas[0])
    path = tmp_path / f"{RESUMED}.npz"
    assert len(np.load(path)["losses"]) == STEPS // 2
    assert_equal(path, one_device / f"{RESUMED}.npz")


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_changes_in_each_step(one_device, name):
    result = np.load(one_device / f"{name}.npz")
    assert len(result["losses"]) == STEPS
    assert np.abs(np.diff(result["losses"])).min() > 0
    rows = STEPS * 16 * (2 if name == "symmetric" else 1)
    assert result["queue/pointer"] == rows % QUEUE_SIZE


def test_shuffling_makes_a_difference(one_device, tmp_path, monkeypatch):
    monkeypatch.setitem(SETTINGS, "plain", {**SETTINGS["shuffled"], "shuffle_bn": False})
    replicas.train("plain", tf.distribute.get_strategy(), tmp_path)
    shuffled = np.load(one_device / "shuffled.npz")["losses"]
    plain = np.load(tmp_path / "plain.npz")["losses"]
    assert np.abs(shuffled - plain).max() > 1e-3
