"""Configs by name, and changes of their settings; the flag --config is tested with the commands."""

import pathlib
import re

import numpy as np
import pytest

from moco_tf import config_files
from moco_tf.config import default_config
from moco_tf.configs import photos
from moco_tf.errors import UserError


@pytest.mark.parametrize("name", ["photos", "configs/photos.py"])
def test_installed_config_has_a_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()  # A folder of images does not hide it.
    assert config_files.load(name) == photos.get_config()


def test_own_config_has_a_path(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from moco_tf.configs.photos import get_config")
    assert config_files.load(str(path)) == photos.get_config()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("foto", "config=foto: there is no such file; installed are configs/.*configs/photos.py"),
        ("folder/photos.py", "there is no such file"),
        ("/", "config=/ is a directory"),
    ],
)
def test_unknown_config_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        config_files.load(config)


def test_settings_are_changed_in_their_own_type():
    config = default_config()
    changes = {
        "epochs": np.int64(3),
        "learning_rate": 1,
        "temperature": np.float32(0.5),
        "milestones": [2, 3],
        "shuffle_bn": np.False_,
        "augment": {"hue": 0, "crop_scale": np.array([0.5, 1.0])},
        "data.on_error": "fail",
    }
    config_files.change(config, changes)
    values = (
        *(config.epochs, config.learning_rate, config.temperature, config.milestones),
        *(config.shuffle_bn, config.augment.hue, config.augment.crop_scale, config.data.on_error),
    )
    assert values == (3, 1.0, 0.5, (2, 3), False, 0.0, (0.5, 1.0), "fail")
    assert [type(value) for value in values[:3]] == [int, float, float]
    config_files.change(config, {"encoder": pathlib.Path("mine.keras")})
    assert config.encoder == "mine.keras"
    config_files.change(config, {"augment.hue": None})
    assert config.augment.hue is None
    config_files.change(config, {"data": {"value_range": (0, 4095.5), "mean": [0.5], "std": "0.2"}})
    assert (config.data.value_range, config.data.mean, config.data.std) == (
        "0.0,4095.5",
        "0.5",
        "0.2",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "epoch=3: there is no such setting; did you mean epochs?"),
        ({"hue": 3}, "hue=3: there is no such setting; did you mean augment={'hue': ...}?"),
        (
            {"augment": {"hue2": 3}},
            "augment.hue2=3: there is no such setting; did you mean augment",
        ),
        ({"zzz": 3}, "zzz=3: there is no such setting; the page Configuration"),
        ({"augment": 3}, "augment=3 is a group of settings: use a dict, such as augment={'crop_"),
        ({"epochs": "3"}, "epochs='3': must be an integer, not str"),
        ({"epochs": 3.0}, "epochs=3.0: must be an integer, not float"),
        ({"epochs": True}, "epochs=True: must be an integer, not bool"),
        ({"epochs": None}, "epochs=None: must be an integer, not NoneType"),
        ({"shuffle_bn": 1}, "shuffle_bn=1: must be True or False, not int"),
        ({"learning_rate": "0.1"}, "learning_rate='0.1': must be a number, not str"),
        ({"head": 3}, "head=3: must be a text, not int"),
        ({"milestones": 3}, "milestones=3: must be a tuple of numbers, not int"),
        ({"augment.hue": True}, "augment.hue=True: must be a number, not bool"),
    ],
)
def test_mistakes_in_settings_are_refused(changes, message):
    with pytest.raises(UserError) as error:
        config_files.change(default_config(), changes)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "config.unlock(); config.epocs = 3",
            "there is no setting 'epocs'; did you mean epochs or steps?",
        ),
        ("config.unlock(); config.augment.hew = 3.0", "there is no setting 'augment.hew'"),
        ("del config['image_size']", "lacks image_size: start from moco_tf.default_config()"),
        ("config = ml_collections.ConfigDict({'epochs': 3})", "lacks mechanism, encoder, stem and"),
    ],
)
def test_config_with_other_settings_is_refused(tmp_path, lines, message):
    path = tmp_path / "mine.py"
    path.write_text(
        "import ml_collections\nfrom moco_tf.configs.photos import get_config as base\n"
        f"def get_config():\n    config = base()\n    config.unlock()\n    {lines}\n"
        "    return config\n"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        config_files.load(str(path))
