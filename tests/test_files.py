"""Atomic writes: after an interruption a path holds its old content, its new one, or nothing."""

import pytest
import tensorflow as tf

from moco_tf.files import error_reason, write_atomically


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
    assert path.read_text() == "old"


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
