"""The process of a run: its answers, its failures and the signals that it receives."""

import json
import signal
import sys

import pytest

from moco_tf.errors import UserError
from studies.worker import run_in_process
from tests.studies.made_up import base_config


@pytest.fixture
def replace_process(tmp_path, monkeypatch):
    """Return a function that replaces the process of a run by a shell script.

    The script finds the config in $3, the run directory in $4 and the path of its answer in $5.
    """

    def replace(script):
        path = tmp_path / "process"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return replace


def run(tmp_path, signals=(), on_poll=lambda: None):
    return run_in_process(base_config(), str(tmp_path / "run"), signals, on_poll)


def test_record_and_output_of_the_process_are_kept(tmp_path, replace_process):
    replace_process('echo "training" && echo \'{"record": {"knn_top1": 0.5}}\' > "$5"')
    assert run(tmp_path) == {"knn_top1": 0.5}
    assert run(tmp_path) == {"knn_top1": 0.5}
    assert (tmp_path / "run" / "log.txt").read_text() == "training\n" * 2


def test_process_receives_the_config_and_the_run_directory(tmp_path, replace_process):
    replace_process('echo "$3" > "$4/config"; echo \'{"record": {}}\' > "$5"')
    run(tmp_path)
    config = json.loads((tmp_path / "run" / "config").read_text())
    assert config == json.loads(base_config().to_json())


def test_user_error_of_the_process_is_raised(tmp_path, replace_process):
    replace_process('echo \'{"error": "no images"}\' > "$5"')
    with pytest.raises(UserError, match="^no images$"):
        run(tmp_path)


def test_failure_of_the_process_names_its_log(tmp_path, replace_process):
    replace_process("exit 7")
    with pytest.raises(UserError, match=r"failed with exit status 7: .*/run/log\.txt"):
        run(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_is_sent_to_the_process_once(tmp_path, replace_process, number):
    name = signal.Signals(number).name.removeprefix("SIG")
    # Once it has received the signal, it goes on for a while, as a run that saves.
    replace_process(
        f"trap 'echo received; stopping=1' {name}; echo > \"$4/ready\"\n"
        'while [ -z "$stopping" ]; do sleep 0.01; done; sleep 0.5'
    )
    signals = []

    def send_when_ready():
        if (tmp_path / "run" / "ready").exists() and not signals:
            signals.append(number)

    assert run(tmp_path, signals, send_when_ready) is None
    assert (tmp_path / "run" / "log.txt").read_text() == "received\n"


def test_finished_run_is_kept_although_a_signal_arrived(tmp_path, replace_process):
    replace_process('trap "" INT; sleep 0.3; echo \'{"record": {"knn_top1": 0.5}}\' > "$5"')
    signals = []
    record = run(tmp_path, signals, lambda: signals or signals.append(signal.SIGINT))
    assert record == {"knn_top1": 0.5}


def test_run_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=f"the run directory {tmp_path}/run cannot be written"):
        run(tmp_path)
