"""Every file of a run directory, damaged in every way: one line, or the same run as before."""

import random
import shutil

import pytest

from moco_tf import run_metrics
from tests import in_process
from tests.command import state
from tests.conftest import TRAINED_RUN, source_flag


def remove(path):
    path.unlink() if path.is_file() else shutil.rmtree(path)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def flip(path):
    contents = bytearray(path.read_bytes())
    bit = random.Random(path.name).randrange(8 * len(contents))
    contents[bit // 8] ^= 1 << bit % 8
    path.write_bytes(contents)


def replace_by_text(path):
    path.write_text("not what was here\n")


def replace_by_list(path):
    path.write_text("[1, 2]\n")


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = [remove, truncate, zero, flip, replace_by_text, replace_by_list, replace_by_folder]
# Files whose loss or damage nothing can replace.
NEEDED = ["config.json", "data.json"]
# Files that are only looked at in a resumed run, or not at all.
SPARE = ["metrics.jsonl", "data_files.gz", "curves.png", "checkpoints/checkpoint"]
OLD = ["checkpoints/step-8.index", "checkpoints/step-10.data-00000-of-00001"]
INDEX, DATA = "checkpoints/step-12.index", "checkpoints/step-12.data-00000-of-00001"


def contents(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def test_every_file_is_damaged_here(trained_run):
    files = {str(path.relative_to(trained_run)) for path in trained_run.rglob("*.*")}
    files = {name for name in files if not name.startswith("tensorboard")}
    steps = {
        f"checkpoints/step-{n}.{s}" for n in (8, 10, 12) for s in ("index", "data-00000-of-00001")
    }
    assert files | steps == files
    assert files - steps == {*NEEDED, *SPARE} - {"checkpoints/checkpoint"}


@pytest.fixture
def damaged(trained_run, tmp_path, request):
    """Return a copy of a finished run with one damaged file."""
    name, damage = request.param
    workdir = shutil.copytree(trained_run, tmp_path / "run")
    damage(workdir / name)
    return workdir


def cases(names, damages=DAMAGES, marks=()):
    return [
        pytest.param((name, damage), id=f"{name}-{damage.__name__}", marks=marks)
        for name in names
        for damage in damages
    ]


def train(workdir, image_folder):
    """Train, and return whether the run was accepted; if not, nothing has changed."""
    before = contents(workdir)
    arguments = (*TRAINED_RUN, source_flag(image_folder))
    output = in_process.run("train.py", *arguments, workdir=workdir, status=(0, 2))
    if "error: " not in output:
        return True
    [line] = output.strip().splitlines()
    assert line.startswith("error: ")
    assert str(workdir) in line
    assert contents(workdir) == before
    return False


@pytest.mark.parametrize("damaged", cases(NEEDED), indirect=True)
def test_damaged_settings_are_refused_or_unchanged(damaged, image_folder, trained_run):
    if train(damaged, image_folder):  # The flipped bit is in a setting without an effect.
        expected = state(trained_run)
        for name, value in state(damaged).items():
            assert (value == expected[name]).all(), name


@pytest.mark.slow
@pytest.mark.parametrize("damaged", cases(SPARE) + cases(OLD, [remove, flip]), indirect=True)
def test_damaged_files_of_a_finished_run_do_no_harm(damaged, image_folder, trained_run):
    train(damaged, image_folder)
    expected = state(trained_run)
    for name, value in state(damaged).items():
        assert (value == expected[name]).all(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "damaged",
    [
        *cases([INDEX], [remove], pytest.mark.nightly),
        *cases([DATA], [truncate]),
        *cases([INDEX, DATA], [zero, flip], pytest.mark.nightly),
    ],
    indirect=True,
)
def test_run_goes_on_from_the_checkpoint_before_a_damaged_one(damaged, image_folder, trained_run):
    arguments = (*TRAINED_RUN, source_flag(image_folder))
    output = in_process.run("train.py", *arguments, workdir=damaged)
    assert "continuing from the checkpoint of step 10, because newer ones" in output
    assert "step-12: " in output
    assert "resuming from step 10" in output
    expected = state(trained_run)
    for name, value in state(damaged).items():
        assert (value == expected[name]).all(), name
    kept = {path.name.split(".")[0] for path in (damaged / "checkpoints").glob("step-*")}
    assert kept == {"step-8", "step-10", "step-12"}
    steps = [line["step"] for line in run_metrics.read_metrics(str(damaged))]
    assert steps == [line["step"] for line in run_metrics.read_metrics(str(trained_run))]
