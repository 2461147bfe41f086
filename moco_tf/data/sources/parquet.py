"""The `parquet` source: Parquet files with a column of images, as on the Hugging Face hub."""

import concurrent.futures
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from moco_tf.data.decoding import decode
from moco_tf.data.sources import labeled
from moco_tf.data.sources.record_parts import label_names, matching_files, split
from moco_tf.data.sources.records import SCAN_THREADS, Records, read_in_python
from moco_tf.data.sources.row_groups import RowGroups, open_file
from moco_tf.data.sources.source import Source
from moco_tf.data.sources.tfrecord import IMAGE_FEATURE, LABEL_FEATURE
from moco_tf.errors import UserError
from moco_tf.files import error_reason
from moco_tf.names import printable

METADATA_KEY = b"huggingface"


def load(name: str, pattern: str, image_feature: str, label_feature: str) -> Source:
    """Open the rows of Parquet files, ordered by the paths of the files.

    The column of images holds image files: it is binary, or a struct with a binary field `bytes`.
    The column of labels holds integers, also as floating-point numbers, booleans or texts. Both are
    found by the types that the metadata of the Hugging Face hub states, which also name the
    classes, or else by their names. The parts of
    the data set are found as in the source `tfrecord`. A row whose label is null or negative is for
    pre-training only.

    Args:
        name: The string that names the source.
        pattern: Path with the wildcards `*`, `?` or `[...]`.
        image_feature: Column of the images. If it is that of TFRecord files, the column is found.
        label_feature: Column of the labels; `""` for no labels. If it is that of TFRecord files,
            the column is found.

    Returns:
        The source. A row is read with its row group, the last of which are kept in memory.

    Raises:
        UserError: If no file matches, a file cannot be read, there is no such column, the files
            have different columns or other names of the classes, or as `record_parts.split`.
    """
    paths = matching_files(name, pattern, "Parquet")
    with concurrent.futures.ThreadPoolExecutor(SCAN_THREADS) as pool:
        metadata = list(pool.map(_metadata, paths))
    schema = metadata[0].schema.to_arrow_schema()
    features = _hub_features(schema.metadata)
    wanted = "" if image_feature == IMAGE_FEATURE else image_feature
    image_column, is_struct = _image_column(name, paths[0], schema, features, wanted)
    label_column = _label_column(name, paths[0], schema, features, label_feature)
    for path, other in zip(paths, metadata, strict=True):
        _require_same_columns(name, paths[0], path, schema, other, image_column, label_column)
    first_indices = np.cumsum([0, *(file.num_rows for file in metadata)], dtype=np.int64)
    if not first_indices[-1]:
        raise UserError(f"data source '{name}': the files hold no rows")
    groups = RowGroups(paths, metadata, f"{image_column}.bytes" if is_struct else image_column)
    read_file = read_in_python(groups.value)
    records = Records(
        paths=paths,
        first_indices=first_indices,
        sizes=[tf.io.gfile.stat(path).length for path in paths],
        reader=lambda: read_file,
    )
    labels: list[str] = []
    label_of_image = np.full(records.size, -1, np.int32)
    no_labels = _why_no_labels(schema)
    if label_column:
        try:
            labels, label_of_image = _labels(paths, label_column)
        except _NotWholeError as error:
            if label_feature != LABEL_FEATURE:
                raise UserError(
                    f"data source '{name}': {error}: set config.data.label_feature to a column of "
                    "integers or texts, or to '' for no labels"
                ) from error
            no_labels = str(error)
    names = _class_names(name, paths, metadata, label_column) if label_column else []
    return labeled.make_source(
        name=name,
        read=lambda index: decode(read_file(index)),
        describe=lambda index: records.describe(index).replace("record", "row", 1),
        list_contents=records.list_contents,
        list_files=records.list_files,
        labels=labels,
        label_of_image=label_of_image,
        split=split(name, records),
        no_labels=no_labels,
        labels_file=f"the column {label_column}",
        notes=[note] if (note := groups.note()) else [],
        read_file=read_file,
        label_names=dict(enumerate(names)) or label_names(records),
    )


class _NotWholeError(ValueError):
    """A column of labels holds numbers that are not whole."""


def _metadata(path: str) -> pq.FileMetaData:
    try:
        with open_file(path) as file:
            return file.metadata
    except (pa.ArrowException, OSError, tf.errors.OpError) as error:
        raise UserError(
            f"{path} cannot be read as a Parquet file ({error_reason(error)}): copy the file "
            "again, or use a pattern that matches Parquet files only"
        ) from error


def _hub_features(metadata: Mapping[bytes, bytes] | None) -> dict[str, dict[str, Any]]:
    """Return the features of the columns that the metadata of the hub states; none without it."""
    try:
        features = json.loads((metadata or {})[METADATA_KEY])["info"]["features"]
        return {key: value for key, value in features.items() if isinstance(value, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _class_names(
    name: str, paths: Sequence[str], metadata: Sequence[pq.FileMetaData], column: str
) -> list[str]:
    """Return the names of the classes that the metadata of the hub states; none without it.

    Raises:
        UserError: If the same label has different names in two files.
    """
    longest: list[str] = []
    longest_path = ""
    seen: set[bytes] = set()
    for path, file in zip(paths, metadata, strict=True):
        text = (file.metadata or {}).get(METADATA_KEY, b"")
        if text in seen:  # Nearly always, the files are alike.
            continue
        seen.add(text)
        stated = _hub_features(file.metadata).get(column, {}).get("names")
        names = [str(item) for item in stated] if isinstance(stated, list) else []
        for label, (old, new) in enumerate(zip(longest, names, strict=False)):
            if old != new:
                raise UserError(
                    f"data source '{name}': the label {label} is '{printable(old)}' in "
                    f"{longest_path}, but '{printable(new)}' in {path}: use a pattern that matches "
                    "files with the same names of the classes"
                )
        if len(names) > len(longest):
            longest, longest_path = names, path
    return longest


def _image_column(
    name: str, path: str, schema: pa.Schema, features: dict[str, dict[str, Any]], wanted: str
) -> tuple[str, bool]:
    """Return the column of images, and whether it is a struct."""
    is_struct = {field.name: _is_image_struct(field.type) for field in schema}
    candidates = [f.name for f in schema if is_struct[f.name] or _is_binary(f.type)]
    stated = [column for column in candidates if features.get(column, {}).get("_type") == "Image"]
    named = [column for column in ("image", "img") if column in candidates]
    found = [wanted] if wanted in candidates else [] if wanted else [*stated, *named, *candidates]
    if not found:
        what = f"a column '{wanted}'" if wanted else "a column"
        raise UserError(
            f"data source '{name}': {path} has not {what} that is binary, or a struct with a "
            "binary field 'bytes': set config.data.image_feature to the column of the images, one "
            f"of {', '.join(schema.names)}"
        )
    return found[0], is_struct[found[0]]


def _label_column(
    name: str,
    path: str,
    schema: pa.Schema,
    features: dict[str, dict[str, Any]],
    label_feature: str,
) -> str:
    """Return the column of labels; "" if there is none."""
    candidates = [field.name for field in schema if _is_label(field.type)]
    if label_feature not in ("", LABEL_FEATURE):
        if label_feature not in candidates:
            raise UserError(
                f"data source '{name}': {path} has no column '{label_feature}' of integers or "
                "texts: set config.data.label_feature to the column of the labels, one of "
                f"{', '.join(candidates) or schema.names}, or to '' for no labels"
            )
        return label_feature
    stated = [c for c in candidates if features.get(c, {}).get("_type") == "ClassLabel"]
    stated.sort(key=lambda column: column != "label")
    found = [*stated, *(column for column in ("label",) if column in candidates), ""]
    return found[0] if label_feature else ""


def _why_no_labels(schema: pa.Schema) -> str:
    """Return why no column of labels is found, as a phrase."""
    position = schema.get_field_index("label")
    if position < 0 or _is_label(schema.field(position).type):
        return "the files have no column of labels"
    kind = schema.field(position).type
    return f"the column label has the type {kind}, which is neither integers nor texts"


def _require_same_columns(
    name: str,
    first_path: str,
    path: str,
    schema: pa.Schema,
    metadata: pq.FileMetaData,
    *columns: str,
) -> None:
    other = metadata.schema.to_arrow_schema()
    for column in filter(None, columns):
        position = other.get_field_index(column)
        if position < 0 or not _alike(other.field(position).type, schema.field(column).type):
            raise UserError(
                f"data source '{name}': the column '{column}' of {first_path} is missing in {path} "
                "or has another type there: use a pattern that matches files with the same columns"
            )


def _labels(paths: Sequence[str], column: str) -> tuple[list[str], np.ndarray]:
    """Return the distinct labels, and the index into them for each row, or -1.

    Raises:
        _NotWholeError: If the column holds numbers that are not whole.
        UserError: If a file cannot be read.
    """
    numbers: dict[str, int] = {}
    parts = []
    for path in paths:
        try:
            # With a dictionary, so that a text that many rows share is held once.
            with open_file(path, as_dictionary=[column]) as file:
                values = file.read([column]).column(0).combine_chunks()
        except (pa.ArrowException, OSError, tf.errors.OpError) as error:
            raise UserError(
                f"the column '{column}' of {path} cannot be read ({error_reason(error)}): copy the "
                "file again"
            ) from error
        if pa.types.is_floating(values.type):
            values = _whole(path, column, values)
        if not pa.types.is_dictionary(values.type):
            values = values.dictionary_encode()
        # Only the values that a row has, in the order of their first rows.
        used = values.indices.drop_null().unique()
        # One more entry, which the index -1 of a null refers to.
        number_of = np.full(len(values.dictionary) + 1, -1, np.int32)
        used_values = values.dictionary.take(used).to_pylist()
        for place, value in zip(used.to_pylist(), used_values, strict=True):
            number_of[place] = numbers.setdefault(str(value).strip(), len(numbers))
        indices = values.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        parts.append(number_of[indices])
    return list(numbers), np.concatenate(parts)


def _whole(path: str, column: str, values: pa.Array) -> pa.Array:
    """Return floating-point numbers as integers, and NaN as null, as pandas writes a missing one.

    Raises:
        _NotWholeError: If they are not whole.
    """
    numbers = values.fill_null(math.nan).to_numpy(zero_copy_only=False).astype(np.float64)
    is_missing = np.isnan(numbers)
    numbers[is_missing] = 0
    # Beyond this, not every integer is a number of the type.
    if (numbers != np.rint(numbers)).any() or (np.abs(numbers) > 2**53).any():
        raise _NotWholeError(f"the column {column} of {path} holds numbers that are not whole")
    return pa.array(numbers.astype(np.int64), mask=is_missing)


def _is_label(kind: pa.DataType) -> bool:
    types = pa.types
    is_text = types.is_string(kind) or types.is_large_string(kind)
    is_number = types.is_integer(kind) or types.is_floating(kind)
    return is_text or is_number or types.is_boolean(kind)


def _alike(kind: pa.DataType, other: pa.DataType) -> bool:
    """Return whether columns of two types may be used together."""
    # pandas writes integers as floating-point numbers only into files where one of them is missing.
    are_numbers = all(pa.types.is_integer(k) or pa.types.is_floating(k) for k in (kind, other))
    return kind == other or are_numbers


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_image_struct(kind: pa.DataType) -> bool:
    position = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
    return position >= 0 and _is_binary(kind.field(position).type)
