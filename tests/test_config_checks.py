"""Settings without an effect and settings that do not work together are named.

`tests/test_settings.py` and `tests/cli/test_mistakes.py` check the mistakes of single settings.
"""

import pytest

from moco_tf.config import default_config, flatten, total_steps
from moco_tf.config_checks import late_decay, single_image_groups, without_effect
from tests.test_config import learning_rate_at


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


@pytest.mark.parametrize(("groups", "is_single"), [(1, False), (6, False), (12, True)])
def test_groups_of_a_single_image_are_named(groups, is_single):
    config = default_config()
    config.batch_size, config.bn_groups = 12, groups
    note = single_image_groups(config)
    assert (note or "").startswith("config.bn_groups=12 leaves a single image") == is_single
    config.batch_size, config.bn_groups = 1, 1
    assert single_image_groups(config) is None
