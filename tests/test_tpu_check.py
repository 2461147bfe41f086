"""`make tpu-check` with the CPU in the TPU's place, which needs none of what it installs."""

import keras
import pytest
import tensorflow as tf

from moco_tf.mechanisms import moco
from tests import tpu_check


@pytest.fixture(autouse=True)
def the_demos_model(monkeypatch):
    monkeypatch.setattr(tpu_check, "VARIANTS", [("photos", "mixed_bfloat16")])
    yield
    keras.config.set_dtype_policy("float32")


def test_it_counts_what_the_step_comes_to(capsys):
    assert tpu_check.main(["--platform=CPU"]) == 0
    output = capsys.readouterr().out
    # A ResNet-8's 9 convolutions: twice forward, and back to weights and inputs. As many norms, of
    # two groups, twice forward and once back. Gradients of 29 parameters, the gathers of images and
    # of keys, and four numbers for the log.
    expected = "photos, mixed_bfloat16: 36 convolutions, 54 batch-norms, 35 all-reduces, "
    assert output.startswith(expected), output


def test_it_names_the_operation_that_is_lacking(capsys, monkeypatch):
    def shuffled(count, seed):
        return tf.random.experimental.stateless_shuffle(tf.range(count), seed)

    monkeypatch.setattr(moco, "permutation", shuffled)
    assert tpu_check.main(["--platform=CPU"]) == 1
    assert ": CPU lacks StatelessShuffle: " in capsys.readouterr().out


def test_it_notices_what_the_step_leaves_as_it_is(monkeypatch):
    monkeypatch.setattr(moco.Queue, "enqueue", lambda self, keys: None)
    with pytest.raises(AssertionError, match="the step leaves .*keys as it is"):
        tpu_check.main(["--platform=CPU"])
