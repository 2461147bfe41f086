"""Runs that are stopped in every way there is, and end as if they had never been."""

import signal

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import load_backbone, run_directory
from moco_tf.training.build import build_model
from tests.command import TINY, logged_steps, run, start, state, wait_for
from tests.images import crops, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of 40 images: five steps of 16 an epoch."""
    return write_folder(tmp_path_factory.mktemp("images") / "photos")


# A queue that takes a while to write, so that a kill finds a checkpoint half written.
def arguments(folder, workdir):
    return (
        "train.py",
        *TINY,
        f"--config.data.source=folder:{folder}",
        "--config.queue_size=100000",
        f"--workdir={workdir}",
    )


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    run(*arguments(folder, workdir))
    return workdir


def half_written(workdir):
    """Whether the newest files of the checkpoints' folder are not yet in its table."""
    files = list((workdir / "checkpoints").glob("step-*"))
    steps = [int(f.name.removeprefix("step-").split(".")[0].split("_")[0]) for f in files]
    latest = run_directory.latest_checkpoint(str(workdir)) or "step-0"
    return max(steps, default=0) > int(latest.rsplit("-", 1)[1])


def test_a_run_that_is_stopped_ends_bit_identical(folder, uninterrupted, tmp_path):
    workdir = tmp_path / "run"

    process = start(*arguments(folder, workdir))
    wait_for(lambda: logged_steps(workdir) >= 7, process)
    process.kill()
    process.communicate()

    process = start(*arguments(folder, workdir))
    wait_for(lambda: logged_steps(workdir) >= 11, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "going on from step 6" in output
    saved = int(run_directory.latest_checkpoint(str(workdir)).rsplit("-", 1)[1])
    assert saved >= 11 and f"stopped at step {saved} of 30" in output

    for _ in range(2):  # once more, should the save have been faster than the kill
        saved = int(run_directory.latest_checkpoint(str(workdir)).rsplit("-", 1)[1])
        process = start(*arguments(folder, workdir))
        wait_for(lambda: half_written(workdir), process)
        process.kill()
        assert f"going on from step {saved}" in process.communicate()[0]
        if half_written(workdir):  # the table still ends before the newest files
            break
    assert half_written(workdir)

    process = start(*arguments(folder, workdir))
    wait_for(lambda: logged_steps(workdir) >= saved + 5, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT

    run(*arguments(folder, workdir))
    expected, found = state(uninterrupted), state(workdir)
    assert expected.keys() == found.keys() and len(expected) > 50
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    # And the log is that of one run: each step once, with the same loss.
    lines = [
        [(e["step"], e["loss"]) for e in run_directory.read_metrics(str(d)) if "loss" in e]
        for d in (uninterrupted, workdir)
    ]
    assert [step for step, _ in lines[0]] == list(range(1, 31))
    assert lines[0] == lines[1]


def test_run_directory_holds_what_was_promised(uninterrupted):
    lines = run_directory.read_metrics(str(uninterrupted))
    training = {"step", "epoch", "loss", "contrastive_top1", "contrastive_top5", "learning_rate"}
    training |= {"images_per_second", "waiting_for_data"}
    for line in lines:
        wanted = training if "loss" in line else {"step", "knn_top1"}
        assert wanted <= line.keys()
    assert [line["step"] for line in lines if "knn_top1" in line] == [0, 15, 30]
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    base = 0.24 * 16 / 256
    expected = [base * 0.5 * (1 + np.cos(np.pi * (step // 5) / 6)) for step in range(30)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    for name in ("config.json", "curves.png", "checkpoints", "tensorboard"):
        assert (uninterrupted / name).exists()
    kept = {path.name.split(".")[0] for path in (uninterrupted / "checkpoints").glob("step-*")}
    assert kept == {"step-26", "step-28", "step-30"}


def test_a_finished_run_is_left_alone(folder, uninterrupted):
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    assert "finished already, at step 30" in run(*arguments(folder, uninterrupted))
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before


def test_load_backbone_is_the_trained_query_encoder(uninterrupted):
    config = run_directory.read_config(str(uninterrupted))
    model = build_model(config, steps_per_epoch=5)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    checkpoint.restore(run_directory.latest_checkpoint(str(uninterrupted))).assert_consumed()
    images = np.stack(crops(10, 32)).astype(np.float32)
    normalized = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = load_backbone(str(uninterrupted))(images, training=False).numpy()

    def features(encoder, **kwargs):
        return encoder.backbone(normalized.astype(np.float32), **kwargs).numpy()

    np.testing.assert_allclose(found, features(model.query_encoder), rtol=1e-4, atol=1e-5)
    assert np.abs(found - features(model.key_encoder)).max() > 1e-3


def test_unreadable_files_are_skipped_counted_and_named(folder, tmp_path):
    mixed = write_folder(tmp_path / "mixed", each=10)
    (mixed / "left" / "truncated.jpg").write_bytes((folder / "left/000.jpg").read_bytes()[:300])
    (mixed / "left" / "text.png").write_text("no image")
    (mixed / "notes.txt").write_text("no image either")
    output = run(
        "train.py",
        *TINY,
        f"--config.data.source=folder:{mixed}",
        "--config.batch_size=4",
        "--config.epochs=1",
        f"--workdir={tmp_path / 'run'}",
    )
    assert "skipped 3 files that cannot be read as images" in output
    for name in ("truncated.jpg", "text.png", "notes.txt"):
        assert name in output


def test_on_error_fail_stops_at_a_file_that_cannot_be_read(tmp_path):
    mixed = write_folder(tmp_path / "mixed", each=10)
    (mixed / "left" / "truncated.jpg").write_bytes((mixed / "left/000.jpg").read_bytes()[:300])
    output = run(
        "train.py",
        *TINY,
        f"--config.data.source=folder:{mixed}",
        "--config.data.on_error=fail",
        "--config.batch_size=4",
        f"--workdir={tmp_path / 'run'}",
        status=2,
    )
    assert "Traceback" not in output
    last = output.strip().splitlines()[-1]
    assert last.startswith("error: ") and "left/truncated.jpg" in last and "skip" in last
