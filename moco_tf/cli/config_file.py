"""The parser of the flag --config."""

import ml_collections
from absl import flags

from moco_tf import config_files


class ConfigFileParser(flags.ArgumentParser):
    """Loads a config file, and says where a mistake in it is."""

    def parse(self, path: str) -> ml_collections.ConfigDict:
        """Return the config of a file, as `moco_tf.config_files.load` does."""
        return config_files.load(path, "--config")

    def flag_type(self) -> str:
        """Return the type of the flag for messages."""
        return "config file"
