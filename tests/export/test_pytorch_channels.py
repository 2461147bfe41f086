"""Models for images with other than three channels, exported as checkpoints and imported again."""

import numpy as np
import pytest

from moco_tf import encoders
from moco_tf.backbones import pytorch_files
from moco_tf.backbones.reference_checkpoint import from_checkpoint, to_checkpoint
from moco_tf.data.pixels import Pixels, default
from moco_tf.export.saved_model import export_saved_model
from moco_tf.training.build import build_model
from tests import in_process
from tests.export.checkpoints import (
    SCRIPT,
    refusal,
    run_flags,
    saved,
    set_values,
    small_config,
    small_model,
)

pytestmark = pytest.mark.torch


def model_of_five_channels():
    config = small_config()
    config.rgb_operations = False
    return build_model(config, steps_per_epoch=5, channels=5)


@pytest.fixture(scope="module")
def model():
    return set_values(model_of_five_channels())


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    checkpoint = to_checkpoint(model, "resnet8", 5)
    for encoder in ("module.encoder_q.", "module.encoder_k."):
        assert checkpoint["state_dict"][f"{encoder}conv1.weight"].shape == (16, 5, 3, 3)
    return saved(checkpoint, tmp_path_factory.mktemp("checkpoint"))


def test_model_of_five_channels_returns_unchanged(model, path):
    other = model_of_five_channels()
    from_checkpoint(other, pytorch_files.read(path))
    variables = [m.variables + m.optimizer.variables for m in (model, other)]
    rounded = {id(variable) for variable in model.key_encoder.trainable_variables}
    for expected, actual in zip(*variables, strict=True):
        tolerance = 2.5e-7 if id(expected) in rounded else 0
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=tolerance, atol=0)


def test_model_of_three_channels_refuses_it(path):
    message = refusal(from_checkpoint, small_model(), pytorch_files.read(path))
    assert "conv1.weight' has shape (16, 5, 3, 3), expected (16, 3, 3, 3)" in message


def test_run_on_rgb_images_refuses_it(path, photos, tmp_path):
    flags = (f"--checkpoint={path}", *run_flags(photos))
    message = in_process.run_mistake(SCRIPT, *flags, workdir=tmp_path / "run")
    assert "images with 3 channels" in message
    assert "conv1.weight' has shape (16, 5, 3, 3)" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_default", [True, False])
def test_export_says_that_the_file_has_no_normalization(tmp_path, is_default):
    pixels = default(2) if is_default else Pixels((0.5, 0.25), (0.2, 0.1), "uint16", (0.0, 4095.0))
    network = encoders.build("resnet8", stem="small", channels=2, pixels=pixels)
    saved_model, out = tmp_path / "saved_model", tmp_path / "backbone.pth"
    export_saved_model(encoders.with_normalization(network), str(saved_model))
    output = in_process.run(SCRIPT, f"--saved_model={saved_model}", f"--out={out}")
    card = (tmp_path / "backbone.pth.md").read_text()
    note = (
        "by the value range 0, 4095, the mean 0.5, 0.25 and the standard deviation 0.2, 0.1. "
        "The `--checkpoint`"
    )
    for text in (output, card):
        assert (note in text) != is_default
