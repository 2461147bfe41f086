"""The backbones that moco-evaluate compares."""

import keras
import pytest
from absl import flags

from moco_tf import encoders
from moco_tf.cli import evaluate, evaluated_backbones
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
