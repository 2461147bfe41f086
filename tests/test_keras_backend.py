"""Another backend of Keras is refused in one line, before Keras is imported."""

import json
import sys

import pytest

from moco_tf import UserError, keras_backend
from tests import command

PROGRAM = """
import moco_tf
try:
    moco_tf.encoders
except moco_tf.UserError as error:
    print(error)
"""


def test_command_with_another_backend_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    flags = ("--config=configs/photos.py", f"--workdir={tmp_path / 'run'}")
    line = command.run_mistake("train.py", *flags)
    assert "KERAS_BACKEND=jax makes Keras use the backend 'jax'" in line
    assert "set the environment variable KERAS_BACKEND=tensorflow" in line
    assert not (tmp_path / "run").exists()


def test_backend_of_keras_json_is_refused_in_python(monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "torch"}))
    [line] = command.run("-c", PROGRAM).splitlines()
    assert line.startswith(
        f"the file {tmp_path / 'keras.json'} makes Keras use the backend 'torch'"
    )


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"backend": "tensorflow"}'])
def test_file_without_another_backend_is_accepted(monkeypatch, tmp_path, content):
    monkeypatch.delitem(sys.modules, "keras.src.backend", raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    keras_backend.require_tensorflow()  # There is no file.
    (tmp_path / "keras.json").write_text(content)
    keras_backend.require_tensorflow()
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    with pytest.raises(UserError, match="keras.json makes Keras use the backend 'jax'"):
        keras_backend.require_tensorflow()
