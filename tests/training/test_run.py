"""Interrupted runs end like uninterrupted ones, and unreadable files are reported."""

import shutil
import signal
import types

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import load_backbone, run_directory, run_metrics
from moco_tf.data import sources
from moco_tf.interrupts import Interrupts
from moco_tf.training.build import build_model
from moco_tf.training.callbacks import UnreadableImages
from moco_tf.training.knn_monitor import KNNMonitor
from moco_tf.training.metrics_log import MetricsLog
from moco_tf.training.run import Outcome, train
from moco_tf.training.signals import StopOnSignals
from tests import in_process
from tests.command import TINY, state
from tests.conftest import TRAINED_RUN, source_flag
from tests.images import crops, write_folder

STEPS_PER_EPOCH, EPOCHS = 6, 4  # On the 100 images of `image_folder`, in batches of 16.
LAST_STEP = STEPS_PER_EPOCH * EPOCHS


@pytest.fixture(scope="module")
def arguments(image_folder):
    return (
        *TINY,
        f"--config.data.source=folder:{image_folder}",
        f"--config.epochs={EPOCHS}",
        f"--config.knn_every={EPOCHS}",
    )


@pytest.fixture(scope="module")
def uninterrupted(arguments, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    in_process.run("train.py", *arguments, workdir=workdir)
    return workdir


@pytest.mark.slow
def test_run_is_stopped_by_a_signal_and_ends_bit_identical(
    arguments, uninterrupted, tmp_path, monkeypatch
):
    workdir, stop_at = tmp_path / "run", 10
    with monkeypatch.context() as patch:
        interrupt_at(patch, stop_at)
        status = 128 + signal.SIGINT
        output = in_process.run("train.py", *arguments, workdir=workdir, status=status)
    assert f"stopped at step {stop_at} of {LAST_STEP}" in output
    assert run_directory.latest_checkpoint(str(workdir)).endswith(f"step-{stop_at}")

    begun = []
    begin = KNNMonitor.on_train_begin
    monkeypatch.setattr(
        KNNMonitor, "on_train_begin", lambda *arguments: begun.append(begin(*arguments))
    )
    output = in_process.run("train.py", *arguments, workdir=workdir)
    assert f"resuming from step {stop_at}" in output
    assert len(begun) == 1
    expected, actual = state(uninterrupted), state(workdir)
    assert expected.keys() == actual.keys()
    assert len(expected) > 50
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
    # The log is that of one run, with each step once and the same loss.
    expected_losses, losses = (
        [
            (line["step"], line["loss"])
            for line in run_metrics.read_metrics(str(directory))
            if "loss" in line
        ]
        for directory in (uninterrupted, workdir)
    )
    assert [step for step, _ in losses] == list(range(1, LAST_STEP + 1))
    assert losses == expected_losses


def interrupt_at(patch, interrupted_step):
    """Send SIGINT to the process as soon as a step is logged."""
    write = MetricsLog.write

    def write_and_interrupt(self, step, values):
        write(self, step, values)
        if step == interrupted_step and "loss" in values:
            signal.raise_signal(signal.SIGINT)

    patch.setattr(MetricsLog, "write", write_and_interrupt)


def test_metrics_have_the_documented_keys(trained_run):
    lines = run_metrics.read_metrics(str(trained_run))
    keys = {"step", "epoch", "loss", "contrastive_top1", "contrastive_top5", "learning_rate"}
    keys |= {"images_per_second", "waiting_for_data"}
    for line in lines:
        assert (keys if "loss" in line else {"step", "knn_top1"}) <= line.keys()
    knn_steps = [line["step"] for line in lines if "knn_top1" in line]
    assert knn_steps == [0, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH]


def test_learning_rate_follows_the_schedule(trained_run):
    lines = run_metrics.read_metrics(str(trained_run))
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    epochs = np.arange(2 * STEPS_PER_EPOCH) // STEPS_PER_EPOCH
    expected = 0.24 * 16 / 256 * 0.5 * (1 + np.cos(np.pi * epochs / 2))
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_run_directory_has_the_documented_files(trained_run):
    for name in ("config.json", "curves.png", "checkpoints", "tensorboard"):
        assert (trained_run / name).exists()
    kept = {path.name.split(".")[0] for path in (trained_run / "checkpoints").glob("step-*")}
    assert kept == {"step-8", "step-10", "step-12"}


def test_finished_run_is_left_alone(trained_run, tmp_path, capsys):
    workdir = shutil.copytree(trained_run, tmp_path / "run")
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    outcome = train(run_directory.read_config(str(workdir)), str(workdir))
    assert outcome == Outcome(step=12, total_steps=12, stopped_by=None)
    assert "already finished at step 12" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before


def test_load_backbone_returns_the_trained_query_encoder(trained_run):
    model = build_model(run_directory.read_config(str(trained_run)), STEPS_PER_EPOCH)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    checkpoint.restore(run_directory.latest_checkpoint(str(trained_run))).assert_consumed()
    images = np.stack(crops(10, 32)).astype(np.float32)
    normalized = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]

    def features(encoder):
        return encoder.backbone(normalized.astype(np.float32), training=False).numpy()

    actual = load_backbone(str(trained_run))(images, training=False).numpy()
    np.testing.assert_allclose(actual, features(model.query_encoder), rtol=1e-4, atol=1e-5)
    assert np.abs(actual - features(model.key_encoder)).max() > 1e-3


def train_on_folder(folder, workdir, *arguments, status=0):
    return in_process.run(
        "train.py",
        *TINY,
        f"--config.data.source=folder:{folder}",
        "--config.batch_size=4",
        "--config.epochs=1",
        "--config.knn_every=0",
        *arguments,
        workdir=workdir,
        status=status,
    )


@pytest.fixture
def damaged_folder(tmp_path):
    """Return a folder in which some files are not images, and truncated.jpg is incomplete."""
    folder = write_folder(tmp_path / "damaged", images_per_class=10)
    (folder / "left" / "truncated.jpg").write_bytes((folder / "left/000.jpg").read_bytes()[:300])
    (folder / "left" / "text.png").write_text("no image")
    (folder / "notes.txt").write_text("no image either")
    return folder


@pytest.mark.slow
def test_unreadable_files_are_skipped_and_named(damaged_folder, tmp_path):
    output = train_on_folder(damaged_folder, tmp_path / "run")
    names = [str(damaged_folder / "left" / name) for name in ("text.png", "truncated.jpg")]
    path = tmp_path / "run" / "unreadable_images.txt"
    skipped = f"skipped 2 of 22 images that cannot be read: {', '.join(names)}; listed in {path}"
    assert output.count("cannot be read") == 1
    assert skipped in output
    assert path.read_text().splitlines() == names
    assert "notes.txt" in output.partition("chance-level loss")[0]  # With what was found.


def test_resumed_run_keeps_the_names_of_unreadable_files(image_folder, tmp_path):
    source = sources.load(f"folder:{image_folder}")
    batches = types.SimpleNamespace(source=source, unreadable={0}, steps_per_epoch=3)
    UnreadableImages(batches, 0, fail=False, workdir=str(tmp_path)).report()
    batches.unreadable = {1}
    UnreadableImages(batches, 3, fail=False, workdir=str(tmp_path)).report()
    names = (tmp_path / "unreadable_images.txt").read_text().splitlines()
    assert names == [source.describe(0), source.describe(1)]
    # A run that starts again reads all of them again.
    UnreadableImages(batches, 0, fail=False, workdir=str(tmp_path)).report()
    assert (tmp_path / "unreadable_images.txt").read_text().splitlines() == names[1:]


def test_run_notes_that_it_ends_before_the_learning_rate_decays(image_folder, tmp_path):
    flags = (*TRAINED_RUN, source_flag(image_folder), "--config.steps=1", "--config.knn_every=0")
    notes = {"step": "config.milestones=(120, 160): the run ends ", "cosine": "config.schedule="}
    for schedule, note in notes.items():
        flag = f"--config.schedule={schedule}"
        output = in_process.run("train.py", *flags, flag, workdir=tmp_path / schedule)
        assert output.count(f"note: {note}") == output.count("note: config.") == 1


@pytest.mark.slow
def test_on_error_fail_stops_at_an_unreadable_file(damaged_folder, tmp_path):
    (damaged_folder / "left" / "text.png").unlink()
    arguments = ["--config.data.on_error=fail"]
    output = train_on_folder(damaged_folder, tmp_path / "run", *arguments, status=2)
    assert "Traceback" not in output
    error = output.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "left/truncated.jpg cannot be read" in error
    assert "config.data.on_error='skip'" in error


def test_handlers_that_python_does_not_know_are_left_alone(monkeypatch):
    """Of a handler that C code has installed, Python returns None, and cannot restore it."""
    original = signal.getsignal(signal.SIGTERM)
    getsignal = signal.getsignal
    monkeypatch.setattr(
        signal, "getsignal", lambda number: None if number == signal.SIGHUP else getsignal(number)
    )
    installed = []
    install = signal.signal
    monkeypatch.setattr(
        signal, "signal", lambda *handler: installed.append(handler[0]) or install(*handler)
    )
    stop = StopOnSignals(0, checkpoints=None, interrupts=Interrupts())
    stop.on_step(1, {})
    assert installed == [signal.SIGINT, signal.SIGTERM]
    stop.restore()
    assert getsignal(signal.SIGTERM) == original
