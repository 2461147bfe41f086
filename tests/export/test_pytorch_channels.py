"""Networks of torch's, and runs, on images of other channels than three: there and back."""

import keras
import numpy as np
import pytest

from moco_tf.errors import UserError
from moco_tf.export import pytorch
from moco_tf.training.build import build_model
from tests import in_process
from tests.export.checkpoints import (
    SCRIPT,
    assert_close,
    saved,
    set_numbers,
    settings,
    small_config,
    small_model,
)
from tests.images import write_folder
from tests.pytorch import torch, torchvision

MEAN, STD = (0.485 + 0.456 + 0.406) / 3, (0.229 + 0.224 + 0.225) / 3  # of ImageNet's three


def model_of(channels):
    config = small_config()
    config.rgb_operations = False
    return build_model(config, steps_per_epoch=5, channels=channels)


def test_a_model_of_five_channels_goes_there_and_comes_back(tmp_path):
    model = set_numbers(model_of(5))
    checkpoint = pytorch.to_checkpoint(model, "resnet8", 5)
    for encoder in (pytorch.QUERY, pytorch.KEY):
        assert checkpoint["state_dict"][f"{encoder}conv1.weight"].shape == (16, 5, 3, 3)
    content = pytorch.read(saved(checkpoint, tmp_path))
    back = model_of(5)
    pytorch.from_checkpoint(back, content)
    held = [m.variables + m.optimizer.variables for m in (model, back)]
    for a, b in zip(*held, strict=True):
        np.testing.assert_array_equal(b.numpy(), a.numpy(), err_msg=a.path)
    words = r"conv1\.weight' has shape \(16, 5, 3, 3\), expected \(16, 3, 3, 3\)"
    with pytest.raises(UserError, match=words):
        pytorch.from_checkpoint(small_model(), content)


def test_a_run_on_rgb_refuses_such_a_checkpoint_in_one_line(tmp_path):
    path = saved(pytorch.to_checkpoint(set_numbers(model_of(5)), "resnet8", 5), tmp_path)
    photos, workdir = write_folder(tmp_path / "photos", each=8, side=32), tmp_path / "run"
    arguments = (f"--checkpoint={path}", f"--workdir={workdir}", *settings(photos))
    line = in_process.run_mistake(SCRIPT, *arguments)
    assert "and images of 3 channels" in line and "conv1.weight' has shape (16, 5, 3, 3)" in line
    assert not workdir.exists()


def test_a_plain_network_of_one_channel_becomes_a_saved_model(tmp_path):
    torch.manual_seed(0)
    theirs, out = torchvision.models.resnet18(), tmp_path / "saved_model"
    theirs.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    checkpoint = f"--checkpoint={saved(theirs.state_dict(), tmp_path)}"
    in_process.run("export/saved_model.py", checkpoint, "--encoder=resnet18", f"--out={out}")
    layer = keras.layers.TFSMLayer(str(out), call_endpoint="serve")
    images = np.random.default_rng(0).uniform(0, 255, (2, 48, 64, 1)).astype(np.float32)
    normalized = ((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    theirs.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(normalized.copy())).numpy()
    assert_close(layer(images).numpy(), expected)
