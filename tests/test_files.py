"""Atomic writes: after an interruption a path holds its old content, its new one, or nothing."""

import json
import threading

import pytest
import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.files import error_reason, read_json, write_atomically, write_remedy


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("text", "expected"), [("été", "été".encode()), (b"\xff\x00", b"\xff\x00")]
)
def test_file_is_written_and_replaced(tmp_path, text, expected):
    path = tmp_path / "file"
    for _ in range(2):
        write_atomically(str(path), text)
        assert contents(tmp_path) == {"file": expected}


def test_file_keeps_its_content_when_the_write_is_interrupted(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(tf.io.gfile, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(str(path), "new")
    assert contents(tmp_path) == {"file": b"old"}


def test_writers_of_the_same_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "file.json"
    failures = []

    def write(number):
        for _ in range(200):
            try:
                write_atomically(str(path), json.dumps([number] * 3000 * (number + 1)))
                json.loads(path.read_text())
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=write, args=[number]) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert list(contents(tmp_path)) == ["file.json"]


def test_remedy_depends_on_what_is_in_the_way(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(tf.errors.OpError) as error:
        write_atomically(str(tmp_path / "file"), "new")
    assert "move the directory that has the name" in write_remedy(error.value, str(tmp_path))
    with pytest.raises(tf.errors.OpError) as error:
        write_atomically(str(tmp_path / "none" / "file"), "new")
    assert write_remedy(error.value, str(tmp_path / "none")) == (
        "restore the directory, which does not exist"
    )


def test_reason_of_an_error_is_its_message_alone():
    assert error_reason(OSError(28, "No space left on device")) == "No space left on device"
    assert error_reason(tf.errors.NotFoundError(None, None, "no such bucket")) == "no such bucket"
    assert error_reason(OSError("unknown")) == "unknown"
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        tf.debugging.Assert(tf.constant(False), ["damaged"])
    assert error_reason(error.value) == "damaged"
    with pytest.raises(tf.errors.NotFoundError) as error:
        tf.io.read_file("missing/file")
    assert error_reason(error.value) == "missing/file; No such file or directory"


def test_reason_of_a_function_in_a_graph_is_its_message_alone():
    def fail():
        raise ValueError("a damaged file")

    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        tf.function(lambda: tf.numpy_function(fail, [], tf.int64))()
    assert error_reason(error.value) == "a damaged file"


def test_file_that_cannot_be_read_for_a_moment_is_not_called_damaged(tmp_path):
    path = tmp_path / "result.json"
    path.mkdir()
    with pytest.raises(UserError, match="cannot be read .*: check its permissions, and the disk"):
        read_json(str(path), "delete it")
    path.rmdir()
    with pytest.raises(UserError, match="cannot be read .*: delete it$"):
        read_json(str(path), "delete it")
    path.write_text('{"half": ')
    with pytest.raises(UserError, match="cannot be read .*: delete it$"):
        read_json(str(path), "delete it")
