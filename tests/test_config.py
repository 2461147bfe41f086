"""The defaults are the paper's, and several settings together have the right effect."""

import math

import pytest

from moco_tf.config import (
    chance_formula,
    chance_loss,
    default_config,
    flatten,
    late_decay,
    require_several_images_per_group,
    total_steps,
    without_effect,
)
from moco_tf.errors import UserError
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


@pytest.mark.parametrize(
    ("settings", "decays"),
    [
        *(({"epochs": epochs}, 2) for epochs in (100, 120, 121, 160, 161)),
        *(({"steps": steps}, 2) for steps in (15, 1200, 1600, 1601)),
        ({"steps": 61, "milestones": (6,)}, 1),
        ({"epochs": 5, "milestones": ()}, 0),
        ({"epochs": 5, "schedule": "cosine"}, 0),
        ({"steps": 11, "schedule": "cosine"}, 0),
        ({"steps": 10, "schedule": "cosine"}, 0),
        ({"epochs": 1, "schedule": "cosine"}, 0),
    ],
)
def test_milestones_that_a_run_does_not_reach_are_named(settings, decays):
    config = default_config()
    config.update(settings)
    last = total_steps(config, 10) - 1
    rate = learning_rate_at(last, **settings)
    if settings.get("schedule") == "cosine":
        is_complete = rate != pytest.approx(0.03)
    else:
        is_complete = rate == pytest.approx(0.03 * 0.1**decays)
    assert (late_decay(flatten(config), 10) is None) == is_complete


@pytest.mark.parametrize(("steps", "is_late"), [(40, True), (41, False)])
def test_exponential_decay_after_the_run_is_named(steps, is_late):
    settings = dict(schedule="exponential", decay_every=40, steps=steps)
    first, last = (learning_rate_at(step, **settings) for step in (0, steps - 1))
    assert (first == last) == is_late
    config = default_config()
    config.update(settings)
    note = late_decay(flatten(config), 10)
    assert note.startswith("config.decay_every=40: ") if is_late else note is None


def test_remedy_is_no_schedule_that_would_not_decay_either():
    config = default_config()
    config.epochs = 1
    assert "cosine" not in late_decay(flatten(config), 10)
    config.schedule = "cosine"
    note = late_decay(flatten(config), 10)
    assert note.startswith("config.schedule=cosine: it changes the learning rate at the end of ")


def test_note_on_milestones_names_what_is_not_reached_and_the_remedy():
    config = default_config()
    config.epochs = 100
    note = late_decay(flatten(config), 10)
    assert note.startswith("config.milestones=(120, 160): the run ends after epoch 100, ")
    assert "at epoch 120 and 160; set earlier milestones, or config.schedule=cosine" in note


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {}),
        ({"milestones": (60, 80)}, {}),
        ({"schedule": "exponential", "decay_every": 100}, {}),
        ({"schedule": "cosine", "decay_every": 100}, {"decay_every": "config.schedule='cosine'"}),
        (
            {"schedule": "exponential", "milestones": (60, 80)},
            {"milestones": "config.schedule='exponential'"},
        ),
        ({"momentum": 0.5}, {}),
        ({"bank_momentum": 0.9}, {"bank_momentum": "config.mechanism='moco'"}),
        (
            {"mechanism": "end_to_end", "momentum": 0.5, "shuffle_bn": False},
            {"momentum": "config.mechanism='end_to_end'"},
        ),
        (
            {"mechanism": "memory_bank", "bank_momentum": 0.9, "shuffle_bn": False},
            {"shuffle_bn": "config.mechanism='memory_bank'"},
        ),
        ({"monitor_source": "photos", "knn_every": 1}, {}),
        ({"monitor_source": "photos", "knn_every": 0}, {"monitor_source": "config.knn_every=0"}),
    ],
)
def test_settings_without_effect_have_their_reason(settings, expected):
    config = default_config()
    config.update(settings)
    assert without_effect(config) == expected


def test_groups_of_one_image_are_refused():
    config = default_config()
    config.batch_size = 12
    for groups in (1, 6):
        config.bn_groups = groups
        require_several_images_per_group(config)
    config.bn_groups = 12
    with pytest.raises(UserError) as error:
        require_several_images_per_group(config)
    assert str(error.value) == (
        "config.bn_groups=12 leaves a single image in each BatchNormalization group of "
        "config.batch_size=12: for this batch size set bn_groups to 1 or 2 or 3 or 4 or 6"
    )
