"""Two workers, in processes of their own, of two replicas each: they are one run, or none."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from moco_tf import load_backbone, run_directory
from moco_tf.data import sources
from moco_tf.evaluation import protocols
from tests.command import ROOT, TINY, logged_steps, run, state, wait_for
from tests.images import write_folder
from tests.mechanisms.test_equivalence import RESUMED, assert_equal, train
from tests.replicas import STEPS

# Twelve steps an epoch: enough of them that a signal finds a run in its midst.
IMAGES, LAST_STEP = 192, 24

# What two runs of the same numbers do not log alike.
TIMES = ("images_per_second", "waiting_for_data")


def tf_config():
    """The environment of each worker of a cluster on free ports."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        addresses = [f"127.0.0.1:{held.getsockname()[1]}" for held in sockets]
    cluster = {"worker": addresses}
    return [
        {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})}
        for index in range(2)
    ]


def slurm():
    """The same as srun gives it to two tasks on one machine."""
    while True:
        job = random.randrange(9_999)  # which says their ports
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
def workers(*arguments, own=((), ()), environments=None):
    """Starts `python *arguments`, and what each has of its `own`, twice; leaves none behind."""
    # What a person's environment has: all but this process' own cluster and silence.
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "TF_CONFIG", "TF_CPP"))
    }
    processes = []
    try:
        for more, environment in zip(own, environments or tf_config(), strict=True):
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


def end(processes, status=0, timeout=300):
    """What each printed after it had found the others; it must end with that exit status."""
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), outputs
    return [output.partition("waiting for the others\n")[2] for output in outputs]


def run_both(*arguments, status=0, **options):
    with workers(*arguments, **options) as processes:
        return end(processes, status)


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """A folder of tests.replicas for one device, "1", and for each of two workers, "2/0", "2/1"."""
    folder = tmp_path_factory.mktemp("states")
    train(1, folder / "1", "--settings", RESUMED)
    train_both(folder / "2", "--settings", RESUMED)
    return folder


def train_both(out, *arguments):
    own = [[f"--out={out}/{index}"] for index in range(2)]
    run_both("-m", "tests.replicas", "--multiworker", *arguments, own=own)


def assert_both_equal(folder, expected):
    """That the workers hold the same, bit for bit, and compute what one device computes."""
    first, second = (np.load(folder / str(index) / f"{RESUMED}.npz") for index in range(2))
    assert first.files == second.files
    for name in first.files:
        np.testing.assert_array_equal(second[name], first[name], err_msg=name)
    assert_equal(folder / "0" / f"{RESUMED}.npz", expected / f"{RESUMED}.npz")
    return len(first["losses"])


def test_two_workers_compute_what_one_device_computes(states):
    """Which is what four replicas of one process compute: see tests/test_equivalence.py."""
    assert assert_both_equal(states / "2", states / "1") == STEPS


@pytest.mark.slow
def test_two_workers_go_on_with_a_run_of_one_device(states, tmp_path):
    train_both(tmp_path, f"--resume={states / '1'}", "--settings", RESUMED)
    assert assert_both_equal(tmp_path, states / "1") == STEPS // 2


@pytest.mark.slow
def test_one_device_goes_on_with_a_run_of_two_workers(states, tmp_path):
    train(1, tmp_path, f"--resume={states / '2/0'}", "--settings", RESUMED)
    assert_equal(tmp_path / f"{RESUMED}.npz", states / "1" / f"{RESUMED}.npz")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "photos", each=IMAGES // 2)


def settings(images):
    return (
        *TINY,
        f"--config.data.source=folder:{images}",
        "--config.bn_groups=4",
        "--config.epochs=2",
        "--config.knn_every=2",
        "--config.checkpoint_every=5",
    )


def arguments(images, workdir):
    strategy = "--strategy=multiworker"
    return ("-m", "tests.worker", strategy, *settings(images), f"--workdir={workdir}")


@pytest.fixture(scope="module")
def mirrored(images, tmp_path_factory):
    """The directory of a run of four replicas in one process that nothing stopped."""
    workdir = tmp_path_factory.mktemp("mirrored")
    devices = ("--strategy=mirrored", "--virtual_devices=4")
    run("train.py", *devices, *settings(images), f"--workdir={workdir}")
    return workdir


@pytest.fixture(scope="module")
def interrupted(images, tmp_path_factory):
    """The directory of the same run of two workers, in three starts, and what each of them printed.

    Slurm makes the first start. In each of the first two something happens to the second worker.
    """
    workdir = tmp_path_factory.mktemp("interrupted")
    printed = []

    with workers(*arguments(images, workdir), environments=slurm()) as (chief, other):
        wait_for(lambda: logged_steps(workdir) >= 2, chief)
        other.send_signal(signal.SIGTERM)
        printed.append(end([chief, other], 128 + signal.SIGTERM))
    stopped = logged_steps(workdir)
    assert saved_step(workdir) == stopped

    with workers(*arguments(images, workdir)) as (chief, other):
        wait_for(lambda: logged_steps(workdir) >= stopped + 6, chief)
        other.kill()
        printed.append(end([chief], status=2, timeout=60))
    assert saved_step(workdir) > stopped

    printed.append(run_both(*arguments(images, workdir)))
    return workdir, printed


def saved_step(workdir):
    return int(run_directory.latest_checkpoint(str(workdir)).rsplit("-", 1)[1])


def going_on_from(output):
    return int(re.search(r"going on from step (\d+)", output).group(1))


def test_a_signal_to_one_worker_stops_both_after_the_same_step(interrupted):
    _, [(chief, other), (restarted,), _] = interrupted
    assert f"stopped at step {going_on_from(restarted)} of {LAST_STEP}" in chief
    assert other == ""


def test_a_killed_worker_ends_the_others_in_a_line_that_says_what_to_do(interrupted):
    _, [_, (chief,), _] = interrupted
    [error] = [line for line in chief.splitlines() if line.startswith("error: ")]
    assert chief.endswith(f"{error}\n") and "Traceback" not in chief
    assert "is gone: start all of them again with the same command" in error


def test_only_the_chief_writes_and_speaks(interrupted, mirrored):
    workdir, [*_, (chief, other)] = interrupted
    # TensorBoard's file without the time, the machine and the process, of which each start has one.
    files, expected = (
        sorted(
            re.sub(r"(tfevents)\..*", r"\1", str(path.relative_to(folder)))
            for path in folder.rglob("*")
            if path.is_file()
        )
        for folder in (workdir, mirrored)
    )
    assert sum("tfevents" in name for name in files) == 3
    assert sorted(set(files)) == expected
    assert f"step {LAST_STEP}/{LAST_STEP}" in chief and f"wrote {workdir}" in chief
    assert other == ""


def test_two_workers_end_where_four_replicas_of_one_process_end(interrupted, mirrored):
    """Stopped and killed as they were, and the other run was not."""
    found, expected = state(interrupted[0]), state(mirrored)
    assert found.keys() == expected.keys() and len(found) > 50
    for name, value in expected.items():
        if "/moving_" in name:
            # Of a mean over the replicas, whose sum has another order and starts again at a stop.
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_two_workers_log_what_four_replicas_of_one_process_log(interrupted, mirrored):
    found, expected = (
        [
            {key: value for key, value in line.items() if key not in TIMES}
            for line in run_directory.read_metrics(str(workdir))
        ]
        for workdir in (interrupted[0], mirrored)
    )
    assert found == expected
    steps = [line["step"] for line in found if "loss" in line]
    assert steps == list(range(1, LAST_STEP + 1))
    assert [line["step"] for line in found if "knn_top1" in line] == [0, LAST_STEP]


def test_an_evaluation_is_the_same_on_workers_replicas_and_one_device(
    images, interrupted, tmp_path
):
    workdir, _ = interrupted
    source = sources.load(f"folder:{images}")
    features = protocols.extract_both(load_backbone(str(workdir)), source, 32)
    expected = protocols.evaluate("knn", *features, 2, k=200, temperature=0.07)

    evaluation = ("evaluate.py", "--protocol=knn", f"--workdir={workdir}")
    strategy = ("--strategy=mirrored", "--virtual_devices=4")
    run(*evaluation, *strategy, f"--output_dir={tmp_path / '4'}")
    strategy = ("--strategy=multiworker", f"--output_dir={tmp_path / '2'}")
    chief, other = run_both(*evaluation, *strategy)
    assert f"top-1 {expected['top1']:.4f}" in chief and other == ""
    for replicas in "24":
        found = json.loads((tmp_path / replicas / "eval" / "knn.json").read_text())
        for name in ("top1", "top5", "num_train", "num_test"):
            assert found[name] == expected[name]


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_workers_of_different_settings_do_not_begin(images, tmp_path):
    own = ((), ("--config.seed=1",))
    outputs = run_both(*arguments(images, tmp_path / "run"), own=own, status=2)
    for output in outputs:
        assert output.startswith("error: the workers differ") and output.count("\n") == 1
    assert not list(tmp_path.rglob("*checkpoint*"))


def test_workers_that_do_not_share_their_directory_harm_nothing_in_it(
    images, interrupted, tmp_path
):
    workdir, _ = interrupted
    before = contents(workdir)
    # Of a flag given twice, the last counts.
    own = ((), (f"--workdir={tmp_path / 'elsewhere'}",))
    outputs = run_both(*arguments(images, workdir), own=own, status=2)
    for output, held in zip(outputs, (f"step-{LAST_STEP}", "nothing"), strict=True):
        assert output.startswith("error: the workers differ") and output.count("\n") == 1
        assert f"holds {held}, and" in output and "--workdir that they share" in output
    assert contents(workdir) == before
    assert not (tmp_path / "elsewhere").exists()
