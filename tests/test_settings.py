"""The table of settings is complete, and agrees with the modules that use the settings."""

import pytest

from moco_tf.config import OPERATIONAL, check, default_config, flatten
from moco_tf.encoders.heads import HEADS
from moco_tf.encoders.resnet import STEMS
from moco_tf.errors import UserError
from moco_tf.schedules import SCHEDULES
from moco_tf.settings import SETTINGS

BY_KEY = {setting.key: setting for setting in SETTINGS}


def test_every_key_of_the_config_is_a_setting():
    assert len(BY_KEY) == len(SETTINGS)
    assert set(flatten(default_config())) == set(BY_KEY)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_setting_has_help_and_a_valid_default(setting):
    assert setting.help.endswith(".")
    assert setting.help[0].isupper()
    assert setting.range.error(setting.default) is None


@pytest.mark.parametrize(
    "setting",
    [s for s in SETTINGS if type(s.default) in (int, float, tuple)],
    ids=lambda setting: setting.key,
)
def test_every_number_has_a_range(setting):
    assert str(setting.range)


@pytest.mark.parametrize(
    ("key", "choices"), [("stem", STEMS), ("head", HEADS), ("schedule", SCHEDULES)]
)
def test_choices_are_those_of_the_module(key, choices):
    # The table repeats them, so that it loads without Keras.
    assert BY_KEY[key].range.choices == choices


def test_settings_that_may_change_affect_logging_and_saving_only():
    assert set(OPERATIONAL) == {"data.on_error", "log_every", "checkpoint_every", "knn_every"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "config.temperature=0.0: must be greater than 0"),
        ({"learning_rate": float("inf")}, "config.learning_rate=inf: must be a finite number"),
        ({"momentum": 1.5}, "config.momentum=1.5: must be between 0 and 1"),
        ({"head": "deep"}, "config.head='deep': choose linear or mlp"),
        ({"data.on_error": "ignore"}, "config.data.on_error='ignore': choose skip or fail"),
        ({"milestones": ("60,x",)}, r"config.milestones=\('60,x',\): must be numbers separated"),
        ({"milestones": (3, 0)}, r"config.milestones=\(3, 0\): must be 1 or greater"),
    ],
)
def test_value_out_of_range_names_key_value_and_range(changes, message):
    config = default_config()
    config.data.source = "photos"
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=f"^{message}"):
        check(config)
