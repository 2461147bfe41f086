"""The defaults are the paper's, and several settings together have the right effect."""

import math

import pytest

from moco_tf.config import chance_formula, chance_loss, default_config, flatten, total_steps
from moco_tf.training.build import build_schedule

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


def learning_rate_at(step, **settings):
    config = default_config()
    config.update(settings)
    return float(build_schedule(config, steps_per_epoch=10)(step))


def test_learning_rate_scales_with_the_batch():
    # The paper's own learning rate for 1024 images.
    assert learning_rate_at(0, learning_rate=0.03, batch_size=1024) == pytest.approx(0.12)


def test_learning_rate_can_be_absolute():
    settings = dict(learning_rate=0.06, batch_size=512, scale_learning_rate=False)
    assert learning_rate_at(0, **settings) == pytest.approx(0.06)


@pytest.mark.parametrize(("epochs", "steps", "total"), [(3, 0, 30), (3, 25, 25), (3, 45, 45)])
def test_steps_take_precedence_over_epochs(epochs, steps, total):
    config = default_config()
    config.epochs, config.steps = epochs, steps
    assert total_steps(config, steps_per_epoch=10) == total


def test_cosine_covers_a_run_that_ends_within_an_epoch():
    for step in (0, 9, 10, 24):
        rate = learning_rate_at(
            step, schedule="cosine", steps=25, learning_rate=1.0, scale_learning_rate=False
        )
        expected = 0.5 * (1 + math.cos(math.pi * (step // 10) / 2.5))
        assert rate == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "formula", "loss"),
    [
        ({"queue_size": 4096}, "ln(K+1)", math.log(4097)),
        ({"mechanism": "memory_bank", "queue_size": 4096}, "ln(K+1)", math.log(4097)),
        ({"mechanism": "end_to_end", "queue_size": 0, "batch_size": 32}, "ln(N)", math.log(32)),
    ],
)
def test_chance_level_depends_on_the_dictionary(settings, formula, loss):
    config = default_config()
    config.update(settings)
    assert chance_formula(config) == formula
    assert chance_loss(config) == pytest.approx(loss)
