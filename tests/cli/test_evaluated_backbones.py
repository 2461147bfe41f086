"""The backbones that moco-evaluate compares."""

import dataclasses

import keras
import pytest
from absl import flags

import moco_tf
from moco_tf import encoders
from moco_tf.cli import backbone_flags, evaluate, evaluated_backbones
from moco_tf.data import sources
from moco_tf.errors import UserError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--saved_model=exported", "--encoder=resnet14", "--stem=small"),
            "--encoder=resnet14 --stem=small is not the network in --saved_model=exported: name",
        ),
        (
            ("--checkpoint=theirs.keras",),
            "the network in --checkpoint=theirs.keras is not a resnet14 with the stem small",
        ),
    ],
)
def test_backbone_of_another_network_is_named_by_its_flag(arguments, message):
    values = flags.FlagValues()
    evaluate.define_flags(values, [])
    values(["evaluate.py", "--protocol=finetune", "--compare", *arguments])
    network = encoders.build("resnet8", stem="small")
    misnamed = keras.Model(network.input, network.output, name="resnet14")
    source = sources.load("photos")
    with pytest.raises(UserError) as raised:
        evaluated_backbones.backbones_to_compare(values, None, source, 32, misnamed, seed=0)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value_range": (0.0, 65535.0)}, "but theirs.keras takes 0, 65535: choose such images"),
        (
            {"encoder": "resnet14"},
            "--checkpoint=theirs.keras holds another network than --workdir=",
        ),
    ],
)
def test_imported_backbone_that_does_not_compare_is_refused(monkeypatch, changes, message):
    values = flags.FlagValues()
    evaluate.define_flags(values, [])
    arguments = ("--protocol=finetune", "--compare", "--workdir=run", "--checkpoint=theirs.keras")
    values(["evaluate.py", *arguments])
    backbone = encoders.random_backbone("resnet8", stem="small")
    pixels = dataclasses.replace(backbone.pixels, value_range=changes.get("value_range", (0, 255)))
    other = encoders.random_backbone(changes.get("encoder", "resnet8"), stem="small", pixels=pixels)
    monkeypatch.setattr(
        backbone_flags, "load_with_normalization", lambda *_: (other, other.input_shape[-1])
    )
    config = moco_tf.default_config()
    config.encoder, config.stem = "resnet8", "small"
    config.data.source = "photos"
    arguments = (values, config, sources.load("photos"), 32, backbone)
    with pytest.raises(UserError) as raised:
        evaluated_backbones.backbones_to_compare(*arguments, seed=0)
    assert message in str(raised.value)


def test_random_backbone_has_the_normalization_of_the_one_it_is_compared_with():
    values = flags.FlagValues()
    evaluate.define_flags(values, [])
    flag = "--checkpoint=theirs.keras"
    values(["evaluate.py", "--protocol=finetune", "--compare", flag, "--encoder=resnet8"])
    values.stem = "small"
    backbone = encoders.random_backbone("resnet8", stem="small")
    pixels = dataclasses.replace(backbone.pixels, mean=(0.1, 0.2, 0.3))
    backbone = encoders.random_backbone("resnet8", stem="small", pixels=pixels)
    arguments = (values, None, sources.load("photos"), 32, backbone)
    random, _ = evaluated_backbones.backbones_to_compare(*arguments, seed=1).values()
    assert random.pixels == pixels
