"""The files of an embedding: rows of images with their features, as Parquet, NumPy or CSV."""

import csv
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from moco_tf.data.sources.row_groups import open_file
from moco_tf.errors import UserError
from moco_tf.files import error_reason

# The key of the facts about the features in the metadata of a Parquet file.
METADATA_KEY = b"moco_tf"


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one file.

    Attributes:
        features: `[n, D]`, float32 or float16. The row of an unreadable image is NaN.
        indices: int64 `[n]`, the indices of the images in their source.
        images: `[n]`, short descriptions of the images, such as their paths.
        errors: `[n]`, why an image cannot be read, or None.
        labels: int32 `[n]`, indices into `class_names`, or None if the source has no labels. -1 is
            an unknown label.
        class_names: Names of the classes of the source.
    """

    features: np.ndarray
    indices: np.ndarray
    images: list[str]
    errors: list[str | None]
    labels: np.ndarray | None = None
    class_names: list[str] | None = None

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The columns without the features, `[n]` each, in which None is a missing value."""
        columns = {"index": self.indices.tolist(), "image": self.images}
        if self.labels is not None and self.class_names is not None:
            names = [self.class_names[label] if label >= 0 else None for label in self.labels]
            columns["label"] = [label if label >= 0 else None for label in self.labels.tolist()]
            columns["class_name"] = names
        return {**columns, "error": self.errors}


def write_parquet(paths: list[str], rows: Rows, facts: Mapping[str, Any]) -> None:
    """Write a Parquet file with a column of vectors.

    The columns are `index` (int64), `image` (string), with labels also `label` (int32) and
    `class_name` (string), `error` (string), and `features`, a list of fixed size of float32 or
    float16, which is null for an unreadable image.

    Args:
        paths: The path of the file.
        rows: The rows.
        facts: What the metadata of the file states about the features, under the key `moco_tf`.
    """
    types = {"index": pa.int64(), "label": pa.int32()}
    columns = {
        name: pa.array(values, types.get(name, pa.string()))
        for name, values in rows.columns.items()
    }
    columns["features"] = pa.FixedSizeListArray.from_arrays(
        pa.array(rows.features.reshape(-1)),
        rows.features.shape[1],
        mask=pa.array([error is not None for error in rows.errors]),
    )
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(facts)})
    # Features hardly become smaller by compression, or by a dictionary of their values.
    names = [name for name in columns if name != "features"]
    pq.write_table(table, paths[0], compression=dict.fromkeys(names, "zstd"), use_dictionary=names)


def write_npy(paths: list[str], rows: Rows, facts: Mapping[str, Any]) -> None:
    """Write the features to a NumPy file, and the other columns to a CSV file.

    Args:
        paths: The paths of the two files.
        rows: The rows.
        facts: Not used: these formats have no place for them.
    """
    np.save(paths[0], rows.features)
    _write_csv(paths[1], rows.columns)


def write_csv(paths: list[str], rows: Rows, facts: Mapping[str, Any]) -> None:
    """Write a CSV file with a column for each number of the features.

    Args:
        paths: The path of the file.
        rows: The rows.
        facts: Not used: these formats have no place for them.
    """
    digits = 5 if rows.features.dtype == np.float16 else 9  # They determine the number exactly.
    columns = dict(rows.columns)
    for number, values in enumerate(rows.features.T):
        columns[f"feature_{number}"] = [
            None if error is not None else f"{value:.{digits}g}"
            for value, error in zip(values, rows.errors, strict=True)
        ]
    _write_csv(paths[0], columns)


def read_errors(paths: list[str]) -> list[tuple[str, str]]:
    """Return the descriptions of the unreadable images of a file, and why they cannot be read.

    Args:
        paths: The paths that one of the functions above has written, local or of `tf.io.gfile`.

    Raises:
        UserError: If a file is damaged, or cannot be read.
    """
    path = paths[-1]
    read = _read_parquet if path.endswith(".parquet") else _read_csv
    try:
        return [(image, error) for image, error in read(path) if error]
    except (
        tf.errors.OpError,
        OSError,
        pa.ArrowException,
        csv.Error,
        KeyError,
        ValueError,
    ) as error:
        # PyArrow raises an OSError without a number for some damaged files.
        if isinstance(error, tf.errors.OpError) or getattr(error, "errno", None):
            raise UserError(
                f"{path} cannot be read ({error_reason(error)}): check its permissions, and the "
                "disk or the network that it is on"
            ) from error
        raise UserError(
            f"{path} is damaged: delete it, and run the same command again to write it"
        ) from error


def _read_parquet(path: str) -> list[tuple[str, str | None]]:
    """Return two columns of a Parquet file. The features, which take most of it, are not read."""
    with open_file(path) as file:
        table = file.read(columns=["image", "error"])
    return list(zip(table["image"].to_pylist(), table["error"].to_pylist(), strict=True))


def _read_csv(path: str) -> list[tuple[str, str | None]]:
    """Return two columns of a CSV file, which is read line by line.

    Raises:
        ValueError: If a row does not have these columns.
        csv.Error: If it is not a CSV file.
    """
    with tf.io.gfile.GFile(path) as file:
        rows = csv.reader(file, strict=True)
        header = next(rows, [])
        image, error = header.index("image"), header.index("error")
        found: list[tuple[str, str | None]] = []
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f"line {rows.line_num} has {len(row)} of {len(header)} columns")
            found.append((row[image], row[error]))
        return found


def _write_csv(path: str, columns: dict[str, list[Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


# The suffixes of the files of each format in `settings.FORMATS`, and the function that writes them.
WRITERS: dict[str, tuple[tuple[str, ...], Callable[[list[str], Rows, Mapping[str, Any]], None]]] = {
    "parquet": ((".parquet",), write_parquet),
    "npy": ((".npy", ".csv"), write_npy),
    "csv": ((".csv",), write_csv),
}
