"""Exports that fail leave nothing behind, and exports to an existing path overwrite nothing."""

import os

import pytest

from moco_tf.backbones import saving
from moco_tf.errors import UserError


def fail_halfway(path):
    """Write half of a file, and fail like a full disk."""
    with open(path, "w") as file:
        file.write("half")
    raise OSError(28, "No space left on device")


def write_whole(path):
    with open(path, "w") as file:
        file.write("whole")


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_file_is_written_with_its_card(tmp_path):
    saving.write_file(str(tmp_path / "out.keras"), write_whole, "card")
    assert contents(tmp_path) == {"out.keras": "whole", "out.keras.md": "card"}


@pytest.mark.parametrize("name", ["out", "out.keras"])
def test_failed_file_leaves_nothing(tmp_path, name):
    path = str(tmp_path / name)
    with pytest.raises(UserError, match=f"^the path {path} cannot be written: No space left"):
        saving.write_file(path, fail_halfway, "card")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_file_leaves_nothing(tmp_path, error):
    def fill(path):
        write_whole(path)
        raise error

    with pytest.raises(error):
        saving.write_file(str(tmp_path / "out"), fill, "card")
    assert contents(tmp_path) == {}


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="none/out cannot be written: No such file"):
        saving.write_file(str(tmp_path / "none" / "out"), write_whole, "card")


@pytest.mark.parametrize("name", ["out", "out.md"])
def test_existing_file_is_kept(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"^the path {tmp_path}/{name} exists"):
        saving.write_file(str(tmp_path / "out"), write_whole, "card")
    assert contents(tmp_path) == {name: "mine"}


def test_directory_is_written_once_with_its_card(tmp_path):
    def fill(path):
        (tmp_path / path).mkdir()
        write_whole(f"{path}/weights")

    path = str(tmp_path / "out")
    saving.write_directory(path, fill, "card")
    assert contents(tmp_path / "out") == {"weights": "whole", "README.md": "card"}
    with pytest.raises(UserError, match=f"^the path {path} exists"):
        saving.write_directory(path, fill, "other")
    assert contents(tmp_path / "out") == {"weights": "whole", "README.md": "card"}


def test_failed_directory_does_not_appear(tmp_path):
    path = str(tmp_path / "out")
    with pytest.raises(UserError, match=f"^the path {path} cannot be written: No space left"):
        saving.write_directory(path, fail_halfway, "card")
    assert not (tmp_path / "out").exists()


def write_card_of_another(path):
    with open(f"{path}.md", "w") as file:
        file.write("card of another")


@pytest.mark.parametrize(
    ("interfere", "created", "left"),
    [
        # Another export to the same path, which is faster.
        (
            lambda path: saving.write_file(path, write_whole, "first card"),
            "out.md",
            {"out": "whole", "out.md": "first card"},
        ),
        (write_whole, "out", {"out": "whole"}),
        (write_card_of_another, "out.md", {"out.md": "card of another"}),
    ],
    ids=["export", "file", "card"],
)
def test_file_created_during_an_export_is_kept(tmp_path, interfere, created, left):
    """Of two exports at once, the slower one neither replaces nor removes anything."""
    path = str(tmp_path / "out")

    def fill(unfinished):
        interfere(path)
        with open(unfinished, "w") as file:
            file.write("second")

    with pytest.raises(UserError) as error:
        saving.write_file(path, fill, "second card")
    assert str(error.value) == (
        f"the path {path} cannot be written: another process created {tmp_path / created} during "
        "this export, and it is kept. Use another path"
    )
    assert contents(tmp_path) == left


def test_directory_created_during_an_export_is_kept(tmp_path):
    path = str(tmp_path / "out")

    def fill_first(unfinished):
        os.mkdir(unfinished)
        write_whole(f"{unfinished}/weights")

    def fill_second(unfinished):
        saving.write_directory(path, fill_first, "first card")
        os.mkdir(unfinished)

    with pytest.raises(UserError, match=f"another process created {path} during this export"):
        saving.write_directory(path, fill_second, "second card")
    assert contents(tmp_path / "out") == {"weights": "whole", "README.md": "first card"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_link_that_leads_nowhere_is_kept(tmp_path):
    path = tmp_path / "out"
    path.symlink_to("nowhere")
    for write in (saving.write_file, saving.write_directory):
        with pytest.raises(UserError, match=f"^the path {path} exists"):
            write(str(path), write_whole, "card")
    assert path.is_symlink()
    assert [other.name for other in tmp_path.iterdir()] == ["out"]
