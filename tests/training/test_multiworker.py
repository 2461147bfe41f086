"""Two workers in separate processes train one run together, or are refused."""

import contextlib
import dataclasses
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import load_backbone, run_directory, run_metrics, workers
from moco_tf.config import default_config
from moco_tf.data import sources
from moco_tf.errors import UserError
from moco_tf.evaluation import protocols
from moco_tf.evaluation.extraction import extract
from moco_tf.run_data import RunData
from moco_tf.training.accessory import Accessory
from moco_tf.training.best import BestCheckpoint
from moco_tf.training.run import _require_identical_workers, train
from tests import replicas
from tests.command import ROOT, TINY, logged_steps, state, wait_for
from tests.mechanisms.test_equivalence import assert_equal
from tests.precision import in_float64
from tests.replicas import RESUMED, STEPS

LAST_STEP = 18  # Three epochs of six steps, so that a signal reaches the run in the middle.

# Values in the log that differ between two identical runs.
TIMES = ("images_per_second", "waiting_for_data")


def tf_config():
    """Return the environment of each worker of a cluster on free ports."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in sockets]
    cluster = {"worker": addresses}
    return [
        {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})}
        for index in range(2)
    ]


def slurm():
    """Return the environment that srun gives to two tasks on one machine."""
    while True:
        job = random.randrange(9_999)  # It determines the ports.
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in (20_000 + job, 20_001 + job):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            break
    names = {
        "SLURM_JOB_ID": job,
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_TASKS": 2,
        "SLURM_STEP_TASKS_PER_NODE": 2,
        "SLURMD_NODENAME": "localhost",
    }
    tasks = [names | {"SLURM_PROCID": task, "SLURM_LOCALID": task} for task in range(2)]
    return [{name: str(value) for name, value in task.items()} for task in tasks]


@contextlib.contextmanager
def started(*arguments, own_arguments=((), ()), environments=None):
    """Start `python *arguments` twice, with each worker's own arguments, and end both."""
    # A user's environment has neither the cluster nor the log level of this process.
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "TF_CONFIG", "TF_CPP"))
    }
    processes = []
    try:
        for more, environment in zip(own_arguments, environments or tf_config(), strict=True):
            processes.append(
                subprocess.Popen(
                    [sys.executable, *map(str, (*arguments, *more))],
                    cwd=ROOT,
                    env=clean | environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()


def outputs_of(processes, status=0, timeout=300):
    """Wait for workers to exit with a status, and return what each printed once all had started."""
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), outputs
    return [output.partition("waiting for the other workers\n")[2] for output in outputs]


def run_both(*arguments, status=0, **options):
    with started(*arguments, **options) as processes:
        return outputs_of(processes, status)


def train_on_one_device(out, resume=None):
    with in_float64():
        replicas.train(RESUMED, tf.distribute.get_strategy(), out, resume)


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """Return a folder of results of tests.replicas.

    "one" is from one device, and "0" and "1" are from two workers with two replicas each.
    """
    folder = tmp_path_factory.mktemp("states")
    train_on_one_device(folder / "one")
    train_on_two_workers(folder)
    return folder


def train_on_two_workers(folder, *arguments):
    arguments = ("-m", "tests.replicas", "--multiworker", "--settings", RESUMED, *arguments)
    run_both(*arguments, own_arguments=[[f"--out={folder / str(i)}"] for i in range(2)])


@pytest.mark.slow
@pytest.mark.distributed
def test_two_workers_compute_what_one_device_computes(states):
    """tests/mechanisms/test_equivalence.py checks the same for four replicas of one process."""
    assert_workers_equal_one_device(states, states, STEPS)


@pytest.mark.nightly
@pytest.mark.distributed
def test_two_workers_continue_a_run_of_one_device(states, tmp_path):
    train_on_two_workers(tmp_path, f"--resume={states / 'one'}")
    assert_workers_equal_one_device(tmp_path, states, STEPS // 2)


def assert_workers_equal_one_device(folder, states, steps):
    paths = [folder / str(index) / f"{RESUMED}.npz" for index in range(2)]
    first, second = map(np.load, paths)
    assert first.files == second.files
    for name in first.files:
        np.testing.assert_array_equal(second[name], first[name], err_msg=name)
    assert len(first["losses"]) == steps
    assert_equal(paths[0], states / "one" / f"{RESUMED}.npz")


@pytest.mark.slow
@pytest.mark.distributed
def test_one_device_continues_a_run_of_two_workers(states, tmp_path):
    train_on_one_device(tmp_path, resume=states / "0")
    assert_equal(tmp_path / f"{RESUMED}.npz", states / "one" / f"{RESUMED}.npz")


@pytest.mark.nightly
@pytest.mark.distributed
def test_gradients_are_reduced_in_parts_during_the_backward_pass():
    """The documentation states these parts: the gradients of the last layers come first."""
    for output in run_both("-m", "tests.gradient_parts"):
        parts = json.loads(output.strip().splitlines()[-1])
        sizes, convolutions = np.transpose(parts)
        np.testing.assert_allclose(sizes, [32.6, 26.3, 27.6, 8.7], atol=0.06)
        assert convolutions.tolist() == [5, 4, 18, 26]


@pytest.fixture(scope="module")
def settings(image_folder):
    return (
        "train.py",
        "--strategy=multiworker",
        *TINY,
        f"--config.data.source=folder:{image_folder}",
        "--config.rgb_operations=False",  # They take a while to compile.
        "--config.epochs=3",
        "--config.knn_every=3",
        "--config.checkpoint_every=3",
    )


@pytest.fixture(scope="module")
def interrupted(settings, tmp_path_factory):
    """Return the directory of a run by two workers, and what they printed in each start.

    The first start is by Slurm, and its second worker gets a signal. In the second start, the
    second worker is killed. The third start finishes.
    """
    workdir = tmp_path_factory.mktemp("interrupted")
    arguments = (*settings, f"--workdir={workdir}")
    outputs = []

    with started(*arguments, environments=slurm()) as (chief, other):
        wait_for(lambda: logged_steps(workdir) >= 2, chief)
        other.send_signal(signal.SIGTERM)
        outputs.append(outputs_of([chief, other], 128 + signal.SIGTERM))
    stopped_at = logged_steps(workdir)
    assert saved_step(workdir) == stopped_at

    with started(*arguments) as (chief, other):
        wait_for(lambda: logged_steps(workdir) >= stopped_at + 5, chief)
        other.kill()
        outputs.append(outputs_of([chief], status=2, timeout=60))
    assert stopped_at < saved_step(workdir) < LAST_STEP

    outputs.append(run_both(*arguments))
    return workdir, outputs


@pytest.fixture(scope="module")
def uninterrupted(interrupted, two_replicas, tmp_path_factory):
    """Return the directory of the same run on two replicas of one process, without interruption."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    train(run_directory.read_config(str(interrupted[0])), str(workdir), two_replicas)
    return workdir


def saved_step(workdir):
    return int(run_directory.latest_checkpoint(str(workdir)).rsplit("-", 1)[1])


@pytest.mark.nightly
@pytest.mark.distributed
def test_signal_to_one_worker_stops_both_after_the_same_step(interrupted):
    _, [(chief, other), (restarted,), _] = interrupted
    step = int(re.search(r"resuming from step (\d+)", restarted)[1])
    assert f"stopped at step {step} of {LAST_STEP}" in chief
    assert other == ""


@pytest.mark.nightly
@pytest.mark.distributed
def test_killed_worker_ends_the_others_with_a_one_line_error(interrupted):
    _, [_, (chief,), _] = interrupted
    [error] = [line for line in chief.splitlines() if line.startswith("error: ")]
    assert chief.endswith(f"{error}\n")
    assert "Traceback" not in chief
    assert "start all workers again with the same command" in error


@pytest.mark.nightly
@pytest.mark.distributed
def test_only_the_chief_writes_and_prints(interrupted, uninterrupted):
    workdir, [*_, (chief, other)] = interrupted
    # Names of TensorBoard's files without the time, the machine and the process of each start.
    files, expected = (
        sorted(
            re.sub(r"(tfevents)\..*", r"\1", str(path.relative_to(folder)))
            for path in folder.rglob("*")
            if path.is_file()
        )
        for folder in (workdir, uninterrupted)
    )
    assert sum("tfevents" in name for name in files) == 3
    assert sorted(set(files)) == expected
    assert f"step {LAST_STEP}/{LAST_STEP}" in chief
    assert str(workdir) in chief.splitlines()[-1]
    assert other == ""


@pytest.mark.nightly
@pytest.mark.distributed
def test_interrupted_workers_end_like_uninterrupted_replicas(interrupted, uninterrupted):
    values, expected = state(interrupted[0]), state(uninterrupted)
    assert values.keys() == expected.keys()
    assert len(values) > 50
    for name, value in expected.items():
        if "/moving_" in name:
            # Means over the replicas, which are summed in another order and again after a stop.
            np.testing.assert_allclose(values[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(values[name], value, err_msg=name)


@pytest.mark.nightly
@pytest.mark.distributed
def test_interrupted_workers_log_like_uninterrupted_replicas(interrupted, uninterrupted):
    lines, expected = (
        [
            {key: value for key, value in line.items() if key not in TIMES}
            for line in run_metrics.read_metrics(str(workdir))
        ]
        for workdir in (interrupted[0], uninterrupted)
    )
    # The last evaluation depends on the moving means, which differ in their last digits.
    assert lines == [pytest.approx(line, rel=1e-4, abs=1e-6) for line in expected]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, LAST_STEP + 1))
    assert [line["step"] for line in lines if "knn_top1" in line] == [0, LAST_STEP]


@pytest.mark.nightly
@pytest.mark.distributed
def test_evaluation_is_the_same_on_two_workers_and_one_device(image_folder, trained_run, tmp_path):
    """tests/evaluation/test_extraction.py checks the same for two replicas of one process."""
    source = sources.load(f"folder:{image_folder}")
    features = protocols.extract_both(load_backbone(str(trained_run)), source, 32)
    expected = protocols.evaluate("knn", *features)
    chief, other = run_both(
        "evaluate.py",
        "--protocol=knn",
        f"--workdir={trained_run}",
        "--strategy=multiworker",
        f"--output_dir={tmp_path}",
    )
    assert f"top-1 {expected['top1']:.4f}" in chief
    assert other == ""
    result = json.loads((tmp_path / "eval" / "knn.json").read_text())
    for name in ("top1", "top5", "num_train", "num_test"):
        assert result[name] == expected[name]


@pytest.mark.nightly
@pytest.mark.distributed
def test_two_workers_save_one_classifier(image_folder, trained_run, tmp_path):
    path = tmp_path / "classifier.keras"
    chief, other = run_both(
        "evaluate.py",
        *("--protocol=finetune", "--epochs=1", "--strategy=multiworker"),
        *(f"--workdir={trained_run}", f"--output_dir={tmp_path}", f"--save_classifier={path}"),
    )
    assert chief.endswith(f" and {path}\n")
    assert other == ""
    result = json.loads((tmp_path / "eval" / "finetune.json").read_text())
    source = sources.load(f"folder:{image_folder}")
    test = extract(keras.saving.load_model(path), source, source.test, 32)
    assert result["top1"] == (test.features.argmax(axis=1) == test.labels).mean()


@pytest.mark.nightly
@pytest.mark.distributed
def test_fine_tuning_of_two_workers_that_were_killed_continues(trained_run, tmp_path):
    settings = [
        "--protocol=finetune",
        "--epochs=3",
        "--learning_rate=0.01",
        "--strategy=multiworker",
    ]

    def flags(name):
        return [*settings, f"--workdir={trained_run}", f"--output_dir={tmp_path / name}"]

    run_both("evaluate.py", *flags("at once"))
    run_both("-m", "tests.killed_evaluation", 2, *flags("killed"), status=-signal.SIGKILL)
    [state] = (tmp_path / "killed" / "eval").iterdir()
    chief, other = run_both("evaluate.py", *flags("killed"))
    assert f"the training continues after epoch 2 of 3, from {state}" in chief
    assert other == ""
    results = [
        json.loads((tmp_path / name / "eval" / "finetune.json").read_text())
        for name in ("at once", "killed")
    ]
    for expected, point in zip(*(result["curve"] for result in results), strict=True):
        assert point == pytest.approx(expected, rel=1e-4)
    assert not state.exists()


def files_in(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.nightly
@pytest.mark.distributed
def test_workers_without_a_shared_directory_are_refused(settings, trained_run, tmp_path):
    before = files_in(trained_run)
    # The last of two flags with the same name counts.
    own_arguments = ((), (f"--workdir={tmp_path / 'elsewhere'}",))
    arguments = (*settings, f"--workdir={trained_run}")
    outputs = run_both(*arguments, own_arguments=own_arguments, status=2)
    for output, checkpoint in zip(outputs, ("step-12", "none"), strict=True):
        start = (
            f'error: the workers differ in the newest checkpoint: on this one, it is "{checkpoint}"'
        )
        assert output.startswith(start)
        assert output.count("\n") == 1
        assert "a run directory that they share" in output
    assert files_in(trained_run) == before
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture
def facts(monkeypatch):
    """Return a function that returns what a worker compares with the others."""

    def record(*worker):
        recorded = []
        monkeypatch.setattr(workers, "require_same", recorded.append)
        _require_identical_workers(*worker)
        return recorded[0]

    return record


def test_workers_compare_settings_images_and_checkpoint(facts, trained_run, tmp_path):
    config, empty = default_config(), str(tmp_path)
    other_seed = config.copy_and_resolve_references()
    other_seed.seed = 1
    base = facts(config, empty, RunData(100, 3), None)
    others = [
        ("config.seed", (other_seed, empty, RunData(100, 3))),
        ("the newest checkpoint", (config, str(trained_run), RunData(100, 3))),
        ("the number of images", (config, empty, RunData(101, 3))),
        ("the number of channels", (config, empty, RunData(100, 1))),
        ("the checksum of the images", (config, empty, RunData(100, 3, (b"left/1.jpg",)))),
    ]
    for name, worker in others:
        other = facts(*worker, None)
        assert base.keys() == other.keys()
        assert [key for key in base if base[key] != other[key]] == [name]


def test_workers_compare_the_images_of_the_monitor(facts, tmp_path):
    config = default_config()
    config.monitor_source = "photos"
    source = sources.load("photos")
    less = dataclasses.replace(source, size=9_000)
    labels = dataclasses.replace(
        source, load_labels=lambda: (source.labels[::-1], source.class_names)
    )
    base, *others = (
        facts(config, str(tmp_path), RunData(100, 3), monitored)
        for monitored in (source, less, labels)
    )
    # A worker without the setting has other values, but the same facts.
    assert facts(default_config(), str(tmp_path), RunData(100, 3), source).keys() == base.keys()
    for other, name in zip(others, ("images", "labels"), strict=True):
        differing = [key for key in base if base[key] != other[key]]
        assert differing == [f"the {name} of the kNN monitor"]


@pytest.mark.slow
@pytest.mark.distributed
def test_workers_with_other_images_do_not_evaluate_together(trained_run, tmp_path):
    """Each worker classifies its share of the images, so their accuracy would mean nothing."""
    generator = np.random.default_rng(0)
    environments = tf_config()
    for number, environment in enumerate(environments):
        np.save(tmp_path / f"{number}.npy", generator.integers(0, 256, [20, 32, 32, 3], np.uint8))
        np.save(tmp_path / f"{number}.labels.npy", np.arange(20) % 2)
        environment["IMAGES"] = str(tmp_path / f"{number}.npy")
    arguments = (
        "evaluate.py",
        "--strategy=multiworker",
        "--protocol=knn",
        f"--output_dir={tmp_path}",
    )
    arguments = (*arguments, f"--workdir={trained_run}", "--data=npy:$IMAGES")
    outputs = run_both(*arguments, environments=environments, status=2)
    for output in outputs:
        assert "error: the workers differ in the images of the evaluation: on this one" in output
        assert "top-1" not in output


def test_failure_of_what_workers_compute_together_ends_the_run(monkeypatch, capsys):
    monitor, plots = Accessory("the kNN monitor", is_shared=True), Accessory("curves.png")
    for accessory in (monitor, plots):
        with accessory.may_fail():
            raise ValueError("no reason")
    monkeypatch.setattr(workers, "several_workers", lambda: True)
    with plots.may_fail():
        raise ValueError("no reason")
    message = "^the kNN monitor failed: no reason$"
    with pytest.raises(UserError, match=message), monitor.may_fail():
        raise ValueError("no reason")


@pytest.mark.parametrize("decision", [True, False])
def test_chief_decides_which_checkpoint_is_the_best(decision, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "gather_from_workers", lambda own: [int(decision), own])
    checkpoints = types.SimpleNamespace(
        finite=types.SimpleNamespace(require=lambda step: None),
        checkpoint=tf.train.Checkpoint(weight=tf.Variable(1.0)),
    )
    arguments = (checkpoints, str(tmp_path), str(tmp_path), "knn_top1", "photos", 32, 32)
    best = BestCheckpoint(*arguments)
    best._describe = lambda step: None
    best.value = 0.5
    assert best.update(7, {"knn_top1": 0.4 if decision else 0.6}) == decision
    assert (tmp_path / "best" / "checkpoints" / "step-7.index").exists() == decision
