"""Strategies by name, and the clusters that they find."""

import json
import signal
import threading

import pytest

from moco_tf import strategies
from moco_tf.errors import UserError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("parallel",), "'parallel': choose default, mirrored, multiworker or tpu"),
        (("mirrored", "node-1"), "'node-1' requires the strategy 'tpu', not 'mirrored'"),
        (("tpu",), "requires the name of the TPU, or 'local'"),
        (("tpu", "local"), "'local' requires TensorFlow's build for TPUs"),
    ],
)
def test_unusable_strategy_is_an_error(arguments, message):
    with pytest.raises(UserError, match=message):
        strategies.make_strategy(*arguments)


def test_splitting_the_cpu_into_no_devices_is_an_error():
    with pytest.raises(UserError, match="into 0 devices: the number must be at least 1"):
        strategies.split_cpu(0)


WORKERS = ["127.0.0.1:1", "127.0.0.1:2"]


def tf_config(task_type, index, **jobs):
    return json.dumps({"cluster": jobs, "task": {"type": task_type, "index": index}})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("worker:", "Expecting value"),
        (tf_config("worker", 2, worker=WORKERS), "worker 2 is not among"),
        (tf_config("chief", 0, worker=WORKERS), "chief 0 is not among"),
        (tf_config("evaluator", 0, worker=WORKERS, evaluator=WORKERS), "evaluator 0 is not among"),
        (tf_config("worker", "first", worker=WORKERS), "first"),
        ("{}", "not among"),
    ],
)
def test_unusable_cluster_is_an_error(monkeypatch, config, message):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UserError, match=f"'multiworker' found no cluster: .*{message}.*TF_CONFIG"):
        strategies.make_strategy("multiworker")


def test_missing_cluster_is_an_error(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    with pytest.raises(UserError, match="neither TF_CONFIG nor Slurm's 'SLURM_STEP_NUM_TASKS' is"):
        strategies.make_strategy("multiworker")


@pytest.mark.parametrize(
    ("machines", "tasks", "expected"),
    [
        # These names sort differently from their numbers.
        ("node[2,10]", "1(x2)", ["node2:24567", "node10:24567"]),
        ("gpu1", "2", ["gpu1:24567", "gpu1:24568"]),
        (
            "node[9-11]",
            "2(x2),1",
            ["node9:24567", "node9:24568", "node10:24567", "node10:24568", "node11:24567"],
        ),
    ],
)
def test_slurm_gives_all_tasks_the_same_cluster_and_each_its_address(
    monkeypatch, machines, tasks, expected
):
    addresses, clusters = [], []
    for number, address in enumerate(expected):
        machine, port = address.split(":")
        variables = {
            "SLURM_JOB_ID": 1234567,
            "SLURM_STEP_NODELIST": machines,
            "SLURM_STEP_NUM_TASKS": len(expected),
            "SLURM_STEP_TASKS_PER_NODE": tasks,
            "SLURM_PROCID": number,
            "SLURMD_NODENAME": machine,
            "SLURM_LOCALID": int(port) - 24567,
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        config = strategies._slurm_cluster()
        clusters.append(config["cluster"])
        assert config["task"]["type"] == "worker"
        addresses.append(config["cluster"]["worker"][config["task"]["index"]])
    assert addresses == expected
    assert all(cluster == clusters[0] for cluster in clusters)


@pytest.fixture
def handlers(monkeypatch):
    """Return the handlers of SIGINT during each wait for the other workers, which ends at once."""
    handlers = []

    def wait():
        handlers.append(signal.getsignal(signal.SIGINT))
        return "a strategy"

    monkeypatch.setattr(strategies, "_multi_worker_strategy", wait)
    return handlers


def test_ctrl_c_ends_the_wait_for_workers_and_its_handler_is_restored(handlers):
    previous = signal.getsignal(signal.SIGINT)
    assert strategies.make_strategy("multiworker") == "a strategy"
    assert handlers == [signal.SIG_DFL]
    assert signal.getsignal(signal.SIGINT) is previous


def test_handler_of_ctrl_c_stays_in_another_thread(handlers):
    results = []
    thread = threading.Thread(
        target=lambda: results.append(strategies.make_strategy("multiworker"))
    )
    thread.start()
    thread.join()
    assert results == ["a strategy"]
    assert handlers == [signal.getsignal(signal.SIGINT)]


def test_handler_of_ctrl_c_that_c_code_installed_stays(handlers, monkeypatch):
    def set_handler(number, handler):
        raise AssertionError("Python could not restore the handler of the C code")

    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "signal", set_handler)
    assert strategies.make_strategy("multiworker") == "a strategy"
    assert handlers == [None]


def test_ctrl_c_that_is_ignored_stays_so(handlers):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert strategies.make_strategy("multiworker") == "a strategy"
        assert handlers == [signal.SIG_IGN]
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)
