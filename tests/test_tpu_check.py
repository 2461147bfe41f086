"""`make tpu-check` for the platform CPU, which requires no additional packages."""

import re

import keras
import pytest
import tensorflow as tf

from moco_tf.mechanisms import base, moco
from tests import tpu_check


@pytest.fixture(autouse=True)
def small_model(monkeypatch):
    monkeypatch.setattr(tpu_check, "VARIANTS", [("photos", "mixed_bfloat16")])
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.nightly
def test_check_prints_the_number_of_main_operations(capsys):
    assert tpu_check.main(["--platform=CPU"]) == 0
    output = capsys.readouterr().out
    counts = r"(\d+) convolutions, (\d+) batch-norms, (\d+) all-reduces, "
    match = re.match(f"photos, mixed_bfloat16: {counts}", output)
    assert match, output
    assert min(map(int, match.groups())) > 0


@pytest.mark.nightly
def test_check_names_operation_without_a_kernel(capsys, monkeypatch):
    def stateless_shuffle(count, seed):
        return tf.random.experimental.stateless_shuffle(tf.range(count), seed)

    monkeypatch.setattr(base, "permutation", stateless_shuffle)
    assert tpu_check.main(["--platform=CPU"]) == 1
    assert ": CPU lacks StatelessShuffle: " in capsys.readouterr().out


@pytest.mark.nightly
def test_check_fails_if_the_step_leaves_a_variable_unchanged(monkeypatch):
    monkeypatch.setattr(moco.Queue, "enqueue", lambda self, keys, frames=None: None)
    with pytest.raises(AssertionError, match="the step does not change .*keys"):
        tpu_check.main(["--platform=CPU"])
