"""`--plan` as a whole: real steps, their time and memory, and the size of the run directory."""

import re
import resource
import shlex

import pytest
from absl import flags

from moco_tf import encoders, run_directory
from moco_tf.cli import app, train
from moco_tf.configs.photos import get_config
from moco_tf.errors import UserError
from moco_tf.export.keras_v3 import export_keras
from moco_tf.plan import timing
from moco_tf.training.build import build_data, build_model
from tests import in_process
from tests.command import TINY
from tests.conftest import source_flag

AUTO = "--config=configs/auto.py"


@pytest.fixture(scope="module")
def planning(image_folder, tmp_path_factory):
    """Return what `--plan` prints for a folder, what it measured, and the folder it ran in."""
    measured = []
    lines = timing.lines
    directory = tmp_path_factory.mktemp("plan")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(timing, "MOST_STEPS", 8)
        patch.setattr(timing, "lines", lambda timed: (measured.append(timed), lines(timed))[1])
        settings = ("--config.epochs=30", "--config.milestones=3")
        flags = ("--plan", AUTO, source_flag(image_folder), *settings)
        output = in_process.run("train.py", *flags, workdir=directory / "run")
    return output, measured[0], directory


@pytest.fixture
def planned(planning):
    return planning[0]


def number(pattern, text):
    return float(re.search(pattern, text)[1].replace(",", ""))


def test_plan_prints_settings_warnings_times_and_the_command(planned, image_folder):
    assert f"folder:{image_folder}: 100 images in 2 classes" in planned
    assert re.search(r"^epochs +30 +set by you$", planned, re.MULTILINE)
    assert "warning: 100 images are few" in planned
    command = planned.partition("to train:\n")[2].replace("\\\n", "")
    *_, config, source, epochs, milestones, workdir = shlex.split(command)
    assert (config, source, epochs) == (AUTO, source_flag(image_folder), "--config.epochs=30")
    assert milestones == "--config.milestones=3"
    assert re.fullmatch("--workdir=.*/run", workdir)


def test_plan_has_the_notes_of_a_run_on_its_settings(planned):
    notes = [line for line in planned.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: config.milestones has no effect, because config.schedule='cosine'",
    ]


def test_images_of_the_monitor_and_weights_that_a_run_refuses_are_refused(image_folder, tmp_path):
    config = get_config()
    config.data.source = f"folder:{image_folder}/left"
    config.update(batch_size=8, bn_groups=2, queue_size=16, keep_best="knn_top1")
    with pytest.raises(UserError, match="config.keep_best=knn_top1 needs labels and test images"):
        timing.measure(config)
    export_keras(encoders.build("resnet14", stem="small"), str(tmp_path / "backbone.keras"))
    config.update(keep_best="", init=f"keras:{tmp_path}/backbone.keras")
    with pytest.raises(UserError, match="does not fit config.encoder=resnet8"):
        timing.measure(config)


def test_plan_in_the_directory_of_the_best_checkpoint_is_refused(image_folder, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    flags = ("--plan", AUTO, source_flag(image_folder))
    line = in_process.run_mistake("train.py", *flags, workdir=tmp_path / "best")
    assert "holds the best checkpoint of the run" in line


def test_times_and_sizes_are_consistent(planned):
    rate = number(r"([\d.,]+) images/s over 8 steps", planned)
    assert 1 < rate < 100_000
    # 6 steps of 16 images in 30 epochs.
    assert "for the 2,880 images of the run" in planned
    value, unit = re.search(r"^([\d.]+) (seconds|minutes|hours) for the", planned, re.M).groups()
    seconds = float(value) * {"seconds": 1, "minutes": 60, "hours": 3600}[unit]
    assert seconds == pytest.approx(2_880 / rate, rel=0.1, abs=1)
    assert re.search(r"^peak memory of the process: [\d.]+ [MG]B$", planned, re.MULTILINE)


def test_range_contains_the_rate(planning):
    _, measured, _ = planning
    assert measured.steps == 8
    assert measured.slow <= measured.images_per_second <= measured.fast
    assert measured.first_step > 0
    assert 2**28 < measured.memory <= 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert 0 <= measured.waiting <= 1
    assert measured.seconds == pytest.approx(measured.total_images / measured.images_per_second)
    assert measured.total_images == 2_880
    # One checkpoint, at step 180 of 180.
    assert measured.checkpoint < measured.run_directory < 2 * measured.checkpoint


def test_size_of_the_run_directory_is_that_of_a_real_run(trained_run):
    config = run_directory.read_config(trained_run)
    source, batches = build_data(config)
    model = build_model(config, batches.steps_per_epoch)
    checkpoint = timing._checkpoint_size(model)
    [newest] = trained_run.glob("checkpoints/step-12.data*")
    assert checkpoint == pytest.approx(newest.stat().st_size, rel=0.02)
    expected = sum(path.stat().st_size for path in trained_run.rglob("*") if path.is_file())
    estimated = timing._run_directory_size(config, source, batches, model, 12, checkpoint)
    assert estimated == pytest.approx(expected, rel=0.1)


def test_plan_writes_nothing(planning, image_folder):
    _, _, directory = planning
    assert not list(directory.iterdir())
    assert len([path for path in image_folder.rglob("*") if path.is_file()]) == 100


@pytest.mark.nightly
def test_plan_of_a_complete_config_shows_it(image_folder, monkeypatch):
    monkeypatch.setattr(timing, "MOST_STEPS", 2)
    output = in_process.run("train.py", "--plan", *TINY, source_flag(image_folder))
    assert re.search(r"^queue_size +100 +as in the config$", output, re.MULTILINE)
    assert "images/s over 4 steps" in output
    assert output.rstrip().endswith("--workdir=DIR")


@pytest.mark.slow
def test_plan_that_does_not_fit_into_memory_ends_in_one_line(image_folder):
    # 800 terabytes, which no machine can address.
    large = ("--config.queue_size=2000000000", "--config.dim=100000")
    output = in_process.run("train.py", "--plan", AUTO, source_flag(image_folder), *large, status=2)
    assert "warning: a step needs an estimated 800" in output
    line = output.strip().splitlines()[-1]
    assert line.startswith("error: the steps are not timed: a step needs an estimated 800")


def test_command_to_train_has_the_flags_of_the_plan():
    given = [
        *("--config=configs/photos.py", "--config.data.source=folder:my photos"),
        *("--config.milestones=60,80", "--config.shuffle_bn=False", "--config.temperature=0.25"),
        *("--strategy=mirrored", "--virtual_devices=2"),
    ]
    values = flags.FlagValues()
    app._define_flags(train.COMMAND, values, given)
    app._parse(values, ["--plan", *given])
    assert train._training_flags(values) == [*given, "--workdir=DIR"]


def test_plan_and_preview_exclude_each_other():
    line = in_process.run_mistake("train.py", AUTO, "--plan", "--preview=views.png")
    assert "--plan and --preview=views.png: give one of them" in line


def test_step_beyond_the_memory_of_the_machine_is_not_tried(image_folder):
    flags = ("--plan", AUTO, source_flag(image_folder), "--config.image_size=50000")
    output = in_process.run("train.py", *flags, status=2)
    assert "timing" not in output
    line = output.strip().splitlines()[-1]
    assert line.startswith("error: the steps are not timed: a step needs an estimated ")
    assert "config.image_size below 50000" in line
