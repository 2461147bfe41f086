"""The network in a SavedModel, built again; and SavedModels that hold another, or none."""

import keras
import numpy as np
import pytest

from moco_tf import encoders
from moco_tf.backbones import loading
from moco_tf.encoders import Network
from moco_tf.errors import UserError
from moco_tf.export.saved_model import export_saved_model


@pytest.fixture(scope="module")
def backbone():
    """One whose every number is one of its own."""
    backbone = encoders.build("resnet8", stem="small", channels=5)
    for number, weight in enumerate(backbone.weights):
        weight.assign(np.random.default_rng(number).uniform(0.5, 1.5, weight.shape))
    return backbone


@pytest.fixture
def path(backbone, tmp_path):
    export_saved_model(encoders.with_normalization(backbone), str(tmp_path / "saved_model"))
    return tmp_path / "saved_model"


def refusal(path, *network):
    with pytest.raises(UserError) as error:
        loading.load_network(str(path), *network)
    return str(error.value)


@pytest.mark.parametrize("says_it", [True, False])
def test_every_number_comes_back(backbone, path, says_it):
    if not says_it:  # as those of before there was network.json
        (path / "network.json").unlink()
        assert f"--saved_model={path} does not say" in refusal(path)
    found = loading.load_network(str(path), *([] if says_it else ["resnet8", "small"]))
    assert encoders.network_of(found) == Network("resnet8", "small", 5)
    for weight, expected in zip(found.weights, backbone.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy())
    keras.layers.TFSMLayer(str(path), call_endpoint="serve")  # network.json does no harm


def test_another_network(path):
    for network in (("resnet14", "small"), ("resnet8", "imagenet"), ("resnet8w2", "small")):
        words = f"--encoder={network[0]} --stem={network[1]} is not the network of"
        assert f"{words} --saved_model={path}" in refusal(path, *network)
    assert "unknown encoder 'resnet9'" in refusal(path, "resnet9", "small")


def test_a_description_that_somebody_changed(path):
    (path / "network.json").write_text('{"encoder": "resnet8", "stem": "imagenet", "channels": 5}')
    assert "--stem=imagenet is not the network of" in refusal(path)
    (path / "network.json").write_text("{}")
    assert "network.json is not what export/saved_model.py wrote" in refusal(path)


def test_no_saved_model(tmp_path):
    assert f"--saved_model={tmp_path} is not a SavedModel" in refusal(tmp_path)
