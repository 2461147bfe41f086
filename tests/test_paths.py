"""`~` and environment variables in paths."""

import os

import pytest

from moco_tf.errors import UserError
from moco_tf.paths import absolute_source, expand, expand_source, same_place


@pytest.fixture(autouse=True)
def variables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/mnt/data")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("runs/a", "runs/a"),
        ("./runs//a/", "./runs//a/"),
        ("/", "/"),
        ("~", "/home/me"),
        ("~/runs", "/home/me/runs"),
        ("a/~/b", "a/~/b"),
        ("backup~", "backup~"),
        ("$HOME/runs", "/home/me/runs"),
        ("${DATA}/photos-${DATA}", "/mnt/data/photos-/mnt/data"),
        ("gs://bucket$DATA/a~", "gs://bucket/mnt/data/a~"),
        ("~root", os.path.expanduser("~root")),
        ("100$", "100$"),
        ("a$5", "a$5"),
        ("a$", "a$"),
        ("ram://~/a", "ram://~/a"),
        ("photos/*-[0-9]?", "photos/*-[0-9]?"),
    ],
)
def test_expand(path, expected):
    assert expand(path, "--workdir") == expected
    assert expand(expanded := expand(path, "--workdir"), "--workdir") == expanded
    for scheme in ("folder", "idx", "tfrecord", "arrayrecord", "webdataset", "parquet", "coco"):
        assert expand_source(f"{scheme}:{path}") == f"{scheme}:{expected}"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "--workdir is empty: give a path"),
        (" ", "--workdir is empty"),
        ("$UNSET/runs", "--workdir: the environment variable UNSET is not set"),
        ("${UNSET}", "--workdir: the environment variable UNSET is not set"),
        ("$EMPTY/runs", "--workdir: the environment variable EMPTY is empty"),
        ("gs://$UNSET/runs", "UNSET is not set"),
        ("~no_such_user/runs", "there is no user 'no_such_user': write ./~no_such_user"),
        (os.fsdecode(b"caf\xe9"), "is not encoded in UTF-8"),
    ],
)
def test_mistakes_are_refused(path, message):
    with pytest.raises(UserError) as error:
        expand(path, "--workdir")
    assert message in str(error.value)


@pytest.mark.parametrize("part", ["$UNSET", "a${DATA}b", "~", "~no_such_user", "$EMPTY"])
def test_path_that_exists_is_taken_as_it_is_written(tmp_path, part):
    (tmp_path / part).mkdir()
    assert expand(part, "--workdir") == part
    assert expand(f"{part}/new/run", "--workdir") == f"{part}/new/run"
    assert expand(f"{tmp_path}/{part}/new", "--workdir") == f"{tmp_path}/{part}/new"
    assert expand(f"{part}/$DATA", "--workdir") == f"{part}//mnt/data"
    assert expand_source(f"folder:{part}") == f"folder:{part}"


@pytest.mark.parametrize(
    "name", ["photos", "tfds:mnist:train[:10%]", "tfds:$x", "folder:", "", "~"]
)
def test_other_sources_are_left_as_they_are(name):
    assert expand_source(name) == name


def test_error_names_the_source():
    with pytest.raises(UserError, match="--data 'folder:[$]UNSET/a': the environment variable"):
        expand_source("folder:$UNSET/a", "--data")


def test_folder_of_images_does_not_have_to_be_utf8():
    name = os.fsdecode(b"folder:/caf\xe9")
    assert expand_source(name) == name
    with pytest.raises(UserError, match="UTF-8"):
        expand_source(os.fsdecode(b"idx:/caf\xe9"))


@pytest.mark.parametrize(
    ("name", "other", "is_same"),
    [
        ("folder:a", "folder:./a/", True),
        ("folder:a", "folder:b", False),
        ("folder:a", "video:a", False),
        ("folder:a", "folder:link", True),
        ("tfrecord:a/*.tfrecord", "tfrecord:link/*.tfrecord", True),
        ("folder:a;photos", "folder:link;photos", True),
        ("folder:a;photos", "photos;folder:a", False),
        ("folder:gs://bucket/a/", "folder:gs://bucket/a", True),
        ("tfds:mnist", "tfds:mnist:test", False),
    ],
)
def test_same_place(tmp_path, monkeypatch, name, other, is_same):
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert same_place(name, other) == is_same
    absolute = [absolute_source(each) for each in (name, other)]
    monkeypatch.chdir("/")
    assert same_place(*absolute) == is_same
