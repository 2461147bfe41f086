"""A run with damaged or lost checkpoints never starts again without a word."""

import shutil

import pytest

from moco_tf import run_directory, run_metrics
from moco_tf.config import default_config
from moco_tf.training.build import build_model
from moco_tf.training.checkpoints import Checkpoints
from tests import in_process
from tests.command import state
from tests.conftest import TRAINED_RUN, source_flag


@pytest.fixture
def workdir(trained_run, tmp_path):
    """Return a copy of a finished run, with checkpoints of steps 8, 10 and 12."""
    return shutil.copytree(trained_run, tmp_path / "run")


def contents(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def test_resumed_run_deletes_the_oldest_checkpoints(tmp_path):
    config = default_config()
    config.update(encoder="resnet8", stem="small", image_size=32, batch_size=4, bn_groups=2)
    config.queue_size = 8
    model = build_model(config, steps_per_epoch=5)

    def save(checkpoints, steps):
        for step in steps:
            model.step.assign(step)
            checkpoints.step = step
            checkpoints.save()

    save(Checkpoints(model, str(tmp_path), every=1), [1, 2, 3])
    (tmp_path / "checkpoints" / "checkpoint").unlink()
    resumed = Checkpoints(model, str(tmp_path), every=1)
    assert resumed.restore(str(tmp_path)) == 3
    save(resumed, [4, 5])
    names = [path.rsplit("/", 1)[1] for path in run_directory.checkpoints(str(tmp_path))]
    assert names == ["step-5", "step-4", "step-3"]


def remove_indices(workdir):
    for path in (workdir / "checkpoints").glob("*.index"):
        path.unlink()


def remove_directory(workdir):
    shutil.rmtree(workdir / "checkpoints")


def zero_data(workdir):
    for path in (workdir / "checkpoints").glob("*.data-*"):
        zero(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_indices, "has lost its checkpoints"),
        (remove_directory, "has lost its checkpoints"),
        (zero_data, "no checkpoint of the run"),
    ],
)
def test_run_without_a_readable_checkpoint_is_refused(workdir, image_folder, damage, message):
    damage(workdir)
    before = contents(workdir)
    for _ in range(2):
        line = in_process.run_mistake(
            "train.py", *TRAINED_RUN, source_flag(image_folder), workdir=workdir
        )
        assert message in line
        assert str(workdir) in line
        assert "from a backup, or start a new run in another directory" in line
    assert contents(workdir) == before


def test_lost_checkpoints_are_refused_with_a_longer_interval_as_well(workdir, image_folder):
    remove_directory(workdir)
    flags = (*TRAINED_RUN, source_flag(image_folder), "--config.checkpoint_every=1000")
    for _ in range(2):
        assert "has lost its checkpoints" in in_process.run_mistake(
            "train.py", *flags, workdir=workdir
        )


@pytest.mark.nightly
def test_run_that_was_killed_before_its_first_checkpoint_starts_again(
    workdir, image_folder, trained_run
):
    remove_directory(workdir)
    run_metrics.rewind_metrics(str(workdir), 2)  # The checkpoint of step 2 was not written.
    output = in_process.run("train.py", *TRAINED_RUN, source_flag(image_folder), workdir=workdir)
    assert "resuming" not in output
    expected = state(trained_run)
    for name, value in state(workdir).items():
        assert (value == expected[name]).all(), name
    # Step 0, which was evaluated before the kill as well, is in the log once.
    steps = [line["step"] for line in run_metrics.read_metrics(str(workdir))]
    assert steps == [line["step"] for line in run_metrics.read_metrics(str(trained_run))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "contents",
    [
        None,
        pytest.param(b"", marks=pytest.mark.nightly),
        pytest.param(bytes(1000), marks=pytest.mark.nightly),
    ],
)
def test_lost_metrics_are_reported(workdir, image_folder, contents):
    for path in (workdir / "checkpoints").glob("step-12.*"):
        path.unlink()
    metrics = workdir / "metrics.jsonl"
    metrics.unlink()
    if contents is not None:
        metrics.write_bytes(contents)
    output = in_process.run("train.py", *TRAINED_RUN, source_flag(image_folder), workdir=workdir)
    warning = "warning: the lines of metrics.jsonl after step 0 are lost; the run resumes from step"
    assert output.count(f"{warning} 10 without them") == 1
