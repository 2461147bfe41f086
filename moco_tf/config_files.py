"""Configs by name or by path, and changes of their settings.

The command line and `moco_tf.train` share this module, which loads without TensorFlow.
"""

import difflib
import os
import runpy
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import numpy as np

import moco_tf.configs
from moco_tf.config import flatten
from moco_tf.errors import UserError
from moco_tf.paths import expand, expand_encoder, expand_source
from moco_tf.settings import SETTINGS

# The settings that are paths or contain one, with the function that expands each.
PATH_SETTINGS: dict[str, Callable[[str, str], str]] = {
    "init": expand_source,
    "monitor_source": expand_source,
    "encoder": expand_encoder,
    "data.source": expand_source,
    "data.tfds_dir": expand,
}

# How messages name the types of settings.
TYPES = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a text",
    tuple: "a tuple of numbers",
}
VALUE_TYPES = {setting.key: setting.value_type or type(setting.default) for setting in SETTINGS}
OPTIONAL = {setting.key for setting in SETTINGS if setting.default is None}
# Texts that hold numbers, which may be given as such.
NUMBERS_IN_TEXTS = ("data.value_range", "data.mean", "data.std")
GROUPS = {key.partition(".")[0] for key in VALUE_TYPES if "." in key}


def load(config: str, label: str = "config") -> ml_collections.ConfigDict:
    """Return the config that the function `get_config` of a file returns.

    Args:
        config: Path of the file, in which `~` and environment variables are expanded; or the name
            of an installed config, such as `"photos"` or `"configs/photos.py"`.
        label: What the path is, for messages, such as `"--config"`.

    Returns:
        The config, locked.

    Raises:
        UserError: If there is no such file, it cannot be loaded, or it returns no config.
    """
    located = _locate(expand(config, label))
    if not os.path.exists(located):
        installed = ", ".join(f"configs/{name}" for name in _installed())
        raise UserError(f"{label}={config}: there is no such file; installed are {installed}")
    if os.path.isdir(located):
        raise UserError(f"{label}={config} is a directory: name a file in it")
    try:
        module = runpy.run_path(located)
        if "get_config" not in module:
            raise UserError(f"{label}={config}: the file defines no function get_config()")
        loaded = module["get_config"]()
    except UserError:
        raise
    except (OSError, SyntaxError) as error:
        raise UserError(f"{label}={config} cannot be loaded: {last_line(error)}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == located]
        place = f"line {lines[-1]}: " if lines else ""
        raise UserError(
            f"{label}={config} cannot be loaded: {place}{type(error).__name__}: {last_line(error)}"
        ) from error
    if not isinstance(loaded, ml_collections.ConfigDict):
        raise UserError(
            f"{label}={config}: get_config() returns {type(loaded).__name__}, not a "
            "ml_collections.ConfigDict such as moco_tf.default_config() returns"
        )
    require_settings(loaded, f"{label}={config}")
    return loaded.lock()


def require_settings(config: ml_collections.ConfigDict, label: str = "config") -> None:
    """Raise a `UserError` unless a config has all settings, and no others.

    Args:
        config: The config.
        label: What it is, for the message.
    """
    keys = flatten(config).keys()
    for key in keys - VALUE_TYPES.keys():
        raise UserError(f"{label}: there is no setting '{key}'; {_hint(key)}")
    if missing := [key for key in VALUE_TYPES if key not in keys]:
        others = f" and {len(missing) - 3} others" if len(missing) > 4 else ""
        shown = missing if len(missing) <= 4 else missing[:3]
        raise UserError(
            f"{label} lacks {', '.join(shown)}{others}: start from moco_tf.default_config(), and "
            "change its settings"
        )


def change(config: ml_collections.ConfigDict, settings: Mapping[str, Any]) -> None:
    """Change settings of a config.

    Args:
        config: The config, which is changed.
        settings: The new values by the keys of the settings, such as `{"epochs": 100,
            "data.on_error": "fail"}`. The settings of a group may also be a mapping of their own,
            such as `{"augment": {"hue": 0.1}}`.

    Raises:
        UserError: If there is no such setting, or a value is of another type.

    Example:
        >>> config = moco_tf.default_config()
        >>> change(config, {"epochs": 100, "augment": {"hue": 0.1}})
        >>> config.epochs, config.augment.hue
        (100, 0.1)
    """
    require_settings(config)
    for key, value in settings.items():
        if key in GROUPS:
            if not isinstance(value, Mapping):
                raise UserError(
                    f"{key}={value!r} is a group of settings: use a dict, such as {key}="
                    f"{{'{_names_in(key)[0]}': ...}}"
                )
            change(config, {f"{key}.{name}": inner for name, inner in value.items()})
            continue
        if key not in VALUE_TYPES:
            raise UserError(f"{key}={value!r}: there is no such setting; {_hint(key)}")
        group, _, name = key.rpartition(".")
        parent = config[group] if group else config
        if value is None and (key in OPTIONAL or parent[name] is None):
            parent[name] = None
        else:
            parent[name] = _converted(key, value)


def expand_paths(config: ml_collections.ConfigDict) -> None:
    """Expand `~` and environment variables in the settings that are paths.

    The config of a run holds the expanded paths. The same call gives the same config, and the run
    can be read where a variable is not set.

    Args:
        config: The config, which is changed. It may lack settings.

    Raises:
        UserError: If a path cannot be expanded.
    """
    for key, expand_setting in PATH_SETTINGS.items():
        group, _, name = key.rpartition(".")
        owner = config.get(group) if group else config
        if isinstance(owner, ml_collections.ConfigDict):
            value = owner.get(name)
            if isinstance(value, str) and value:
                owner[name] = expand_setting(value, f"config.{key}")


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _locate(path: str) -> str:
    """Return the path of a config, which may be that of an installed one.

    A checkout has these in configs/, and an installed package in moco_tf/configs/. Nothing in the
    working directory hides a config that is given by its name alone, such as `photos`, because a
    config is code, and a folder of images may have the same name.
    """
    folder, name = os.path.split(path)
    is_bare = not folder and not name.endswith(".py")
    if is_bare:
        folder, name = "configs", f"{name}.py"
    if (is_bare or not os.path.isfile(path)) and folder == "configs" and name in _installed():
        return os.path.join(os.path.dirname(moco_tf.configs.__file__), name)
    return path


def _installed() -> list[str]:
    names = os.listdir(os.path.dirname(moco_tf.configs.__file__))
    return sorted(name for name in names if name.endswith(".py") and name != "__init__.py")


def _converted(key: str, value: Any) -> Any:
    """Return the value of a setting in its own type.

    Raises:
        UserError: If it is of another type. Its range is checked with that of all settings.
    """
    expected = VALUE_TYPES[key]
    if isinstance(value, np.generic):
        value = value.item()
    if expected is str and isinstance(value, os.PathLike):
        value = os.fsdecode(value)
    if key in NUMBERS_IN_TEXTS and isinstance(value, (tuple, list, np.ndarray)):
        value = ",".join(map(str, np.asarray(value).ravel().tolist()))
    if expected is tuple and isinstance(value, (list, np.ndarray)):
        value = tuple(np.asarray(value).tolist())
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        raise UserError(f"{key}={value!r}: must be {TYPES[expected]}, not {type(value).__name__}")
    return value


def _hint(key: str) -> str:
    """Return what a key that does not exist may stand for."""
    # `hue` may stand for `augment.hue`.
    inner = [full for full in VALUE_TYPES if full.rpartition(".")[2] == key]
    similar = inner or difflib.get_close_matches(key, VALUE_TYPES, n=2)
    if not similar:
        return "the page Configuration of the documentation lists all"
    if inner:
        group, _, name = similar[0].rpartition(".")
        return f"did you mean {group}={{'{name}': ...}}?"
    return f"did you mean {' or '.join(similar)}?"


def _names_in(group: str) -> list[str]:
    return [key.partition(".")[2] for key in VALUE_TYPES if key.startswith(f"{group}.")]
