"""New files and directories are complete or not there, and replace nothing that is there."""

import contextlib
import errno
import fcntl
import os
import signal
import time
import warnings

import pytest
import tensorflow as tf

from moco_tf import new_paths
from moco_tf.new_paths import new_directory, new_files


def tree(folder):
    """Return the contents of all files in a folder, and None for each directory."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_text()
        for path in folder.rglob("*")
    }


def create_directory(path, text="new", before_move=lambda: None):
    with new_directory(str(path)) as unfinished:
        os.mkdir(unfinished)
        write(f"{unfinished}/file", text)
        before_move()


def create_files(path, text="new", before_move=lambda: None):
    with new_files(f"{path}.md", str(path)) as unfinished:
        assert [os.path.basename(file) for file in unfinished] == [f"{path.name}.md", path.name]
        for file in unfinished:
            write(file, text)
        before_move()


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


CREATE = pytest.mark.parametrize(
    ("create", "expected"),
    [
        (create_directory, {"out": None, "out/file": "new"}),
        (create_files, {"out": "new", "out.md": "new"}),
    ],
)


@CREATE
def test_new_path_appears_when_the_block_ends(tmp_path, create, expected):
    create(tmp_path / "out", before_move=lambda: seen.append((tmp_path / "out").exists()))
    assert tree(tmp_path) == expected
    assert seen.pop() is False


seen = []


@CREATE
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_failed_block_leaves_nothing(tmp_path, create, expected, error):
    def fail():
        raise error

    with pytest.raises(error):
        create(tmp_path / "out", before_move=fail)
    assert tree(tmp_path) == {}


@CREATE
@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_path_created_during_the_block_is_kept(tmp_path, create, expected, kind):
    path = tmp_path / "out"

    def take():
        if kind == "file":
            path.write_text("other")
        elif kind == "directory":
            path.mkdir()
            (path / "other").write_text("other")
        elif create is create_files:
            path.symlink_to("nowhere")
        else:
            pytest.skip("a link to a directory is followed")
        before.update({name: os.lstat(tmp_path / name).st_ino for name in os.listdir(tmp_path)})

    before = {}
    with pytest.raises(FileExistsError) as error:
        create(path, before_move=take)
    assert error.value.filename == str(path)
    after = {name: os.lstat(tmp_path / name).st_ino for name in os.listdir(tmp_path)}
    assert after == {"out": before["out"]}


@CREATE
def test_two_at_once_leave_the_first_whole(tmp_path, create, expected):
    path = tmp_path / "out"
    with pytest.raises(FileExistsError):
        create(path, "second", before_move=lambda: create(path))
    assert tree(tmp_path) == expected


def test_empty_directory_becomes_the_new_one(tmp_path):
    (tmp_path / "out").mkdir()
    create_directory(tmp_path / "out")
    assert tree(tmp_path) == {"out": None, "out/file": "new"}


def test_link_to_a_directory_is_followed(tmp_path):
    (tmp_path / "link").symlink_to("disk/out")
    create_directory(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "out" / "file").read_text() == "new"


def test_parents_of_a_directory_are_created_but_not_of_a_file(tmp_path):
    create_directory(tmp_path / "a" / "b" / "out")
    assert (tmp_path / "a" / "b" / "out" / "file").exists()
    with pytest.raises(FileNotFoundError):
        create_files(tmp_path / "c" / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError):
        create_directory(tmp_path / "file" / "out")


def test_long_name_is_possible(tmp_path):
    create_directory(tmp_path / ("é" * 127))
    create_files(tmp_path / ("é" * 126))  # `.md` is added.
    assert len(os.listdir(tmp_path)) == 3


def create_and_die(tmp_path, kind):
    """Create `out` in a process that is killed before it ends."""

    def kill(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def link_one(*arguments):
        link(*arguments)
        os.link = kill

    link, path = os.link, tmp_path / "out"
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        # A new Python would need seconds to import TensorFlow. This one only works with files.
        child = os.fork()
    if child == 0:
        try:
            if kind == "directory":
                create_directory(path, "killed", before_move=kill)
            os.link = link_one if kind == "second file" else kill
            create_files(path, "killed")
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("kind", ["directory", "files", "second file"])
def test_next_call_removes_what_a_kill_left(tmp_path, kind):
    """A kill between the two files of an export leaves the first, which is withdrawn."""
    create_and_die(tmp_path, kind)
    left = os.listdir(tmp_path)
    assert len([name for name in left if name.endswith(".unfinished")]) == 1
    assert ("out.md" in left) == (kind == "second file")
    if kind == "directory":
        create_directory(tmp_path / "out")
        assert tree(tmp_path) == {"out": None, "out/file": "new"}
    else:
        create_files(tmp_path / "out")
        assert tree(tmp_path) == {"out": "new", "out.md": "new"}


def abandon(tmp_path, name=".out.abcd1234.unfinished"):
    """Create what a kill leaves: a scratch directory that no process has locked."""
    (tmp_path / name / "out").mkdir(parents=True)
    return tmp_path / name


def test_only_abandoned_scratch_directories_are_removed(tmp_path):
    abandoned = abandon(tmp_path)
    locked = abandon(tmp_path, ".out.locked12.unfinished")
    others = [abandon(tmp_path, name) for name in (".out.mine.unfinished", ".other.abcd1234")]
    descriptor = os.open(locked, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    create_directory(tmp_path / "out")
    os.close(descriptor)
    assert not abandoned.exists()
    assert all(path.exists() for path in (locked, *others, tmp_path / "out"))


def test_export_in_progress_is_left_alone(tmp_path):
    """The second process neither removes nor takes the scratch directory of the first."""
    with new_directory(str(tmp_path / "out")) as first:
        os.mkdir(first)
        with contextlib.suppress(ZeroDivisionError), new_directory(str(tmp_path / "out")) as second:
            assert second != first
            raise ZeroDivisionError
        assert os.path.isdir(first)
    assert tree(tmp_path) == {"out": None}


@pytest.mark.parametrize(("age", "is_removed"), [(0, False), (90_000, True)])
def test_age_counts_on_a_file_system_without_locks(tmp_path, monkeypatch, age, is_removed):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    abandoned = abandon(tmp_path)
    os.utime(abandoned, (time.time() - age,) * 2)
    create_directory(tmp_path / "out")
    assert (tmp_path / "out" / "file").exists()
    assert abandoned.exists() == (not is_removed)


def test_files_are_created_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    create_files(tmp_path / "out")
    assert tree(tmp_path) == {"out": "new", "out.md": "new"}
    with pytest.raises(FileExistsError):
        create_files(tmp_path / "out", "second")
    assert tree(tmp_path) == {"out": "new", "out.md": "new"}


def test_paths_of_tensorflow(tmp_path):
    """The one in memory does not move the files of a directory, so no directory moves here."""
    folder = f"ram://{tmp_path.name}"
    paths = [f"{folder}/a", f"{folder}/b"]
    for text, error in (("new", None), ("second", FileExistsError)):
        with pytest.raises(error) if error else contextlib.nullcontext():  # noqa: SIM117
            with new_files(*paths) as unfinished:
                for path in unfinished:
                    write(path, text)
    for path in paths:
        assert new_paths.exists(path)
        with tf.io.gfile.GFile(path) as file:
            assert file.read() == "new"
    with pytest.raises(FileExistsError):  # noqa: SIM117
        with new_directory(paths[0]) as unfinished:
            tf.io.gfile.makedirs(unfinished)
    assert unfinished.startswith(f"{folder}/.a.")
    assert sorted(tf.io.gfile.listdir(folder)) == ["a", "b"]
