"""The table of settings is complete, and agrees with the modules that use the settings."""

import pytest

from moco_tf.config import OPERATIONAL, default_config, flatten
from moco_tf.config_checks import check
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
    assert setting.error(setting.default) is None


@pytest.mark.parametrize(
    "setting",
    [s for s in SETTINGS if type(s.default) in (int, float, tuple) or s.value_type],
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
    assert set(OPERATIONAL) == {
        *("data.on_error", "log_every", "checkpoint_every", "knn_every"),
        *("monitor_source", "keep_best", "evaluation_size"),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "config.temperature=0.0: must be greater than 0"),
        ({"learning_rate": float("inf")}, "config.learning_rate=inf: must be a finite number"),
        ({"momentum": 1.5}, "config.momentum=1.5: must be between 0 and 1"),
        ({"head": "deep"}, "config.head='deep': choose linear or mlp"),
        ({"data.on_error": "ignore"}, "config.data.on_error='ignore': choose skip or fail"),
        ({"milestones": ("60,x",)}, r"config.milestones=\('60,x',\): must be integers separated"),
        ({"milestones": (3, 1.5)}, r"config.milestones=\(3, 1.5\): must be integers separated"),
        ({"milestones": (3, 0)}, r"config.milestones=\(3, 0\): must be 1 or greater"),
    ],
)
def test_value_out_of_range_names_key_value_and_range(changes, message):
    config = default_config()
    config.data.source = "photos"
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=f"^{message}"):
        check(config)


PAIR = "must be two numbers {}, the smaller one first"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        *(
            (name, value, "must be between 0 and 1")
            for name in (
                "horizontal_flip",
                "vertical_flip",
                "quarter_turns",
                "jitter_probability",
                "gray_probability",
                "blur_probability",
                "solarize_probability",
                "solarize_threshold",
                "noise_probability",
            )
            for value in (-0.1, 1.1)
        ),
        ("brightness", -0.1, "must be 0 or greater"),
        ("contrast", -0.1, "must be 0 or greater"),
        ("saturation", -0.1, "must be 0 or greater"),
        ("hue", 0.6, "must be between 0 and 0.5"),
        ("noise_std", 0.0, "must be greater than 0 and at most 1"),
        ("noise_std", float("nan"), "must be a finite number"),
        *(
            ("crop_scale", value, PAIR.format("greater than 0 and at most 1"))
            for value in ((0.0, 1.0), (0.2, 1.1), (0.9, 0.2), (0.2,), (0.1, 0.2, 0.3), ("a", 1.0))
        ),
        ("aspect_ratio", (0.05, 1.0), PAIR.format("between 0.1 and 10")),
        ("aspect_ratio", (4 / 3, 3 / 4), PAIR.format("between 0.1 and 10")),
        ("blur_sigma", (0.0, 2.0), PAIR.format("greater than 0 and at most 20")),
        ("blur_sigma", (0.1, float("inf")), PAIR.format("greater than 0 and at most 20")),
    ],
)
def test_augmentation_out_of_range_names_key_value_and_range(name, value, problem):
    config = default_config()
    config.data.source = "photos"
    config.augment[name] = value
    with pytest.raises(UserError) as error:
        check(config)
    assert str(error.value).startswith(f"config.augment.{name}={value!r}: {problem}")


@pytest.mark.parametrize(
    ("preset", "changes", "missing"),
    [
        ("v1", {"blur_sigma": (0.1, 1.0)}, "blur_probability"),
        ("v2", {"solarize_threshold": 0.3}, "solarize_probability"),
        ("v1", {"noise_std": 0.1}, "noise_probability"),
    ],
)
def test_strength_of_an_operation_that_never_occurs_is_refused(preset, changes, missing):
    config = default_config()
    config.data.source, config.augmentation = "photos", preset
    config.augment.update(changes)
    [(name, value)] = changes.items()
    with pytest.raises(UserError) as error:
        check(config)
    assert str(error.value) == (
        f"config.augment.{name}={value} has no effect, because the probability of this operation "
        f"is 0 in config.augmentation='{preset}': set config.augment.{missing} too"
    )
    # Several probabilities may be compared, and 0 may be one of them.
    for probability in (0.0, 0.5):
        config.augment[missing] = probability
        check(config)


@pytest.mark.parametrize("name", ["saturation", "hue", "gray_probability"])
def test_rgb_operation_that_is_left_out_is_refused(name):
    config = default_config()
    config.data.source, config.rgb_operations = "photos", False
    config.augment[name] = 0.0
    check(config)
    config.augment[name] = 0.25
    with pytest.raises(UserError, match=f"augment.{name}=0.25 has no effect.*rgb_operations=False"):
        check(config)


def test_values_of_another_type_are_refused_where_they_are_set():
    config = default_config()
    for name, value in (("hue", "a lot"), ("hue", (0.1, 0.2)), ("crop_scale", 0.5)):
        with pytest.raises(TypeError, match=f"'{name}'"):
            config.augment[name] = value
