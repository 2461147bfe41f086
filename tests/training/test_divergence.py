"""A run whose loss or weights become NaN or infinite stops, and saves nothing of that."""

import json
import shutil

import keras
import numpy as np
import pytest

from moco_tf import run_directory
from moco_tf.config import default_config
from moco_tf.errors import UserError
from moco_tf.training.build import build_model
from moco_tf.training.checkpoints import Checkpoints
from moco_tf.training.finite import FiniteCheck
from tests import in_process
from tests.command import TINY, state
from tests.conftest import TRAINED_RUN, source_flag


def no_constant(name):
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize(
    ("rate", "log_every"), [("1e9", 1), pytest.param("1e6", 100, marks=pytest.mark.nightly)]
)
def test_diverged_run_stops_and_keeps_its_checkpoints(image_folder, tmp_path, rate, log_every):
    arguments = (
        *TINY,
        source_flag(image_folder),
        "--config.knn_every=0",
        f"--config.learning_rate={rate}",
        f"--config.log_every={log_every}",
    )
    output = in_process.run("train.py", *arguments, workdir=tmp_path, status=2)
    line = output.strip().splitlines()[-1]
    assert line.startswith("error: the training has diverged: at step ")
    assert "smaller config.learning_rate; the learning rate of this step is " in line
    kept = run_directory.latest_checkpoint(str(tmp_path))
    assert f"The checkpoint {kept} is from before that and is kept" in line
    for name, value in state(tmp_path).items():
        if value.dtype.kind == "f":
            assert np.isfinite(value).all(), name
    for text in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(text, parse_constant=no_constant)


def tiny_model(**settings):
    config = default_config()
    config.update(encoder="resnet8", stem="small", image_size=32, batch_size=4, bn_groups=2)
    config.update(queue_size=8, **settings)
    return build_model(config, steps_per_epoch=5)


def spoil(weight, value):
    values = np.array(weight.numpy())
    values.flat[-1] = value
    weight.assign(values)


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    return FiniteCheck(tiny_model(), str(tmp_path_factory.mktemp("run")))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["kernel", "moving_variance", "momentum", "keys"])
def test_one_value_that_is_not_finite_is_found_anywhere(check, part, value):
    assert check.first_not_finite() is None
    weights = [*check.model.weights, *check.model.optimizer.variables]
    weight = [weight for weight in weights if weight.path.endswith(part)][-1]
    before = weight.numpy().copy()
    spoil(weight, value)
    assert check.first_not_finite() == f"the weight {weight.path} holds NaN or infinity"
    weight.assign(before)


@pytest.mark.slow
def test_moving_statistic_of_one_replica_is_found(two_replicas, tmp_path):
    with two_replicas.scope():
        check = FiniteCheck(tiny_model(), str(tmp_path))
        assert check.first_not_finite() is None
        weight = next(w for w in check.model.weights if w.path.endswith("moving_mean"))
        values = two_replicas.experimental_local_results(weight.value)
        values[1].assign(np.full(weight.shape, np.nan))
        assert check.first_not_finite() == f"the weight {weight.path} holds NaN or infinity"


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = tiny_model()
    checkpoints = Checkpoints(model, str(tmp_path), every=1)
    weight = model.query_encoder.trainable_variables[0]
    spoil(weight, np.nan)
    with pytest.raises(UserError) as error:
        checkpoints.save()
    assert f"at step 0, the weight {weight.path} holds NaN or infinity" in str(error.value)
    assert "No checkpoint was saved before that" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_loss_that_is_not_finite_stops_a_run_unless_steps_can_be_skipped(check, tmp_path):
    with pytest.raises(UserError, match="at step 1, the loss is inf"):
        check.require(1, loss=np.inf)
    in_float16 = tiny_model(precision="mixed_float16")
    keras.config.set_dtype_policy("float32")  # The policy of the model would stay.
    check_in_float16 = FiniteCheck(in_float16, str(tmp_path))
    check_in_float16.require(1, loss=np.inf)
    spoil(in_float16.query_encoder.trainable_variables[0], np.nan)
    check_in_float16.require(1)  # The weights of step 1 have been looked at.
    with pytest.raises(UserError, match="or config.precision='float32'"):
        check_in_float16.require(2)


@pytest.mark.nightly
def test_run_continues_from_a_checkpoint_before_one_that_is_not_finite(
    trained_run, image_folder, tmp_path
):
    workdir = shutil.copytree(trained_run, tmp_path / "run")
    config = run_directory.read_config(str(workdir))
    model = build_model(config, steps_per_epoch=6)
    checkpoints = Checkpoints(model, str(workdir), every=1)
    checkpoints.restore(str(workdir))
    spoil(model.query_encoder.trainable_variables[0], np.nan)
    # As an earlier version did, which saved without a look.
    checkpoints.checkpoint.write(str(workdir / "checkpoints" / "step-12"))
    output = in_process.run("train.py", *TRAINED_RUN, source_flag(image_folder), workdir=workdir)
    assert "continuing from the checkpoint of step 10, because newer ones" in output
    assert "step-12: the weight " in output
    expected = state(trained_run)
    for name, value in state(workdir).items():
        assert (value == expected[name]).all(), name
