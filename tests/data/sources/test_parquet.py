"""The `parquet` source, on files as the Hugging Face hub has them."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from moco_tf.data import sources
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.recipes import Recipe
from moco_tf.data.sources import row_groups
from moco_tf.errors import UserError
from tests.data.sources.encoded import assert_images, png, read_image

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["ant", "bee", "cat", "dog"]


def hub_schema(**columns):
    """A schema with the metadata that the library `datasets` writes."""
    features = {
        "image": {"_type": "Image"},
        "label": {"names": NAMES, "_type": "ClassLabel"},
        "caption": {"dtype": "string", "_type": "Value"},
    }
    fields = {"image": IMAGE, "label": pa.int64(), **columns}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(fields.items(), metadata=metadata)


def row(number, label=None, **columns):
    image = {"bytes": png(number)[1], "path": f"{number}.png"}
    return {"image": image, "label": number % 3 if label is None else label, **columns}


def write_rows(path, rows, schema=None, **options):
    options = {"row_group_size": 3, **options}
    pq.write_table(pa.Table.from_pylist(list(rows), schema or hub_schema()), path, **options)
    return path


def load(pattern, **options):
    return sources.load(f"parquet:{pattern}", **options)


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_files_of_the_hub_are_read(tmp_path, compression):
    rows = [row(n) for n in range(10)]
    write_rows(tmp_path / "train-00000-of-00002.parquet", rows[:4], compression=compression)
    write_rows(tmp_path / "train-00001-of-00002.parquet", rows[4:8], compression=compression)
    write_rows(tmp_path / "test-00000-of-00001.parquet", rows[8:], compression=compression)
    source = load(tmp_path / "*.parquet")
    assert_images(source, [8, 9, *range(8)])
    assert source.labels.tolist() == [n % 3 for n in [8, 9, *range(8)]]
    assert source.class_names == ["ant", "bee", "cat"]
    assert source.test.tolist() == [0, 1]
    assert source.train.tolist() == source.pretrain.tolist() == list(range(2, 10))
    assert source.describe(7) == f"row 1 of {tmp_path / 'train-00001-of-00002.parquet'}"
    assert not source.notes
    assert "column label with the checksum" in source.list_contents()[-1].decode()


def test_binary_columns_and_text_labels(tmp_path):
    schema = pa.schema([("id", pa.int64()), ("img", pa.large_binary()), ("label", pa.string())])
    rows = [{"id": 5, "img": png(n)[1], "label": "ba"[n % 2] if n else None} for n in range(6)]
    source = load(write_rows(tmp_path / "a", rows, schema))
    assert_images(source, range(6))
    assert source.class_names == ["a", "b"]
    assert source.labels.tolist() == [-1, 0, 1, 0, 1, 0]
    assert source.pretrain.tolist() == list(range(6))
    assert 0 not in {*source.train, *source.test}


def test_columns_are_arguments(tmp_path):
    schema = hub_schema(other=pa.binary(), species=pa.string())
    rows = [row(n, other=png(n + 20)[1], species=f"s{n % 2}") for n in range(4)]
    path = write_rows(tmp_path / "a", rows, schema)
    assert_images(load(path), range(4))
    source = load(path, image_feature="other", label_feature="species")
    assert_images(source, range(20, 24))
    assert source.class_names == ["s0", "s1"]
    assert not load(path, label_feature="").has_labels
    for options, message in (
        ({"image_feature": "label"}, "has not a column 'label' that is binary.*one of image,"),
        ({"label_feature": "image"}, "has no column 'image' of integers or texts.*label, species"),
    ):
        with pytest.raises(UserError, match=message):
            load(path, **options)


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_whole_floating_point_numbers_are_integers(tmp_path, kind):
    # pandas makes floating-point numbers of integers if one of them is missing.
    labels = [2.0, None, 0.0, float("nan"), 10.0]
    scalar = np.dtype(kind.to_pandas_dtype()).type
    values = [None if label is None else scalar(label) for label in labels]
    columns = {
        "image": pa.array([row(n)["image"] for n in range(5)], IMAGE),
        "label": pa.array(values, kind),
    }
    pq.write_table(pa.table(columns), tmp_path / "a")
    source = load(tmp_path / "a")
    assert source.class_names == ["0", "2", "10"]
    assert source.labels.tolist() == [1, -1, 0, -1, 2]


def test_numbers_of_different_types_are_labels_together(tmp_path):
    for name, kind, labels in (("a", pa.float64(), [1.0, None]), ("b", pa.int32(), [0, 1])):
        rows = [{**row(n), "label": label} for n, label in enumerate(labels)]
        write_rows(tmp_path / name, rows, pa.schema({"image": IMAGE, "label": kind}))
    source = load(tmp_path / "*")
    assert source.class_names == ["0", "1"]
    assert source.labels.tolist() == [1, -1, 0, 1]


def test_booleans_are_labels(tmp_path):
    rows = [row(n, label=n % 2 == 1) for n in range(4)]
    source = load(write_rows(tmp_path / "a", rows, hub_schema(label=pa.bool_())))
    assert source.class_names == ["False", "True"]
    assert source.labels.tolist() == [0, 1, 0, 1]


def test_reason_names_the_type_of_labels_that_cannot_be_used(tmp_path):
    rows = [row(n, label=n / 2) for n in range(4)]
    path = write_rows(tmp_path / "a", rows, pa.schema({"image": IMAGE, "label": pa.float64()}))
    reason = "the column label of .*a holds numbers that are not whole"
    assert re.search(f"no labels, because {reason}", load(path).summary)
    with pytest.raises(UserError, match=f"{reason}: set config.data.label_feature to a column of"):
        load(path, label_feature="label")
    rows = [row(n, label=[n]) for n in range(4)]
    kind = pa.list_(pa.int64())
    path = write_rows(tmp_path / "b", rows, pa.schema({"image": IMAGE, "label": kind}))
    assert "because the column label has the type list<" in load(path).summary
    path = write_rows(tmp_path / "c", rows, pa.schema({"image": IMAGE}))
    assert "because the files have no column of labels" in load(path).summary


def test_files_with_other_names_of_the_classes_are_refused(tmp_path):
    def write(name, names):
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        schema = hub_schema().with_metadata(metadata if names else None)
        write_rows(tmp_path / name, [row(n, label=n % 2) for n in range(4)], schema)

    write("a", None)
    write("b", ["cat", "dog"])
    write("c", ["cat", "dog", "elk"])
    assert load(tmp_path / "*").class_names == ["cat", "dog"]
    write("d", ["dog", "cat"])
    message = "the label 0 is 'cat' in .*c, but 'dog' in .*d: use a pattern"
    with pytest.raises(UserError, match=message):
        load(tmp_path / "*")
    assert load(tmp_path / "*", label_feature="").size == 16


def test_label_of_minus_one_is_none(tmp_path):
    source = load(write_rows(tmp_path / "a", [row(n, label=n - 1) for n in range(4)]))
    assert source.labels.tolist() == [-1, 0, 1, 2]


def test_rows_without_an_image_are_errors(tmp_path):
    rows = [row(n) for n in range(9)]
    rows[4] = {"image": None, "label": 0}
    rows[5]["image"] = {"bytes": None, "path": "elsewhere.png"}
    rows[6]["image"]["bytes"] = b"no image"
    source = load(write_rows(tmp_path / "a", rows))
    for index in (4, 5, 6):
        with pytest.raises(tf.errors.OpError):
            read_image(source, index)
    batches = TwoViews(source, 8, Recipe(), batch_size=9, seed=0)
    list(batches.between(0, 1))
    assert batches.unreadable == {4, 5, 6}


def test_damaged_row_group_is_an_error_of_its_rows(tmp_path):
    path = write_rows(tmp_path / "a", [row(n) for n in range(9)], write_page_checksum=True)
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(png(4)[1][40:80])] ^= 1
    path.write_bytes(damaged)
    source = load(path)
    for index in range(9):
        if index in (3, 4, 5):
            with pytest.raises(tf.errors.OpError, match="the row group cannot be read"):
                read_image(source, index)
        else:
            np.testing.assert_array_equal(read_image(source, index), png(index)[0])


def test_few_row_groups_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(row_groups, "MAX_KEPT_BYTES", 4000)
    reads = []
    read = row_groups.RowGroups._read
    monkeypatch.setattr(
        row_groups.RowGroups, "_read", lambda self, group: reads.append(group) or read(self, group)
    )
    source = load(write_rows(tmp_path / "a", [row(n) for n in range(12)]))
    [note] = source.notes
    size = float(re.search(r"([\d.]+) MB are read", note)[1]) * 1e6
    # The pages have headers with the least and the greatest value.
    assert 3 * len(png(0)[1]) < size < 6 * len(png(0)[1])
    # In order, each is read once. Several threads may need one again that was given up before.
    for index in range(12):
        np.testing.assert_array_equal(read_image(source, index), png(index)[0])
    assert reads == [0, 1, 2, 3]
    for index in (0, 11, 0, 11, 5):
        np.testing.assert_array_equal(read_image(source, index), png(index)[0])
    assert len(reads) > 4
    assert_images(source, range(12))


def test_remote_files_are_read(tmp_path):
    path = write_rows(tmp_path / "a", [row(n) for n in range(5)])
    tf.io.gfile.makedirs("ram://parquet")
    tf.io.gfile.copy(str(path), "ram://parquet/a.parquet", overwrite=True)
    source = load("ram://parquet/*.parquet")
    assert_images(source, range(5))
    assert source.labels.tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("damage", [lambda c: c[:-9], lambda c: b"text" * 9, lambda c: b""])
def test_error_names_a_damaged_file(tmp_path, damage):
    path = write_rows(tmp_path / "a", [row(0)])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="a cannot be read as a Parquet file .*copy the file again"):
        load(path)


def test_files_that_do_not_fit_are_refused(tmp_path):
    write_rows(tmp_path / "a", [row(0)])
    write_rows(tmp_path / "b", [{"label": 1}], pa.schema([("label", pa.int64())]))
    with pytest.raises(UserError, match="'image' of .*a is missing in .*b or has another type"):
        load(tmp_path / "*")
    with pytest.raises(UserError, match="b has not a column that is binary"):
        load(tmp_path / "b")
    write_rows(tmp_path / "b", [], hub_schema())
    with pytest.raises(UserError, match="the files hold no rows"):
        load(tmp_path / "b")


def test_classes_are_those_of_the_rows_and_not_of_the_dictionary(tmp_path):
    """A writer may keep categories that no row has."""
    labels = pa.DictionaryArray.from_arrays(pa.array([2, 0, None, 2] * 3), ["x", "unused", "y"])
    images = [row(number)["image"]["bytes"] for number in range(12)]
    table = pa.table({"image": pa.array(images), "label": labels})
    pq.write_table(table, tmp_path / "train.parquet", store_schema=False, row_group_size=5)
    source = load(tmp_path / "train.parquet")
    assert source.class_names == ["x", "y"]
    assert source.labels.tolist() == [1, 0, -1, 1] * 3
