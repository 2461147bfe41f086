"""The directory of an embedding: what it holds, which of its files are missing, and new files."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf.embedding.formats import WRITERS, Rows, read_errors
from moco_tf.output_directory import OutputDirectory


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
        informative = ["backbone"] if facts["weights_checksum"] else []
        self._directory = OutputDirectory(path, facts, informative, "features")
        self.facts = self._directory.facts
        self._suffixes, self._write = WRITERS[self.facts["format"]]
        self.num_files = -(-self.facts["num_images"] // self.facts["rows_per_file"])

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

    def unreadable(self, shard: tuple[int, int]) -> list[str]:
        """Return the descriptions of the unreadable images in the files of a shard."""
        numbers = range(shard[0], self.num_files, shard[1])
        return [image for n in numbers for image, _ in read_errors(self.files(n))]

    def num_images(self, shard: tuple[int, int]) -> int:
        """Return the number of images of a shard."""
        return sum(len(self.positions(n)) for n in range(shard[0], self.num_files, shard[1]))

    def files(self, number: int) -> list[str]:
        """Return the paths of the files of a number; only the format npy has two."""
        digits = max(5, len(str(self.num_files)))
        name = f"part-{number:0{digits}d}-of-{self.num_files:0{digits}d}"
        return [os.path.join(self._directory.path, name + suffix) for suffix in self._suffixes]

    def write(self, number: int, rows: Rows) -> None:
        """Write a file, completely or not at all.

        Args:
            number: Number of the file.
            rows: Its rows.

        Raises:
            UserError: If the file cannot be written, or another process has written it.
        """
        self._directory.write(
            self.files(number), lambda paths: self._write(paths, rows, self.facts)
        )
