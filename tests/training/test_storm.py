"""Runs that are killed again and again, at any moment, end like runs that were never stopped.

`make storm` kills them 30 times, which takes several minutes. All tests kill them 5 times.
"""

import contextlib
import multiprocessing
import os
import pathlib
import random
import signal
import time

import numpy as np
import pytest

from moco_tf import run_directory, run_metrics
from tests.command import TINY, logged_steps, state
from tests.conftest import source_flag
from tests.training.test_multiworker import tf_config

if os.environ.get("STORM"):
    KILLS = {"one device": 18, "mirrored": 7, "two workers": 5}
else:
    KILLS = {"one device": 3, "mirrored": 1, "two workers": 1}
FLAGS = {
    "one device": [],
    "mirrored": ["--strategy=mirrored", "--virtual_devices=2"],
    "two workers": ["--strategy=multiworker"],
}

# Processes are forked from a server that has imported everything, which saves most of their start.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.training.storm_process"])


def start(arguments, environment, log):
    from tests.training import storm_process

    process = PROCESSES.Process(target=storm_process.train, args=(arguments, environment, log))
    process.start()
    return process


@contextlib.contextmanager
def running(arguments, setup, logs):
    """Start the processes of a run, and kill those that are left at the end of the block."""
    environments = tf_config() if setup == "two workers" else [{}]
    processes = [
        start(arguments, environment, f"{logs}-{index}")
        for index, environment in enumerate(environments)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def finish(arguments, setup, logs):
    with running(arguments, setup, logs) as processes:
        for index, process in enumerate(processes):
            process.join(timeout=300)
            assert process.exitcode == 0, pathlib.Path(f"{logs}-{index}").read_text()


def losses(workdir):
    lines = run_metrics.read_metrics(str(workdir))
    return [(line["step"], line.get("loss"), line.get("knn_top1")) for line in lines]


def storm(arguments, setup, workdir, kills, generator):
    """Start the run and kill it in a few steps, again and again."""
    saved_step = 0
    for kill in range(kills):
        logs = f"{workdir}.{kill}.log"
        with running(arguments, setup, logs) as processes:
            if generator.random() < 0.3:  # Somewhere between its start and its first steps.
                time.sleep(generator.uniform(0, 5))
            else:
                target = logged_steps(workdir) + generator.randint(1, 4)
                while logged_steps(workdir) < target and processes[-1].is_alive():
                    time.sleep(0.01)
                time.sleep(generator.uniform(0, 0.2))
            for index, process in enumerate(processes):
                assert process.is_alive(), pathlib.Path(f"{logs}-{index}").read_text()
            if kill % 4 == 2:  # Now and then, the run is asked to stop.
                for process in processes:
                    process.terminate()
                for process in processes:
                    process.join(timeout=60)
                    # A worker may notice that the other one has stopped before its own signal.
                    possible = [-signal.SIGTERM, 128 + signal.SIGTERM] + [2] * (len(processes) > 1)
                    assert process.exitcode in possible
        saved = run_directory.latest_checkpoint(str(workdir)) or "step-0"
        step = int(saved.rpartition("-")[2])
        assert step >= saved_step, "a checkpoint was lost"
        saved_step = step


@pytest.mark.parametrize(
    "setup",
    [
        pytest.param("one device", marks=pytest.mark.nightly),
        pytest.param("mirrored", marks=pytest.mark.nightly),
        pytest.param("two workers", marks=pytest.mark.nightly),
    ],
)
def test_killed_run_ends_like_an_uninterrupted_one(setup, image_folder, tmp_path):
    arguments = [
        *TINY,
        source_flag(image_folder),
        *FLAGS[setup],
        "--config.epochs=6",
        "--config.knn_every=3",
        # The queue takes a while to write, so that a kill can leave an incomplete checkpoint.
        "--config.queue_size=20000",
    ]
    expected, workdir = tmp_path / "expected", tmp_path / "run"
    finish([*arguments, f"--workdir={expected}"], setup, tmp_path / "expected.log")
    arguments.append(f"--workdir={workdir}")
    storm(arguments, setup, workdir, KILLS[setup], random.Random(0))
    finish(arguments, setup, tmp_path / "end.log")

    assert losses(workdir) == losses(expected)
    expected_state = state(expected)
    for name, value in state(workdir).items():
        if setup != "one device" and "moving_" in name:
            # A checkpoint holds the mean of the replicas' moving statistics.
            np.testing.assert_allclose(value, expected_state[name], rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(value, expected_state[name], err_msg=name)
    left = sorted(os.path.relpath(path, workdir) for path in workdir.rglob("*"))
    assert not [name for name in left if "tmp" in name or "_temp" in name or "lock" in name]
