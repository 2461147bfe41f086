"""The defaults are the paper's, and what follows from several settings together."""

import math

import pytest

from moco_tf.config import default_config, flatten, total_steps
from moco_tf.training.build import build_model

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


def test_defaults_are_the_papers():
    defaults = flatten(default_config())
    assert {key: defaults[key] for key in PAPER} == PAPER


def built(**settings):
    config = default_config()
    config.update(encoder="resnet8", stem="small", queue_size=16, **settings)
    return build_model(config, steps_per_epoch=10)


def test_learning_rate_scales_with_the_batch():
    model = built(learning_rate=0.03, batch_size=1024)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.12)  # the paper's own for 1024


def test_learning_rate_can_be_absolute():
    model = built(learning_rate=0.06, batch_size=512, scale_learning_rate=False)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.06)


@pytest.mark.parametrize(("epochs", "steps", "total"), [(3, 0, 30), (3, 25, 25), (3, 45, 45)])
def test_a_run_has_its_steps_or_else_those_of_its_epochs(epochs, steps, total):
    config = default_config()
    config.epochs, config.steps = epochs, steps
    assert total_steps(config, steps_per_epoch=10) == total


def test_the_cosine_reaches_over_the_steps_of_a_run_that_ends_in_the_midst_of_an_epoch():
    model = built(schedule="cosine", steps=25, learning_rate=1.0, scale_learning_rate=False)
    for step in (0, 9, 10, 24):
        model.optimizer.iterations.assign(step)
        expected = 0.5 * (1 + math.cos(math.pi * (step // 10) / 2.5))
        assert float(model.optimizer.learning_rate) == pytest.approx(expected, rel=1e-6)
