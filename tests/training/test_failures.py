"""What a run meets outside of itself: full disks, lost directories and images, closed terminals."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf

from moco_tf import run_directory
from moco_tf.data.pipeline import TwoViews
from moco_tf.mechanisms.moco import MoCo
from moco_tf.training.metrics_log import MetricsLog
from moco_tf.training.printing import printing_may_fail
from tests import in_process
from tests.command import ROOT, TINY, logged_steps, start, state, wait_for
from tests.conftest import TRAINED_RUN, source_flag
from tests.test_interrupts import ignored_by_python, replaced_by_c_code


def at_step(monkeypatch, step, action):
    """Do something when a step is logged."""
    write = MetricsLog.write

    def write_and_act(self, current, values):
        write(self, current, values)
        if current == step and "loss" in values:
            action()

    monkeypatch.setattr(MetricsLog, "write", write_and_act)


@pytest.fixture
def resumed(trained_run, tmp_path):
    """A copy of `trained_run` without its last checkpoint: two steps are left."""
    workdir = shutil.copytree(trained_run, tmp_path / "run")
    for path in (workdir / "checkpoints").glob("step-12.*"):
        path.unlink()
    return workdir


def resume(workdir, folder, status=0):
    return in_process.run(
        "train.py", *TRAINED_RUN, source_flag(folder), workdir=workdir, status=status
    )


def assert_same(workdir, expected):
    expected = state(expected)
    for name, value in state(workdir).items():
        assert (value == expected[name]).all(), name


@contextlib.contextmanager
def largest_file(size):
    """Let no file grow beyond a size, which fails as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.nightly
def test_checkpoint_that_cannot_be_written_stops_the_run_which_resumes_later(
    resumed, image_folder, trained_run, monkeypatch
):
    save = tf.train.CheckpointManager.save

    def save_with_limit(*args, **kwargs):
        # Only here, because the tests' cache of compiled programs has large files too.
        with largest_file(500_000):
            return save(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(tf.train.CheckpointManager, "save", save_with_limit)
        output = resume(resumed, image_folder, status=2)
    line = output.strip().splitlines()[-1]
    checkpoints = resumed / "checkpoints"
    assert line.startswith(f"error: the checkpoint of step 12 cannot be written to {checkpoints} (")
    assert "File too large): raise the limit of the size of a file, ulimit -f; " in line
    assert line.endswith(f"the run resumes from {checkpoints}/step-10")
    assert "resuming from step 10" in resume(resumed, image_folder)
    assert_same(resumed, trained_run)
    assert not list(checkpoints.glob("*_temp"))


@pytest.mark.nightly
def test_training_that_keras_ends_early_is_an_error(
    resumed, image_folder, trained_run, monkeypatch
):
    between = TwoViews.between

    def first_batch(self, start, end, context=None):
        return between(self, start, end, context).take(1)

    with monkeypatch.context() as patch:
        patch.setattr(TwoViews, "between", first_batch)
        output = resume(resumed, image_folder, status=2)
    line = output.strip().splitlines()[-1]
    assert line.startswith("error: the training ended early, because TensorFlow reported the end")
    assert "at step 11 of 12: that step is saved" in line
    assert "resuming from step 11" in resume(resumed, image_folder)
    assert_same(resumed, trained_run)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(directory)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.mark.nightly
def test_full_disk_stops_the_run_in_one_line(small_disk, resumed, image_folder):
    workdir = shutil.copytree(resumed, small_disk / "run")
    before = state(workdir)
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "filler").write_bytes(bytes(free - 20_000))
    output = resume(workdir, image_folder, status=2)
    line = output.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert str(workdir) in line
    assert "No space left on device" in line
    assert "free some space there" in line
    assert "Traceback" not in output
    for name, value in state(workdir).items():
        assert (value == before[name]).all(), name
    (small_disk / "filler").unlink()
    assert "resuming from step 10" in resume(workdir, image_folder)


@pytest.mark.slow
def test_lost_run_directory_stops_the_run_in_one_line(resumed, image_folder, monkeypatch):
    at_step(monkeypatch, 11, lambda: shutil.rmtree(resumed))
    output = resume(resumed, image_folder, status=2)
    line = output.strip().splitlines()[-1]
    assert line.startswith(f"error: {resumed}/metrics.jsonl cannot be written at step 12 (")
    assert "restore the directory, which does not exist" in line


@pytest.mark.nightly
def test_lost_images_stop_the_run_which_resumes_when_they_are_back(
    trained_run, image_folder, tmp_path, monkeypatch
):
    folder = shutil.copytree(image_folder, tmp_path / "images")
    away = tmp_path / "away"
    arguments = (*TRAINED_RUN, source_flag(folder), "--config.knn_every=0")
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: folder.rename(away))
        output = in_process.run("train.py", *arguments, workdir=tmp_path / "run", status=2)
    line = output.strip().splitlines()[-1]
    assert line.startswith(f"error: no image of 'folder:{folder}' can be read any more: restore")
    step = run_directory.latest_checkpoint(str(tmp_path / "run")).rpartition("-")[2]
    assert f"resumes from step {step}, which is saved" in line
    away.rename(folder)
    output = in_process.run("train.py", *arguments, workdir=tmp_path / "run")
    assert f"resuming from step {step}" in output
    assert_same(tmp_path / "run", trained_run)


@pytest.mark.nightly
def test_run_goes_on_without_its_plots_and_tensorboard(resumed, image_folder, trained_run):
    shutil.rmtree(resumed / "tensorboard")
    (resumed / "tensorboard").write_text("a file is in the way")
    (resumed / "curves.png").unlink()
    (resumed / "curves.png").mkdir()
    output = resume(resumed, image_folder)
    for what in ("files for TensorBoard", "curves.png"):
        assert output.count(f"warning: the run goes on without {what}: ") == 1, output
    assert_same(resumed, trained_run)


@pytest.mark.nightly
def test_model_that_does_not_fit_into_memory_is_one_line(image_folder, tmp_path):
    # 800 terabytes, which no machine can address.
    large = ("--config.queue_size=2000000000", "--config.dim=100000")
    arguments = (*TINY, source_flag(image_folder), *large)
    output = in_process.run("train.py", *arguments, workdir=tmp_path / "run", status=2)
    line = output.strip().splitlines()[-1]
    assert line.startswith("error: out of memory (")
    assert "queue_size=2000000000" in line
    assert "Traceback" not in output


def test_plot_that_a_kill_prevented_is_made_at_the_next_start(trained_run, image_folder, tmp_path):
    workdir = shutil.copytree(trained_run, tmp_path / "run")
    (workdir / "curves.png").unlink()
    assert "already finished" in resume(workdir, image_folder)
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")


def full_disk():
    return open("/dev/full", "w")  # noqa: SIM115


def closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


@pytest.mark.parametrize("output", [full_disk, closed_pipe])
def test_printing_may_fail(output, capsys):
    with output() as stream, contextlib.redirect_stdout(stream), printing_may_fail():
        for _ in range(2):
            print("text", flush=True)
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("warning: output cannot be printed any more (")


def test_printing_needs_no_stream(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with printing_may_fail():
        print("text", flush=True)


def test_characters_that_a_terminal_lacks_are_escaped(tmp_path):
    path = tmp_path / "log.txt"
    with (
        open(path, "w", encoding="cp1252") as file,
        contextlib.redirect_stdout(file),
        printing_may_fail(),
    ):
        print("日本 Käfer \udcff")
    assert path.read_text(encoding="cp1252") == r"\u65e5\u672c Käfer \udcff" + "\n"
    # A stream that can write the bytes of a file name does so.
    with (
        open(path, "w", encoding="ascii", errors="surrogateescape") as file,
        contextlib.redirect_stdout(file),
        printing_may_fail(),
    ):
        print("\udcff")
    assert path.read_bytes() == b"\xff\n"


@pytest.fixture
def arguments(image_folder, tmp_path):
    return ("train.py", *TINY, source_flag(image_folder), f"--workdir={tmp_path / 'run'}")


@pytest.mark.nightly
def test_closed_terminal_stops_the_run_with_a_checkpoint(arguments, tmp_path):
    process = start(*arguments)
    wait_for(lambda: logged_steps(tmp_path / "run") >= 2, process)
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGHUP, output
    latest = run_directory.latest_checkpoint(str(tmp_path / "run"))
    assert f"stopped at step {latest.rpartition('-')[2]} of 36 and saved" in output


@pytest.mark.nightly
def test_ignored_signals_stay_ignored_and_output_may_be_lost(arguments, tmp_path):
    # As `nohup` and a closed terminal do.
    ignore = "import signal, os, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    ignore += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [sys.executable, "-c", ignore, *map(str, arguments), "--config.epochs=2"],
            cwd=ROOT,
            stdout=full,
            stderr=full,
        )
    wait_for(lambda: logged_steps(tmp_path / "run") >= 2, process)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=120) == 0
    assert run_directory.latest_checkpoint(str(tmp_path / "run")).endswith("step-12")


# Both were seen in TensorFlow while it compiles a step.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("lose", [ignored_by_python, replaced_by_c_code])
def test_interrupt_that_is_lost_while_the_step_is_compiled_stops_the_run(
    arguments, tmp_path, monkeypatch, lose
):
    train_step = MoCo.train_step

    def step_that_loses_an_interrupt(self, data):
        lose()
        return train_step(self, data)

    monkeypatch.setattr(MoCo, "train_step", step_that_loses_an_interrupt)
    output = in_process.run(*arguments, status=130)
    assert output.endswith("stopped\n")
    assert logged_steps(tmp_path / "run") == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "number", "status"),
    [
        ("imports", signal.SIGTERM, -signal.SIGTERM),
        ("imports", signal.SIGINT, 130),
        pytest.param("first step", signal.SIGTERM, -signal.SIGTERM, marks=pytest.mark.nightly),
        ("first step", signal.SIGINT, 130),
    ],
)
def test_signal_before_the_first_step_ends_the_run_without_a_step(
    arguments, tmp_path, when, number, status
):
    process = start(*arguments, "--config.knn_every=0")
    if when == "imports":
        time.sleep(1)
    else:
        wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists(), process)
    process.send_signal(number)
    # SIGINT is handled in Python, which waits for the compilation of the step.
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    assert logged_steps(tmp_path / "run") == 0
    assert "Traceback" not in output
    if number == signal.SIGINT:
        assert output.endswith("stopped\n")
