"""Paths in flags and settings, where pictures are written, and output on any terminal."""

import io
import json
import shutil
import sys

import pytest

from moco_tf.cli import app
from moco_tf.errors import UserError
from tests import in_process
from tests.conftest import TRAINED_RUN, source_flag

CONFIG = "--config=configs/photos.py"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("UNSET", raising=False)


@pytest.fixture
def flags_of(monkeypatch):
    """Return a function that runs a command without its work and returns its parsed flags."""

    def parse(script, *arguments):
        parsed = []

        def run(command, argv):
            return real_run(app.dataclasses.replace(command, main=parsed.append), argv)

        real_run = app.run
        with monkeypatch.context() as context:
            context.setattr(app, "run", run)
            in_process.run(script, *arguments)
        return parsed[0]

    return parse


def test_every_path_of_a_training_is_expanded(flags_of, tmp_path):
    shutil.copy("configs/photos.py", tmp_path / "mine.py")
    values = flags_of(
        "train.py",
        *("--config=~/mine.py", "--config.data.source=folder:~/photos", "--workdir=$HOME/run"),
        *("--config.data.tfds_dir=${HOME}/tfds", "--preview=~/views.png"),
    )
    assert values.config.data.source == f"folder:{tmp_path}/photos"
    assert values.config.data.tfds_dir == f"{tmp_path}/tfds"
    assert values.workdir == f"{tmp_path}/run"
    assert values.preview == f"{tmp_path}/views.png"


@pytest.mark.parametrize("name", ["workdir", "saved_model", "checkpoint", "output_dir", "tfds_dir"])
def test_every_path_of_an_evaluation_is_expanded(flags_of, tmp_path, name):
    values = flags_of("evaluate.py", f"--{name}=~/$HOME", "--data=coco:~/scenes")
    assert values[name].value == f"{tmp_path}/{tmp_path}"
    assert values.data == f"coco:{tmp_path}/scenes"


@pytest.mark.parametrize("script", ["export/saved_model.py", "export/pytorch.py"])
def test_every_path_of_an_export_is_expanded(flags_of, tmp_path, script):
    values = flags_of(script, "--checkpoint=~/a.pth", "--out=~/out", "--workdir=~/run")
    assert [values.checkpoint, values.out, values.workdir] == [
        f"{tmp_path}/{name}" for name in ("a.pth", "out", "run")
    ]


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("train.py", [CONFIG, "--workdir="], "--workdir is empty"),
        ("train.py", [CONFIG, "--workdir=$UNSET"], "--workdir: the environment variable UNSET"),
        ("train.py", [CONFIG, "--preview="], "--preview is empty"),
        ("train.py", ["--config="], "--config is empty"),
        ("train.py", ["--config=$UNSET/a.py"], "--config: the environment variable UNSET"),
        (
            "train.py",
            [CONFIG, "--workdir=run", "--config.data.source=folder:$UNSET/a"],
            "config.data.source 'folder:$UNSET/a': the environment variable UNSET is not set",
        ),
        (
            "train.py",
            [CONFIG, "--workdir=run", "--config.data.tfds_dir=$UNSET"],
            "config.data.tfds_dir: the environment variable UNSET",
        ),
        ("demo", ["--workdir="], "--workdir is empty"),
        ("evaluate.py", ["--protocol=knn", "--workdir=run", "--data="], "--data is empty"),
        ("evaluate.py", ["--protocol=knn", "--workdir=run", "--output_dir="], "--output_dir is"),
        ("export/saved_model.py", ["--workdir=run", "--out="], "--out is empty"),
    ],
)
def test_empty_paths_and_unset_variables_are_one_line(
    tmp_path, monkeypatch, script, arguments, message
):
    if "--config=configs/photos.py" in arguments:
        shutil.copy("configs/photos.py", tmp_path / "photos.py")
        arguments = ["--config=photos.py", *arguments[1:]]
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert message in in_process.run_mistake(script, *arguments)
    assert sorted(tmp_path.iterdir()) == before


def test_run_is_resumed_from_the_same_command(image_folder, trained_run, tmp_path, monkeypatch):
    """The config of the run has the expanded path, so all spellings of a path are the same."""
    shutil.copytree(trained_run, tmp_path / "run")
    monkeypatch.setenv("IMAGES", str(image_folder))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["source"] == f"folder:{image_folder}"
    output = in_process.run(
        "train.py", *TRAINED_RUN, "--config.data.source=folder:$IMAGES", workdir="~/run"
    )
    assert f"{tmp_path}/run: already finished at step 12" in output


def test_preview_is_not_written_among_the_images(image_folder):
    path = image_folder / "left" / "views.png"
    line = in_process.run_mistake(
        "train.py", *TRAINED_RUN, source_flag(image_folder), f"--preview={path}"
    )
    assert f"{path} would be one of the images of the data source 'folder:{image_folder}'" in line
    assert not path.exists()


def test_evaluation_does_not_plot_among_the_images(image_folder, trained_run):
    line = in_process.run_mistake(
        *("evaluate.py", "--protocol=knn", f"--output_dir={image_folder}"), workdir=trained_run
    )
    assert f"{image_folder}/neighbours.png would be one of the images" in line
    assert not (image_folder / "neighbours.png").exists()
    assert not (image_folder / "eval").exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_output_passes_every_terminal(monkeypatch, encoding):
    out, err = io.BytesIO(), io.BytesIO()

    def main(values):
        print("Käse 🐱 ± \udce9")
        raise UserError("no file 'Käse 🐱\x1b[31m'")

    command = app.Command("moco-test", "", lambda values, arguments: None, main)
    with monkeypatch.context() as context:
        terminals = [io.TextIOWrapper(stream, encoding) for stream in (out, err)]
        context.setattr(sys, "stdout", terminals[0])
        context.setattr(sys, "stderr", terminals[1])
        assert app.run(command, []) == 2
        sys.stdout.flush()
    expected = "Käse 🐱 ± \udce9\n".encode(encoding, errors="backslashreplace")
    assert out.getvalue() == expected
    expected = "error: no file 'Käse 🐱\\x1b[31m'\n".encode(encoding, errors="backslashreplace")
    assert err.getvalue() == expected


def test_preview_with_the_extension_of_another_format_is_refused(image_folder, tmp_path):
    line = in_process.run_mistake(
        "train.py", *TRAINED_RUN, source_flag(image_folder), f"--preview={tmp_path}/views.jpg"
    )
    assert f"{tmp_path}/views.jpg ends in .jpg, but it is written as a PNG file" in line
    assert not (tmp_path / "views.jpg").exists()
