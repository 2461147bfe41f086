"""The file for Detectron2, compared with the names and shapes in Detectron2's own networks.

`detectron2_resnet*.json` is what `build_resnet_backbone(...).state_dict()` holds at Detectron2's
commit 02b5c4e of June 2026, in its order.
"""

import json
import pathlib
import pickle

import numpy as np
import pytest

from moco_tf import encoders
from moco_tf.backbones.loading import load_query_encoder
from moco_tf.errors import UserError
from moco_tf.export.detectron2_pickle import detectron2_settings, export_detectron2, to_detectron2
from tests import in_process
from tests.export.backbones import make_run

HERE = pathlib.Path(__file__).parent


def published_shapes(name):
    return json.loads((HERE / f"detectron2_{name}.json").read_text())


def shapes(content):
    return {key: list(array.shape) for key, array in content["model"].items()}


@pytest.fixture(scope="module")
def resnet50():
    """A network whose weights are all different."""
    backbone = encoders.build("resnet50")
    numbers = np.random.default_rng(0)
    for variable in backbone.variables:
        variable.assign(numbers.standard_normal(variable.shape, np.float32))
    return backbone


@pytest.fixture(scope="module")
def networks(resnet50):
    """A function that returns the network of a name."""
    return lambda name: resnet50 if name == "resnet50" else encoders.build(name)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_keys_and_shapes_are_those_of_detectron2(networks, name):
    content = to_detectron2(networks(name))
    assert shapes(content) == published_shapes(name)
    assert content["matching_heuristics"] is True
    assert content["__author__"]


def test_every_array_is_that_of_its_layer(resnet50):
    model = to_detectron2(resnet50)["model"]
    kernel = resnet50.get_layer("stage3_block1_2_conv").kernel.numpy()
    assert (model["res4.0.conv2.weight"] == kernel.transpose(3, 2, 0, 1)).all()
    norm = resnet50.get_layer("stage2_block1_shortcut_bn")
    assert (model["res3.0.shortcut.norm.weight"] == norm.gamma.numpy()).all()
    assert (model["res3.0.shortcut.norm.running_var"] == norm.moving_variance.numpy()).all()
    stem = resnet50.get_layer("stem_bn")
    assert (model["stem.conv1.norm.bias"] == stem.beta.numpy()).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Stem, first stage, groups and width of a group, as in Detectron2's own configs.
        ("resnet50", (50, 64, 256, 1, 64)),
        ("resnet101", (101, 64, 256, 1, 64)),
        ("resnet50w2", (50, 128, 512, 1, 128)),
        ("resnext50_32x8d", (50, 64, 256, 32, 8)),
    ],
)
def test_settings_build_the_same_network(networks, name, expected):
    settings = detectron2_settings(networks(name))
    keys = ("DEPTH", "STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS", "NUM_GROUPS", "WIDTH_PER_GROUP")
    assert tuple(settings[f"MODEL.RESNETS.{key}"] for key in keys) == expected
    assert settings["MODEL.RESNETS.STRIDE_IN_1X1"] is False


def test_settings_normalize_images_as_torchvision_does(resnet50):
    settings = detectron2_settings(resnet50)
    assert settings["INPUT.FORMAT"] == "RGB"
    assert settings["MODEL.PIXEL_MEAN"] == [123.675, 116.28, 103.53]  # in [0, 255]
    assert settings["MODEL.PIXEL_STD"] == [58.395, 57.12, 57.375]


@pytest.mark.parametrize(
    ("encoder", "facts"),
    [
        ({"name": "resnet8"}, ["no resnet8", "18, 34, 50, 101"]),
        ({"name": "resnet18", "stem": "small"}, ["7x7", "3x3", "stem=imagenet"]),
        ({"name": "resnet18", "channels": 4}, ["3 channels", "takes 4"]),
        ({"name": "resnet18w2"}, ["no wider resnet18w2", "64 channels"]),
    ],
)
def test_network_that_detectron2_lacks_is_refused(encoder, facts):
    with pytest.raises(UserError) as error:
        to_detectron2(encoders.build(**encoder))
    for fact in facts:
        assert fact in str(error.value)


@pytest.mark.slow
def test_run_is_exported(tmp_path):
    workdir = make_run(tmp_path / "run", "resnet18", "imagenet")
    out = tmp_path / "backbone.pkl"
    printed = in_process.run("export/detectron2_pickle.py", f"--out={out}", workdir=workdir)
    assert f"wrote {out}" in printed
    card = (tmp_path / "backbone.pkl.md").read_text()
    assert "# resnet18" in card
    for text in (printed, card):
        assert "MODEL.RESNETS.DEPTH 18" in text
    with open(out, "rb") as file:
        content = pickle.load(file)
    assert shapes(content) == published_shapes("resnet18")
    kernel = load_query_encoder(str(workdir)).backbone.get_layer("stem_conv").kernel.numpy()
    assert (content["model"]["stem.conv1.weight"] == kernel.transpose(3, 2, 0, 1)).all()


def test_existing_file_is_left_alone(resnet50, tmp_path):
    out = tmp_path / "backbone.pkl"
    out.write_bytes(b"mine")
    with pytest.raises(UserError, match=f"{out} exists"):
        export_detectron2(resnet50, str(out))
    assert [path.name for path in tmp_path.iterdir()] == ["backbone.pkl"]
    assert out.read_bytes() == b"mine"


def test_backbone_with_normalization_has_the_same_weights_and_settings():
    network = encoders.build("resnet18")
    normalized = encoders.with_normalization(network)
    content = to_detectron2(normalized)["model"]
    kernel = network.get_layer("stem_conv").kernel.numpy()
    np.testing.assert_array_equal(content["stem.conv1.weight"], kernel.transpose(3, 2, 0, 1))
    assert content.keys() == to_detectron2(network)["model"].keys()
    assert detectron2_settings(normalized) == detectron2_settings(network)
