"""Indices of files of records on the disk."""

import os

import numpy as np
import pytest

from moco_tf.data.sources import index_cache
from moco_tf.data.sources.index_cache import FOLDER, cached
from tests.data.sources.encoded import settle


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory, monkeypatch):
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    return path


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.records"
    path.write_bytes(b"12345")
    settle(path)
    return path


class Build:
    """Returns the bytes of a file as its index, and counts the calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, path):
        self.calls += 1
        with open(path, "rb") as file:
            values = np.frombuffer(file.read(), np.uint8).astype(np.int64)
        return {"offsets": values, "texts": np.array(["cat", "ü"])}


def index_files(folder):
    return sorted(path.name for path in (folder / FOLDER).glob("*"))


def test_file_is_scanned_once(file):
    build = Build()
    first = cached(str(file), "kind", build)
    second = cached(str(file), "kind", build)
    assert build.calls == 1
    assert index_files(file.parent) == ["a.records.kind"]
    for name in ("offsets", "texts"):
        assert first[name].dtype == second[name].dtype
        assert first[name].tolist() == second[name].tolist()
    cached(str(file), "other", build)
    assert build.calls == 2


def test_file_of_another_size_or_time_is_scanned_again(file):
    build = Build()
    cached(str(file), "kind", build)
    file.write_bytes(b"123456")
    settle(file)
    assert cached(str(file), "kind", build)["offsets"].tolist() == list(b"123456")
    file.write_bytes(b"654321")
    os.utime(file, ns=(0, 1_600_000_000_000_000_001))
    assert cached(str(file), "kind", build)["offsets"].tolist() == list(b"654321")
    assert build.calls == 3
    assert index_files(file.parent) == ["a.records.kind"]


def test_index_of_a_file_that_was_just_written_is_not_kept(file):
    os.utime(file)
    cached(str(file), "kind", Build())
    assert not (file.parent / FOLDER).exists()


@pytest.mark.parametrize("position", [0, 40, 200, -1])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_damaged_index_is_made_again(file, damage, position):
    build = Build()
    cached(str(file), "kind", build)
    path = file.parent / FOLDER / "a.records.kind"
    whole = bytearray(path.read_bytes())
    damaged = bytearray(whole)
    damaged[position] ^= 1
    damaged = {"flip": damaged, "cut": whole[:position], "empty": b"", "other": b"x" * 500}[damage]
    path.write_bytes(damaged)
    assert cached(str(file), "kind", build)["offsets"].tolist() == list(b"12345")
    assert build.calls == 2
    assert path.read_bytes() == whole


def test_index_of_another_version_is_made_again(file, monkeypatch):
    build = Build()
    cached(str(file), "kind", build)
    monkeypatch.setattr(index_cache, "VERSION", index_cache.VERSION + 1)
    cached(str(file), "kind", build)
    assert build.calls == 2


def test_index_is_in_the_cache_of_the_user_if_the_folder_cannot_be_written(file, user_cache):
    # Not by its mode, which does not stop the superuser.
    (file.parent / FOLDER).write_text("a file where the folder would be")
    build = Build()
    cached(str(file), "kind", build)
    assert cached(str(file), "kind", build)["offsets"].tolist() == list(b"12345")
    assert build.calls == 1
    assert len(list((user_cache / "moco_tf" / "index").iterdir())) == 1


def test_index_is_not_kept_if_nothing_can_be_written(file, user_cache):
    (file.parent / FOLDER).write_text("")
    (user_cache / "moco_tf").write_text("")
    build = Build()
    cached(str(file), "kind", build)
    assert cached(str(file), "kind", build)["offsets"].tolist() == list(b"12345")
    assert build.calls == 2


def test_missing_file_is_reported_by_the_function_that_makes_the_index(tmp_path):
    with pytest.raises(FileNotFoundError):
        cached(str(tmp_path / "missing"), "kind", Build())
