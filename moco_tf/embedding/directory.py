"""The directory of an embedding: what it holds, which of its files are missing, and new files."""

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf import new_paths
from moco_tf.embedding.formats import WRITERS, Rows
from moco_tf.errors import UserError
from moco_tf.files import error_reason, read_json, write_atomically, write_remedy

# Readers of a directory of Parquet files skip names that start with an underscore.
FACTS_FILE = "_facts.json"


class EmbeddingDirectory:
    """A directory with the features of a collection in files of a fixed number of rows.

    Its files depend only on the facts, so several processes can write different files of the same
    directory, and a process that is started again writes those that are missing.

    Args:
        path: Path of the directory, local or a `tf.io.gfile` path. It is created if it does not
            exist.
        facts: How the features are computed. A directory with other facts is refused.

    Raises:
        UserError: If the directory holds other files or other features, or cannot be created.
    """

    def __init__(self, path: str, facts: Mapping[str, Any]) -> None:
        self.path = path
        self.facts = json.loads(json.dumps(facts))  # As they are read from the file.
        self._suffixes, self._write = WRITERS[self.facts["format"]]
        self.num_files = -(-self.facts["num_images"] // self.facts["rows_per_file"])
        facts_path = os.path.join(path, FACTS_FILE)
        try:
            if not tf.io.gfile.exists(facts_path):
                self._require_no_other_files(facts_path)
                tf.io.gfile.makedirs(path)
                # Another process may start at the same time: the facts of one of them are kept.
                with (
                    contextlib.suppress(FileExistsError),
                    new_paths.new_files(facts_path) as [unfinished],
                ):
                    write_atomically(unfinished, json.dumps(self.facts, indent=2) + "\n")
        except (tf.errors.OpError, OSError) as error:
            raise self._cannot_be_written(error) from error
        self._require_same(read_json(facts_path))

    def positions(self, number: int) -> np.ndarray:
        """Return the positions in the collection that the rows of a file have, int64."""
        size = self.facts["rows_per_file"]
        return np.arange(number * size, min((number + 1) * size, self.facts["num_images"]))

    def missing(self, shard: tuple[int, int]) -> list[int]:
        """Return the numbers of the files of a shard that are not there yet.

        Args:
            shard: `(i, n)`: this process writes each n-th file, beginning with the i-th.
        """
        numbers = range(shard[0], self.num_files, shard[1])
        return [n for n in numbers if not all(map(tf.io.gfile.exists, self.files(n)))]

    def files(self, number: int) -> list[str]:
        """Return the paths of the files of a number; only the format npy has two."""
        digits = max(5, len(str(self.num_files)))
        name = f"part-{number:0{digits}d}-of-{self.num_files:0{digits}d}"
        return [os.path.join(self.path, name + suffix) for suffix in self._suffixes]

    def write(self, number: int, rows: Rows) -> None:
        """Write a file, completely or not at all.

        Args:
            number: Number of the file.
            rows: Its rows.

        Raises:
            UserError: If the file cannot be written, or another process has written it.
        """
        paths = self.files(number)
        try:
            with new_paths.new_files(*paths) as unfinished:
                self._write(unfinished, rows, self.facts)
        except FileExistsError as error:
            missing = [path for path in paths if not tf.io.gfile.exists(path)]
            if missing:
                raise UserError(
                    f"{error.filename} exists without {missing[0]}: delete it, and run the same "
                    "command again"
                ) from error
            raise UserError(
                f"another process has written {error.filename}: give each process its own shard"
            ) from error
        except (tf.errors.OpError, OSError) as error:
            raise self._cannot_be_written(error) from error

    def _require_no_other_files(self, facts_path: str) -> None:
        """Raise a `UserError` if the directory holds files that no process is writing now."""
        if not new_paths.exists(self.path):
            return
        is_directory = tf.io.gfile.isdir(self.path)
        names = tf.io.gfile.listdir(self.path) if is_directory else []
        others = [name for name in names if not name.rstrip("/").endswith(new_paths.SUFFIX)]
        if (others or not is_directory) and not tf.io.gfile.exists(facts_path):
            raise UserError(
                f"{self.path} exists and holds no features: use a directory that does not exist"
            )

    def _require_same(self, saved: dict[str, Any]) -> None:
        informative = ["moco_tf"]
        if self.facts["weights_checksum"]:
            informative.append("backbone")
        if self.facts["source_checksum"]:  # The same images may have another path elsewhere.
            informative.append("source")
        names = [name for name in self.facts if name not in informative]
        different = [name for name in names if saved.get(name) != self.facts[name]]
        if different:
            changes = ", ".join(
                f"{name}={json.dumps(saved.get(name))}, not {json.dumps(self.facts[name])}"
                for name in different
            )
            raise UserError(f"{self.path} was written with {changes}: use another directory")

    def _cannot_be_written(self, error: Exception) -> UserError:
        return UserError(
            f"{self.path} cannot be written ({error_reason(error)}): "
            f"{write_remedy(error, self.path)}, or use another directory"
        )
