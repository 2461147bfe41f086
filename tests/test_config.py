"""The defaults are the paper's, and the configs say what they change."""

import importlib

import pytest

from moco_tf.config import check, default_config, flatten
from moco_tf.training import build_model

PAPER = {
    "encoder": "resnet50",
    "head": "linear",
    "dim": 128,
    "queue_size": 65536,
    "momentum": 0.999,
    "temperature": 0.07,
    "bn_groups": 8,
    "shuffle_bn": True,
    "augmentation": "v1",
    "image_size": 224,
    "batch_size": 256,
    "epochs": 200,
    "learning_rate": 0.03,
    "schedule": "step",
    "milestones": [120, 160],
    "sgd_momentum": 0.9,
    "weight_decay": 1e-4,
    "precision": "float32",
}


def get(name):
    return importlib.import_module(f"configs.{name}").get_config()


def test_defaults_are_the_papers():
    defaults = flatten(default_config())
    assert {key: defaults[key] for key in PAPER} == PAPER
    assert flatten(get("imagenet_v1")) == defaults


def test_v2_changes_what_the_second_paper_changes():
    defaults, v2 = flatten(default_config()), flatten(get("imagenet_v2"))
    changed = {key: v2[key] for key in v2 if v2[key] != defaults[key]}
    assert changed == {
        "head": "mlp",
        "augmentation": "v2",
        "temperature": 0.2,
        "schedule": "cosine",
    }


@pytest.mark.parametrize("name", ["photos", "folder", "imagenet_v1", "imagenet_v2"])
def test_every_config_passes_the_checks_once_it_has_data(name):
    config = get(name)
    config.data.source = config.data.source or "photos"
    check(config)
    assert flatten(config).keys() == flatten(default_config()).keys()


def test_learning_rate_scales_with_the_batch():
    config = get("photos")
    config.learning_rate, config.batch_size, config.queue_size = 0.03, 1024, 16
    model = build_model(config, steps_per_epoch=10)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.12)  # the paper's own for 1024
