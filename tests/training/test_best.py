"""The settings keep_best and monitor_source: what is kept, and what it can be used for."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import moco_tf
from moco_tf import run_directory, run_metrics
from moco_tf.errors import UserError
from moco_tf.training.best import BestCheckpoint, require_not_best
from tests import in_process
from tests.command import state
from tests.conftest import TRAINED_RUN, source_flag
from tests.images import write_folder
from tests.training.test_run import interrupt_at

BEST = "--config.keep_best=knn_top1"


def accuracies(workdir):
    """Return the accuracies by step, without the initial weights."""
    lines = run_metrics.read_metrics(str(workdir))
    return {line["step"]: line["knn_top1"] for line in lines if line["step"] and "knn_top1" in line}


def kept(workdir):
    return [int(path.stem[5:]) for path in (workdir / "best" / "checkpoints").glob("step-*.index")]


@pytest.fixture(scope="module")
def run_with_best(image_folder, tmp_path_factory):
    """The directory of a run with six evaluations, and what it printed."""
    workdir = tmp_path_factory.mktemp("best") / "run"
    flags = (*TRAINED_RUN, source_flag(image_folder), BEST, "--config.epochs=6")
    return workdir, in_process.run("train.py", *flags, workdir=workdir)


@pytest.mark.nightly
def test_checkpoint_with_the_best_accuracy_is_a_run_directory(run_with_best, tmp_path):
    workdir, output = run_with_best
    by_step = accuracies(workdir)
    assert len(by_step) == 6
    best = max(by_step, key=by_step.get)  # The first of equal ones.
    assert kept(workdir) == [best]
    assert output.count("; the best so far") == sum(
        value > max([0, *[by_step[other] for other in by_step if other < step]])
        for step, value in by_step.items()
    )
    run = moco_tf.load_run(workdir / "best")
    assert run.step == best
    assert accuracies(workdir / "best") == {s: v for s, v in by_step.items() if s <= best}
    result = in_process.run("evaluate.py", "--protocol=knn", workdir=workdir / "best")
    assert f"top-1 {by_step[best]:.4f}" in result
    flags = (*TRAINED_RUN, f"--workdir={workdir}/best", "--config.data.source=photos")
    line = in_process.run_mistake("train.py", *flags)
    assert f"use another directory and config.init=run:{workdir}/best" in line
    flags = (f"--workdir={workdir}/best", f"--out={tmp_path}/backbone")
    in_process.run("export/saved_model.py", *flags)
    assert f"`step-{best}`" in (tmp_path / "backbone" / "README.md").read_text()


def assert_same_best(workdir, expected):
    assert kept(workdir) == kept(expected)
    assert_same_state(workdir / "best", expected / "best")


def assert_same_state(workdir, expected):
    values = state(workdir)
    for name, value in state(expected).items():
        np.testing.assert_array_equal(value, values[name], name)


@pytest.mark.nightly
def test_run_that_was_stopped_keeps_the_same_checkpoint(run_with_best, image_folder, tmp_path):
    flags = (*TRAINED_RUN, source_flag(image_folder), BEST, "--config.epochs=6")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 20)
        in_process.run("train.py", *flags, workdir=tmp_path / "run", status=130)
    in_process.run("train.py", *flags, workdir=tmp_path / "run")
    assert_same_best(tmp_path / "run", run_with_best[0])


@pytest.mark.nightly
def test_run_that_was_killed_after_its_best_step_keeps_the_same_checkpoint(
    run_with_best, image_folder, tmp_path
):
    workdir = shutil.copytree(run_with_best[0], tmp_path / "run")
    for path in (workdir / "checkpoints").glob("step-3[46]*"):
        path.unlink()
    # What a kill during the last update leaves: the checkpoints of two steps.
    [best] = kept(workdir)
    for path in list((workdir / "best" / "checkpoints").glob("step-*")):
        shutil.copy(path, path.with_name(path.name.replace(f"step-{best}", "step-1")))
    flags = (*TRAINED_RUN, source_flag(image_folder), BEST, "--config.epochs=6")
    in_process.run("train.py", *flags, workdir=workdir)
    assert moco_tf.load_run(workdir / "best").step == best


@pytest.mark.nightly
def test_values_of_other_views_are_not_compared(run_with_best, image_folder, tmp_path):
    workdir = shutil.copytree(run_with_best[0], tmp_path / "run")
    for path in (workdir / "checkpoints").glob("step-3[46]*"):
        path.unlink()
    path = workdir / "best" / "best.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "value": 2.0}))  # More than any accuracy.
    flags = (*TRAINED_RUN, source_flag(image_folder), BEST, "--config.epochs=6")
    [best] = kept(workdir)
    output = in_process.run("train.py", *flags, "--config.evaluation_size=40", workdir=workdir)
    changed = json.loads(path.read_text())
    assert changed["value"] <= 1
    assert changed["image_size"] == 40
    earlier = workdir / f"best-step-{best}"
    assert f"it is kept in {earlier}" in output
    assert moco_tf.load_run(earlier).step == best
    assert_same_state(earlier, run_with_best[0] / "best")
    sizes = {line.get("evaluation_size") for line in run_metrics.read_metrics(str(workdir))}
    assert {32, 40} <= sizes


class FewCheckpoints:
    """Stands for the `Checkpoints` of a run whose only weight is a number."""

    def __init__(self):
        self.weight = tf.Variable(0.0)
        self.checkpoint = tf.train.Checkpoint(weight=self.weight)
        self.finite = self

    def require(self, step):
        pass


def best_of(workdir, size, name="knn_top1", source="folder:images", training_size=32):
    path = str(workdir)
    return BestCheckpoint(FewCheckpoints(), path, path, name, source, size, training_size)


def keep(best, step, value):
    """Update a `BestCheckpoint` with a model whose weight is the step."""
    best.checkpoints.weight.assign(step)
    return best.update(step, {best.name: value})


def weight_in(directory):
    path = run_directory.latest_checkpoint(str(directory))
    return tf.train.load_variable(path, "weight/.ATTRIBUTES/VARIABLE_VALUE")


@pytest.mark.parametrize(
    "changes", [{"size": 48}, {"name": "effective_rank"}, {"source": "folder:others"}]
)
def test_best_checkpoint_by_other_values_is_kept_beside(tmp_path, capsys, changes):
    assert keep(best_of(tmp_path, 32), 10, 0.9)
    best = best_of(tmp_path, **{"size": 32, **changes})
    assert best.value is None
    assert not (tmp_path / "best-step-10").exists()  # Until there is another one.
    assert keep(best, 20, 0.1)
    assert keep(best, 30, 0.2)
    assert capsys.readouterr().out.splitlines() == [
        f"the best checkpoint so far, step-10, was not chosen by {best.name} on {best.source_name} "
        f"with views of {best.image_size} pixels: it is kept in {tmp_path}/best-step-10"
    ]
    assert kept(tmp_path) == [30]
    assert weight_in(tmp_path / "best") == 30
    assert weight_in(tmp_path / "best-step-10") == 10
    facts = json.loads((tmp_path / "best-step-10" / "best.json").read_text())
    assert (facts["value"], facts["image_size"]) == (0.9, 32)
    (tmp_path / "config.json").touch()
    with pytest.raises(UserError, match="holds the best checkpoint of the run"):
        require_not_best(str(tmp_path / "best-step-10"))


def test_every_earlier_best_checkpoint_is_kept(tmp_path):
    for size in (32, 48, 64):
        best = best_of(tmp_path, size)
        best.checkpoints.weight.assign(size)
        assert best.update(10, {"knn_top1": 0.5})
    weights = [weight_in(tmp_path / name) for name in ("best-step-10", "best-step-10-2", "best")]
    assert weights == [32, 48, 64]


def test_best_checkpoint_of_an_earlier_version_was_chosen_on_views_of_the_training(tmp_path):
    assert keep(best_of(tmp_path, 32), 10, 0.9)
    path = tmp_path / "best" / "best.json"
    facts = json.loads(path.read_text())
    del facts["image_size"]
    path.write_text(json.dumps(facts))
    assert best_of(tmp_path, 32, training_size=32).value == 0.9
    assert best_of(tmp_path, 48, training_size=32).value is None


@pytest.mark.nightly
def test_images_without_labels_are_monitored_on_labeled_ones(image_folder, tmp_path):
    write_folder(tmp_path / "images", classes=["unlabeled"])
    flags = (*TRAINED_RUN, source_flag(tmp_path / "images" / "unlabeled"))
    monitored = f"--config.monitor_source=folder:{image_folder}"
    in_process.run("train.py", *flags, monitored, BEST, workdir=tmp_path / "run")
    assert accuracies(tmp_path / "run")


def test_mistakes(image_folder, tmp_path):
    np.save(tmp_path / "gray.npy", np.zeros([20, 32, 32, 1], np.uint8))
    flags = (*TRAINED_RUN, source_flag(image_folder))
    for more, parts in (
        (["--config.keep_best=loss"], ["config.keep_best='loss'", "knn_top1"]),
        ([BEST, "--config.knn_every=0"], ["config.keep_best='knn_top1'", "config.knn_every=0"]),
        ([f"--config.monitor_source=npy:{tmp_path}/gray.npy"], ["gray.npy", "1 channels", "3"]),
        (["--config.monitor_source=folder:/no/such"], ["/no/such"]),
    ):
        line = in_process.run_mistake("train.py", *flags, *more, workdir=tmp_path / "run")
        for part in parts:
            assert part in line
    assert not (tmp_path / "run").exists()
