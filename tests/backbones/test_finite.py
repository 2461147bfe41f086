"""Backbones with NaN or infinity are refused wherever they are loaded or exported."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import encoders, run_directory
from moco_tf.backbones import loading
from moco_tf.errors import UserError
from moco_tf.export.detectron2_pickle import export_detectron2
from moco_tf.export.keras_hub_preset import export_keras_hub
from moco_tf.export.keras_v3 import export_keras
from moco_tf.export.onnx_file import export_onnx
from moco_tf.export.saved_model import export_saved_model, to_archive
from moco_tf.training.run_model import load_model
from tests import in_process

SPOILT = {
    "stage2_block1_1_conv/kernel": np.nan,
    "stem_bn/moving_variance": np.inf,
    "stage3_block1_2_bn/beta": -np.inf,
}
CASES = pytest.mark.parametrize(("weight", "value"), SPOILT.items())


def spoil(model, path, value):
    """Set one number of the weight at a path to a value."""
    [weight] = [weight for weight in model.weights if weight.path == path]
    array = weight.numpy()
    array.reshape(-1)[-1] = value
    weight.assign(array)
    return model


def refusal(function, *arguments):
    with pytest.raises(UserError) as error:
        function(*arguments)
    return str(error.value)


def spoilt_run(trained_run, folder, weight, value):
    """Return a run whose newest checkpoint holds a value that is not finite."""
    workdir = shutil.copytree(trained_run, folder / "run")
    model, _ = load_model(str(workdir))
    spoil(model.query_encoder, weight, value)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    checkpoint.save_counter.assign(99)
    checkpoint.write(f"{workdir}/checkpoints/step-99")
    assert run_directory.latest_checkpoint(str(workdir)).endswith("step-99")
    return workdir


@CASES
def test_run_is_refused(trained_run, tmp_path, weight, value):
    workdir = spoilt_run(trained_run, tmp_path, weight, value)
    for function in (loading.load_backbone, loading.load_encoder):
        message = refusal(function, str(workdir))
        path = f"{workdir}/checkpoints/step-99"
        assert message.startswith(
            f"the checkpoint {path} holds NaN or infinity in the weight {weight}: move its files"
        )
    # The remedy works.
    for file in (workdir / "checkpoints").glob("step-99.*"):
        file.rename(tmp_path / file.name)
    loading.load_backbone(str(workdir))


@pytest.mark.nightly
def test_saved_model_is_refused(tmp_path):
    weight, value = next(iter(SPOILT.items()))
    backbone, path = spoil(encoders.build("resnet8", stem="small"), weight, value), tmp_path / "x"
    to_archive(encoders.with_normalization(backbone)).write_out(str(path), verbose=False)
    network = {"encoder": "resnet8", "stem": "small", "channels": 3}
    (path / "network.json").write_text(json.dumps(network))
    for function in (loading.load_network, loading.load_saved_model):
        message = refusal(function, str(path))
        assert message.startswith(f"the SavedModel {path} holds NaN or infinity in the weight ")
        assert weight.replace("/", "_") in message.replace("/", "_")  # As Keras renames it.
        assert message.endswith("export another checkpoint of its run")


@CASES
@pytest.mark.parametrize(
    "export",
    [export_saved_model, export_keras, export_keras_hub, export_onnx, export_detectron2],
)
def test_export_is_refused(tmp_path, export, weight, value):
    pytest.importorskip("keras_hub" if export is export_keras_hub else "keras")
    pytest.importorskip("tf2onnx" if export is export_onnx else "keras")
    backbone = spoil(encoders.build("resnet8", stem="small"), weight, value)
    message = refusal(export, backbone, str(tmp_path / "out.keras"))
    assert message == (
        f"the backbone holds NaN or infinity in the weight {weight}: use another backbone"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command", [("evaluate.py", "--protocol=knn"), ("export/keras_v3.py", "--out={out}.keras")]
)
def test_commands_refuse_in_one_line(trained_run, tmp_path, command):
    weight, value = next(iter(SPOILT.items()))
    workdir = spoilt_run(trained_run, tmp_path, weight, value)
    arguments = [argument.format(out=tmp_path / "out") for argument in command]
    message = in_process.run_mistake(*arguments, workdir=workdir)
    assert f"{workdir}/checkpoints/step-99 holds NaN or infinity in the weight {weight}" in message
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.nightly
@pytest.mark.torch
# It builds the whole model twice.
def test_whole_run_is_not_exported_from_an_older_checkpoint(trained_run, tmp_path):
    pytest.importorskip("torch")
    workdir = spoilt_run(trained_run, tmp_path, *next(iter(SPOILT.items())))
    flags = ("export/pytorch.py", f"--out={tmp_path}/out")
    message = in_process.run(*flags, workdir=workdir, status=2).splitlines()[-1]
    assert f"{workdir}/checkpoints/step-99 cannot be used: move its files elsewhere" in message
    assert message.endswith("to export step-12")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
