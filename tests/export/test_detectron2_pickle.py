"""The file for Detectron2, against the names and shapes in Detectron2's own networks.

`detectron2_resnet*.json` is what `build_resnet_backbone(...).state_dict()` holds at Detectron2's
commit 02b5c4e of June 2026, in the order in which it stands there.
"""

import json
import pathlib
import pickle

import numpy as np
import pytest

from moco_tf import encoders
from moco_tf.backbones.loading import load_query_encoder
from moco_tf.errors import UserError
from moco_tf.export.detectron2_pickle import settings, to_detectron2
from tests import in_process
from tests.command import TINY

HERE = pathlib.Path(__file__).parent
SCRIPT = "export/detectron2.py"


def published(name):
    return json.loads((HERE / f"detectron2_{name}.json").read_text())


def shapes(content):
    return {key: list(array.shape) for key, array in content["model"].items()}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_every_key_is_one_of_detectron2s_and_none_is_missing(name):
    content = to_detectron2(encoders.build(name))
    assert shapes(content) == published(name)
    assert content["__author__"] and content["matching_heuristics"] is True


def test_every_array_is_that_of_its_layer():
    backbone = encoders.build("resnet50")
    for number, variable in enumerate(backbone.variables):
        variable.assign(np.random.default_rng(number).normal(size=variable.shape))
    model = to_detectron2(backbone)["model"]
    kernel = backbone.get_layer("stage3_block1_2_conv").kernel.numpy()
    assert (model["res4.0.conv2.weight"] == kernel.transpose(3, 2, 0, 1)).all()
    norm = backbone.get_layer("stage2_block1_shortcut_bn")
    assert (model["res3.0.shortcut.norm.weight"] == norm.gamma.numpy()).all()
    assert (model["res3.0.shortcut.norm.running_var"] == norm.moving_variance.numpy()).all()
    stem = backbone.get_layer("stem_bn")
    assert (model["stem.conv1.norm.bias"] == stem.beta.numpy()).all()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        # Stem, first stage, groups, width of a group: as Detectron2's own configs have them.
        ("resnet50", (50, 64, 256, 1, 64)),
        ("resnet101", (101, 64, 256, 1, 64)),
        ("resnet50w2", (50, 128, 512, 1, 128)),
        ("resnext50_32x8d", (50, 64, 256, 32, 8)),
    ],
)
def test_what_the_config_has_to_say(name, wanted):
    found = settings(encoders.build(name))
    keys = ("DEPTH", "STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS", "NUM_GROUPS", "WIDTH_PER_GROUP")
    assert tuple(found[f"MODEL.RESNETS.{key}"] for key in keys) == wanted
    assert found["MODEL.RESNETS.STRIDE_IN_1X1"] is False
    assert found["INPUT.FORMAT"] == "RGB"
    # torchvision's, in 0 to 255.
    assert found["MODEL.PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    assert found["MODEL.PIXEL_STD"] == [58.395, 57.12, 57.375]


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        (dict(name="resnet8"), ["Detectron2 has no resnet8", "18, 34, 50, 101"]),
        (dict(name="resnet18", stem="small"), ["7x7", "3x3", "stem=imagenet"]),
        (dict(name="resnet18", channels=4), ["3 channels", "takes 4"]),
        (dict(name="resnet18w2"), ["no wider resnet18w2", "64 channels"]),
    ],
)
def test_a_network_that_detectron2_does_not_have(encoder, words):
    with pytest.raises(UserError) as refusal:
        to_detectron2(encoders.build(**encoder))
    assert all(word in str(refusal.value) for word in words)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    in_process.run(
        "train.py",
        *TINY,
        "--config.encoder=resnet18",
        "--config.stem=imagenet",
        "--config.steps=1",
        "--config.knn_every=0",
        f"--workdir={workdir}",
    )
    return workdir


def test_a_run_goes_to_a_file(run, tmp_path):
    out = tmp_path / "backbone.pkl"
    printed = in_process.run(SCRIPT, f"--workdir={run}", f"--out={out}")
    assert f"wrote {out}" in printed and "MODEL.RESNETS.DEPTH 18" in printed
    card = (tmp_path / "backbone.pkl.md").read_text()
    assert "# resnet18" in card and "MODEL.RESNETS.DEPTH 18" in card
    with open(out, "rb") as file:
        content = pickle.load(file)
    assert shapes(content) == published("resnet18")
    kernel = load_query_encoder(str(run)).backbone.get_layer("stem_conv").kernel.numpy()
    assert (content["model"]["stem.conv1.weight"] == kernel.transpose(3, 2, 0, 1)).all()


def test_nothing_is_written_over(run, tmp_path):
    out = tmp_path / "backbone.pkl"
    out.write_bytes(b"mine")
    line = in_process.run_mistake(SCRIPT, f"--workdir={run}", f"--out={out}")
    assert f"the path {out} exists" in line
    assert out.read_bytes() == b"mine"
