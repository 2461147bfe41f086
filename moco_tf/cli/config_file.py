"""Config files: the parser of the flag --config, and where installed configs are."""

import os
import runpy
import traceback

import ml_collections
from absl import flags

import moco_tf.configs
from moco_tf.errors import UserError
from moco_tf.paths import expand


class ConfigFileParser(flags.ArgumentParser):
    """Loads a config file, and says where a mistake in it is."""

    def parse(self, path: str) -> ml_collections.ConfigDict:
        """Return the config that the function `get_config` of a file returns.

        Args:
            path: Path of the file, in which `~` and environment variables are expanded.

        Raises:
            UserError: If there is no such file, it cannot be loaded, or it returns no config.
        """
        located = _locate_config(expand(path, "--config"))
        if not os.path.exists(located):
            installed = ", ".join(f"configs/{name}" for name in _installed_configs())
            raise UserError(f"--config={path}: there is no such file; installed are {installed}")
        if os.path.isdir(located):
            raise UserError(f"--config={path} is a directory: name a file in it")
        try:
            module = runpy.run_path(located)
            if "get_config" not in module:
                raise UserError(f"--config={path}: the file defines no function get_config()")
            config = module["get_config"]()
        except UserError:
            raise
        except (OSError, SyntaxError) as error:
            raise UserError(f"--config={path} cannot be loaded: {last_line(error)}") from error
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == located]
            place = f"line {lines[-1]}: " if lines else ""
            raise UserError(
                f"--config={path} cannot be loaded: {place}{type(error).__name__}: "
                f"{last_line(error)}"
            ) from error
        if not isinstance(config, ml_collections.ConfigDict):
            raise UserError(
                f"--config={path}: get_config() returns {type(config).__name__}, not a "
                "ml_collections.ConfigDict such as moco_tf.default_config() returns"
            )
        return config.lock()

    def flag_type(self) -> str:
        """Return the type of the flag for messages."""
        return "config file"


def _locate_config(path: str) -> str:
    folder, name = os.path.split(path)
    if not os.path.exists(path) and folder == "configs" and name in _installed_configs():
        # A checkout has them in configs/, and an installed package in moco_tf/configs/.
        return os.path.join(os.path.dirname(moco_tf.configs.__file__), name)
    return path


def _installed_configs() -> list[str]:
    names = os.listdir(os.path.dirname(moco_tf.configs.__file__))
    return sorted(name for name in names if name.endswith(".py") and name != "__init__.py")


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
