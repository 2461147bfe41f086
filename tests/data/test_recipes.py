"""A config's recipe is its preset with the numbers that the config changes."""

import dataclasses
import json

import ml_collections
import pytest

from moco_tf import run_directory
from moco_tf.config import default_config, flatten, resolve
from moco_tf.data.recipes import RECIPES, Recipe, describe, from_config
from moco_tf.errors import UserError
from moco_tf.settings import SETTINGS
from tests import in_process

NAMES = [s.key.removeprefix("augment.") for s in SETTINGS if s.key.startswith("augment.")]
PAIRS = ("crop_scale", "aspect_ratio", "blur_sigma")


def config_of(preset="v1", **changes):
    config = default_config()
    config.data.source = "photos"
    config.augmentation = preset
    config.augment.update(changes)
    return config


def test_every_number_of_a_recipe_is_a_setting():
    # `gray_first` is not a number: it is the order of the operations.
    names = {field.name for field in dataclasses.fields(Recipe)} - {"gray_first"}
    assert set(NAMES) == names
    assert len(NAMES) == len(names)


@pytest.mark.parametrize("preset", RECIPES)
def test_config_without_changes_has_the_recipe_of_its_preset(preset):
    assert from_config(config_of(preset)) == RECIPES[preset]
    assert describe(config_of(preset)) == preset


@pytest.mark.parametrize("preset", RECIPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_change_replaces_one_number_of_the_preset(preset, name):
    value = (0.3, 0.9) if name in PAIRS else 0.25
    config = config_of(preset, **{name: value})
    assert from_config(config) == dataclasses.replace(RECIPES[preset], **{name: value})
    shown = "0.3 to 0.9" if name in PAIRS else "0.25"
    assert describe(config) == f"{preset} with {name} {shown}"
    assert from_config(config_of(preset)) == RECIPES[preset]  # Configs share nothing.


def test_zero_is_a_change():
    assert from_config(config_of("v2", blur_probability=0)).blur_probability == 0.0


def test_images_without_an_up_direction_have_a_preset():
    recipe = RECIPES["any_orientation"]
    assert (recipe.horizontal_flip, recipe.vertical_flip, recipe.quarter_turns) == (0.5, 0.5, 1.0)
    for name in ("brightness", "contrast", "saturation", "hue", "gray_probability"):
        assert 0 < getattr(recipe, name) < getattr(RECIPES["v1"], name)
    for name in ("v1", "v2", "cifar10"):
        assert not RECIPES[name].changes_orientation


def test_rgb_operations_are_left_out_after_the_changes():
    config = config_of("v2", contrast=0.3)
    config.rgb_operations = False
    expected = dataclasses.replace(RECIPES["v2"], contrast=0.3).without_rgb_operations()
    assert from_config(config) == expected
    assert expected.rgb_operations == []


def test_saturation_and_hue_without_jitter_are_no_operations():
    assert Recipe(jitter_probability=0.0).rgb_operations == ["gray"]
    assert Recipe(jitter_probability=0.0, gray_probability=0.0).rgb_operations == []


def saved_and_read(config, workdir, without=()):
    """Return a config after it was saved to config.json and read again, without some keys."""
    values = json.loads(config.to_json_best_effort())
    for key in without:
        del values[key]
    (workdir / "config.json").write_text(json.dumps(values))
    return run_directory.read_config(str(workdir))


def test_config_survives_json_and_copies(tmp_path):
    config = config_of("v2", vertical_flip=1, crop_scale=(0.5, 1.0))
    expected = dataclasses.replace(RECIPES["v2"], vertical_flip=1.0, crop_scale=(0.5, 1.0))
    saved = saved_and_read(config, tmp_path)
    assert flatten(saved) == flatten(config)
    assert from_config(saved) == expected
    assert from_config(config.copy_and_resolve_references()) == expected
    again = default_config()
    again.update(ml_collections.ConfigDict(json.loads(config.to_json_best_effort())))
    assert from_config(again) == expected


@pytest.mark.parametrize("preset", RECIPES)
def test_run_from_before_these_settings_has_the_recipe_of_its_preset(tmp_path, preset):
    config = config_of(preset)
    saved = saved_and_read(config, tmp_path, without=["augment"])
    assert from_config(saved) == RECIPES[preset]
    assert flatten(saved) == flatten(config)  # The run may be resumed.


@pytest.mark.parametrize("value", ["often", [0.5], {}])
def test_damaged_value_in_a_run_directory_is_refused(tmp_path, value):
    saved_and_read(config_of(), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["augment"]["vertical_flip"] = value
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="is not the config of a run"):
        run_directory.read_config(str(tmp_path))


def test_resolved_config_has_the_numbers_of_the_preset():
    resolved = resolve(config_of("v2", hue=0.3))
    assert (resolved["augment.hue"], resolved["augment.blur_probability"]) == (0.3, 0.5)
    assert resolved["augment.crop_scale"] == [0.2, 1.0]
    assert set(resolved) == set(flatten(default_config()))


def test_command_line_changes_the_preset(monkeypatch, tmp_path):
    configs = []
    monkeypatch.setattr(
        "moco_tf.training.preview.preview", lambda config, path, workdir: configs.append(config)
    )
    in_process.run(
        "train.py",
        "--config=configs/photos.py",
        "--config.augmentation=v2",
        "--config.augment.vertical_flip=0.5",
        "--config.augment.quarter_turns=1",
        "--config.augment.crop_scale=0.5,1",
        f"--preview={tmp_path / 'preview.png'}",
    )
    changes = dict(vertical_flip=0.5, quarter_turns=1.0, crop_scale=(0.5, 1))
    assert from_config(configs[0]) == dataclasses.replace(RECIPES["v2"], **changes)


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        ("vertical_flip=2", "config.augment.vertical_flip=2.0: must be between 0 and 1"),
        ("vertical_flip=often", "--config.augment.vertical_flip=often: must be a number"),
        ("crop_scale=0.2", "config.augment.crop_scale=(0.2,): must be two numbers greater than 0"),
        ("turns=1", "--config.augment.turns=1: there is no such setting"),
    ],
)
def test_mistake_on_the_command_line_is_one_line(flag, problem, tmp_path):
    flags = ("--config=configs/photos.py", f"--config.augment.{flag}")
    line = in_process.run_mistake("train.py", *flags, workdir=tmp_path / "run")
    assert problem in line
    assert not (tmp_path / "run").exists()
