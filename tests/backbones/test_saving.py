"""Exports that fail, or whose place is taken: nothing is left, and nothing is harmed."""

import pytest

from moco_tf.backbones import saving
from moco_tf.errors import UserError


def disk_full(path):
    """Begins to write, and cannot go on."""
    with open(path, "w") as file:
        file.write("half")
    raise OSError(28, "No space left on device")


def whole(path):
    with open(path, "w") as file:
        file.write("whole")


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_file_and_its_card(tmp_path):
    saving.write_file(str(tmp_path / "out.keras"), whole, "card")
    assert contents(tmp_path) == {"out.keras": "whole", "out.keras.md": "card"}


@pytest.mark.parametrize("name", ["out", "out.keras"])
def test_a_file_that_cannot_be_written(tmp_path, name):
    path = str(tmp_path / name)
    with pytest.raises(UserError, match=f"--out={path} cannot be written: No space left"):
        saving.write_file(path, disk_full, "card")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_file_that_is_interrupted(tmp_path, error):
    def fill(path):
        whole(path)
        raise error

    with pytest.raises(error):
        saving.write_file(str(tmp_path / "out"), fill, "card")
    assert contents(tmp_path) == {}


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="none/out cannot be written: No such file"):
        saving.write_file(str(tmp_path / "none" / "out"), whole, "card")


@pytest.mark.parametrize("taken", ["out", "out.md"])
def test_what_is_there_is_kept(tmp_path, taken):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(UserError, match=f"{taken} exists"):
        saving.write_file(str(tmp_path / "out"), whole, "card")
    assert contents(tmp_path) == {taken: "mine"}


def test_a_directory_and_its_card(tmp_path):
    def fill(path):
        (tmp_path / path).mkdir()
        whole(f"{path}/weights")

    saving.write_directory(str(tmp_path / "out"), fill, "card")
    assert contents(tmp_path / "out") == {"weights": "whole", "README.md": "card"}
    with pytest.raises(UserError, match="out exists"):
        saving.write_directory(str(tmp_path / "out"), fill, "other")
    assert contents(tmp_path / "out") == {"weights": "whole", "README.md": "card"}


def test_a_directory_that_cannot_be_written(tmp_path):
    path = str(tmp_path / "out")
    with pytest.raises(UserError, match=f"--out={path} cannot be written: No space left"):
        saving.write_directory(path, disk_full, "card")
    assert not (tmp_path / "out").exists()
