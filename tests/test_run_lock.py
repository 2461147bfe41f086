"""Only one process writes to a run directory, and a lock of a dead process is taken over."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from moco_tf import run_lock
from moco_tf.errors import UserError
from tests.command import ROOT

HOLD = """
import sys, time
from moco_tf import run_lock
with run_lock.hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other_process(tmp_path):
    """A process that holds the lock of `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def hold(workdir):
    with run_lock.hold(str(workdir)):
        assert files(workdir) == ["lock.json"]


def refusal(workdir):
    with pytest.raises(UserError) as error:
        hold(workdir)
    message = str(error.value)
    assert str(workdir) in message
    assert "wait until that process ends, or use another directory" in message
    return message


def write_lock(workdir, **changes):
    """Write the lock of another machine, or of what the changes say."""
    holder = run_lock._this_process() | {"host": "elsewhere", "token": "other", "heartbeat": 1.0}
    (workdir / "lock.json").write_text(json.dumps(holder | changes))


@pytest.fixture
def patience(monkeypatch):
    """Let a wait of minutes take a second."""
    monkeypatch.setattr(run_lock, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.1)


def test_lock_exists_while_it_is_held(tmp_path):
    workdir = tmp_path / "new" / "run"
    for _ in range(2):
        hold(workdir)
        assert files(workdir) == []


def test_second_lock_of_the_same_process_is_refused(tmp_path):
    with run_lock.hold(str(tmp_path)):
        assert f"in use by process {os.getpid()} on " in refusal(tmp_path)
        assert files(tmp_path) == ["lock.json"]


@pytest.mark.slow
def test_lock_of_a_running_process_is_refused_and_of_a_killed_one_is_taken_over(
    tmp_path, other_process
):
    before = (tmp_path / "lock.json").read_text()
    assert f"in use by process {other_process.pid} on " in refusal(tmp_path)
    assert (tmp_path / "lock.json").read_text() == before
    other_process.kill()
    # The process is not waited for, so it is a zombie now.
    deadline = time.monotonic() + 10
    while run_lock._start_time(other_process.pid) == json.loads(before)["started"]:
        assert time.monotonic() < deadline
    hold(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": 2**22 + 1},  # Greater than every process number of Linux.
        {"started": "1"},  # The number was given to a new process.
        {"pid": "none"},
        {"pid": None, "started": None},
    ],
)
def test_lock_of_a_dead_process_on_this_machine_is_taken_over_at_once(tmp_path, changes, capsys):
    write_lock(tmp_path, **({"host": run_lock._this_process()["host"]} | changes))
    hold(tmp_path)
    assert capsys.readouterr().out == ""


def test_reused_number_does_not_block_a_run_on_systems_without_proc(
    tmp_path, patience, monkeypatch, capsys
):
    """There is no /proc on macOS, so the start of a process is not known."""
    monkeypatch.setattr(run_lock, "_contents", lambda path: None)
    monkeypatch.setattr(run_lock, "_target", lambda path: None)
    here = run_lock._this_process()
    assert (here["boot"], here["started"]) == (None, None)
    write_lock(tmp_path, **here)  # The number of a dead process, which this process has now.
    hold(tmp_path)
    assert "waiting up to 1 seconds" in capsys.readouterr().out
    write_lock(tmp_path, **here)
    beat = threading.Timer(0.3, write_lock, [tmp_path], {**here, "heartbeat": 2.0})
    beat.start()
    assert f"in use by process {os.getpid()} on " in refusal(tmp_path)
    beat.join()
    write_lock(tmp_path, **{**here, "pid": 2**22 + 1})
    hold(tmp_path)


@pytest.mark.parametrize("key", ["host", "boot", "pid_namespace"])
def test_lock_of_another_machine_is_taken_over_when_its_heartbeat_stops(
    tmp_path, key, patience, capsys
):
    here = run_lock._this_process()["host"]
    write_lock(tmp_path, **({"host": here} | {key: "elsewhere"}))
    start = time.monotonic()
    hold(tmp_path)
    assert time.monotonic() - start >= run_lock.PATIENCE_SECONDS
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    assert "waiting up to 1 seconds" in output
    assert f"process {os.getpid()} on " in output


def test_lock_of_another_machine_is_refused_while_its_heart_beats(tmp_path, patience):
    write_lock(tmp_path)
    beat = threading.Timer(0.3, write_lock, [tmp_path], {"heartbeat": 2.0})
    beat.start()
    assert f"in use by process {os.getpid()} on elsewhere" in refusal(tmp_path)
    beat.join()


def test_lock_of_another_machine_that_is_released_is_taken(tmp_path, patience):
    write_lock(tmp_path)
    release = threading.Timer(0.3, (tmp_path / "lock.json").unlink)
    release.start()
    hold(tmp_path)
    release.join()


@pytest.mark.parametrize("contents", [b"", b"\xff\x00", b"[1, 2]", b"null", b'{"host": 1}'])
def test_damaged_lock_is_taken_over_when_nothing_renews_it(tmp_path, patience, contents):
    (tmp_path / "lock.json").write_bytes(contents)
    hold(tmp_path)


def test_heartbeat_renews_the_lock(tmp_path, patience):
    with run_lock.hold(str(tmp_path)) as lock:
        first = json.loads((tmp_path / "lock.json").read_text())
        deadline = time.monotonic() + 10
        while json.loads((tmp_path / "lock.json").read_text())["heartbeat"] == first["heartbeat"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        lock.require()


def test_process_notices_that_its_lock_was_taken_over(tmp_path, patience):
    with run_lock.hold(str(tmp_path)) as lock:
        write_lock(tmp_path, pid=17)
        deadline = time.monotonic() + 10
        while lock.taken_by is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(UserError, match="was taken over by process 17 on elsewhere"):
            lock.require()
    assert files(tmp_path) == ["lock.json"]  # It belongs to the other process.


def test_one_of_many_processes_that_start_at_once_gets_the_lock(tmp_path):
    held, refused = [], []
    barrier, leave = threading.Barrier(8), threading.Event()

    def compete():
        barrier.wait()
        try:
            with run_lock.hold(str(tmp_path)):
                held.append(True)
                leave.wait(10)
        except UserError:
            refused.append(True)
        if len(refused) == 7:
            leave.set()

    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)


def test_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"{tmp_path}/file/run cannot be written"):
        hold(tmp_path / "file" / "run")
