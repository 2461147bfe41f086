"""Directories of files that several processes write together, and that can be continued."""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

import tensorflow as tf

import moco_tf
from moco_tf import new_paths, run_data
from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError
from moco_tf.files import error_reason, read_json, write_atomically, write_remedy
from moco_tf.paths import absolute_source, same_place

# Readers of a directory of Parquet files skip names that start with an underscore.
FACTS_FILE = "_facts.json"
# Facts that differ if the images of the same source have changed.
IMAGES = ("source_checksum", "num_images", "files_checksum")
# Facts that may differ. `_require_same_place` compares the source and its location.
INFORMATIVE = ("moco_tf", "source", "source_location")
# What the other checksums are about.
CHECKSUMS = {
    "weights_checksum": "other weights of the backbone",
    "network_checksum": "other layers of the backbone",
    "labels_checksum": "other labels or names of classes",
}


def source_facts(source: Source) -> dict[str, Any]:
    """Return the facts about the images that the files of a directory depend on."""
    return {
        "moco_tf": moco_tf.__version__,
        "source": source.name,
        "source_location": absolute_source(source.name),
        "source_checksum": run_data.of_source(source).checksum,
        "files_checksum": run_data.files_checksum(source),
        "source_options": dict(source.options),
        "labels_checksum": run_data.labels_checksum(source),
    }


class OutputDirectory:
    """A directory whose files depend only on facts that are recorded in it.

    Several processes can therefore write different files of the same directory, and a process that
    is started again writes those that are missing.

    Args:
        path: Path of the directory, local or a `tf.io.gfile` path. It is created if it does not
            exist.
        facts: What its files depend on, as values of JSON: those of `source_facts`, the number of
            images as `num_images`, and others.
        informative: Names of further facts that may differ from those of an earlier call.
        content: What the files hold, for messages, such as `"features"`.

    Attributes:
        facts: The facts as they are read from the file.

    Raises:
        UserError: If the directory holds other files, was written with other facts, or cannot be
            created.
    """

    def __init__(
        self, path: str, facts: Mapping[str, Any], informative: Collection[str], content: str
    ) -> None:
        self.path = path
        self.facts = json.loads(json.dumps(facts))
        facts_path = os.path.join(path, FACTS_FILE)
        try:
            if not tf.io.gfile.exists(facts_path):
                self._require_no_other_files(facts_path, content)
                tf.io.gfile.makedirs(path)
                # Another process may start at the same time: the facts of one of them are kept.
                with (
                    contextlib.suppress(FileExistsError),
                    new_paths.new_files(facts_path) as [unfinished],
                ):
                    write_atomically(unfinished, json.dumps(self.facts, indent=2) + "\n")
        except (tf.errors.OpError, OSError) as error:
            raise self._cannot_be_written(error) from error
        self._require_same(read_json(facts_path), informative)

    def write(self, paths: list[str], write: Callable[[list[str]], None]) -> None:
        """Write files, all of them completely or none.

        Args:
            paths: Paths of the files in the directory.
            write: Function that writes the files to other paths, which it is given.

        Raises:
            UserError: If the files cannot be written, or another process has written them.
        """
        try:
            with new_paths.new_files(*paths) as unfinished:
                write(unfinished)
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

    def write_again(self, name: str, contents: str) -> None:
        """Write a small file whose contents are the same whichever process writes it.

        Raises:
            UserError: If the file cannot be written.
        """
        try:
            write_atomically(os.path.join(self.path, name), contents)
        except (tf.errors.OpError, OSError) as error:
            raise self._cannot_be_written(error) from error

    def _require_no_other_files(self, facts_path: str, content: str) -> None:
        """Raise a `UserError` if the directory holds files that no process is writing now."""
        if not new_paths.exists(self.path):
            return
        is_directory = tf.io.gfile.isdir(self.path)
        names = tf.io.gfile.listdir(self.path) if is_directory else []
        others = [name for name in names if not name.rstrip("/").endswith(new_paths.SUFFIX)]
        if (others or not is_directory) and not tf.io.gfile.exists(facts_path):
            raise UserError(
                f"{self.path} exists and holds no {content}: use a directory that does not exist"
            )

    def _require_same(self, saved: dict[str, Any], informative: Collection[str]) -> None:
        self._require_same_place(saved)
        # Earlier versions did not record these. Their directories can be continued.
        recent = ("network_checksum", "labels_checksum", "files_checksum")
        saved = {"source_options": {}, **{key: self.facts.get(key) for key in recent}, **saved}
        names = [name for name in self.facts if name not in (*INFORMATIVE, *informative)]
        different = [name for name in names if saved.get(name) != self.facts[name]]
        changed_images = [name for name in IMAGES if name in different]
        # Other images have other labels, and with other settings there may be other images.
        settings = [
            name
            for name in different
            if name not in IMAGES and not (changed_images and name == "labels_checksum")
        ]
        if settings:
            changes = ", ".join(
                CHECKSUMS.get(name)
                or f"{name}={json.dumps(saved.get(name))}, not {json.dumps(self.facts[name])}"
                for name in settings
            )
            raise UserError(f"{self.path} was written with {changes}: use another directory")
        if changed_images:
            what = "images" if changed_images != ["files_checksum"] else "contents of the files"
            numbers = [_total(facts.get("num_images")) for facts in (saved, self.facts)]
            counts = f"{numbers[0]} images then, {numbers[1]} now"
            if numbers[0] == numbers[1]:
                counts = f"{numbers[0]} images then and now, but not the same"
            raise UserError(
                f"the {what} of '{self.facts['source']}' have changed since {self.path} was "
                f"written ({counts}): use another directory, or restore the images"
            )

    def _require_same_place(self, saved: dict[str, Any]) -> None:
        """Raise a `UserError` if the files were written from images at another place.

        Those may have the same names and be others, unless their beginnings are the same.
        """
        sample = saved.get("files_checksum")
        if sample and sample == self.facts["files_checksum"]:
            return
        # Earlier versions recorded the string as it was given.
        old = str(saved.get("source_location", saved.get("source")))
        new = self.facts["source_location"]
        if not same_place(old, new):
            raise UserError(
                f"{self.path} was written from '{old}', not from '{new}': use another directory, "
                "or, if the same images were moved, leave a link at the old path"
            )

    def _cannot_be_written(self, error: Exception) -> UserError:
        return UserError(
            f"{self.path} cannot be written ({error_reason(error)}): "
            f"{write_remedy(error, self.path)}, or use another directory"
        )


def _total(num_images: Any) -> str:
    """Return the number of images of all parts, as a text."""
    counts = num_images.values() if isinstance(num_images, dict) else [num_images]
    return f"{sum(counts):,}"
