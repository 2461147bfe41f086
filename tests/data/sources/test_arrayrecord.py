"""The `arrayrecord` source, on files of the array_record package."""

import resource

import numpy as np
import pytest
import tensorflow as tf
from array_record.python.array_record_module import ArrayRecordWriter

from moco_tf.data import sources
from moco_tf.data.sources import arrayrecord
from moco_tf.errors import UserError
from tests.data.sources.encoded import assert_images, png, read_image
from tests.data.sources.test_tfrecord import labeled_example, raw_example


def write_records(path, contents, options="group_size:1"):
    writer = ArrayRecordWriter(str(path), options)
    for record in contents:
        writer.write(record)
    writer.close()
    return path


def load(pattern, **options):
    return sources.load(f"arrayrecord:{pattern}", **options)


@pytest.mark.parametrize("options", ["group_size:1", "group_size:4", "group_size:1,uncompressed"])
def test_scan_finds_the_records_that_were_written(tmp_path, options):
    rng = np.random.default_rng(0)
    contents = [rng.bytes(length) for length in (1, 300, 70_000, 5)] + [b"zeros\0\0"]
    paths = [
        str(write_records(tmp_path / "a", contents, options)),
        str(write_records(tmp_path / "b", [], options)),
        str(write_records(tmp_path / "c", contents[::-1], options)),
    ]
    scanned = arrayrecord.scan(paths)
    inside = tf.data.Dataset.range(10).map(scanned.reader(), num_parallel_calls=4)
    assert list(inside.as_numpy_iterator()) == contents + contents[::-1]
    assert scanned.describe(6) == f"record 1 of {paths[2]}"


def test_examples_are_read_as_those_of_tfrecord(tmp_path):
    numbers = range(10)
    contents = [labeled_example(n, 7 * (n % 3) + 1) for n in numbers]
    write_records(tmp_path / "train-0", contents[:6])
    write_records(tmp_path / "val-0", contents[6:])
    (tmp_path / "labels.txt").write_text("1:ant\n8:bee\n")
    source = load(tmp_path / "*-0")
    assert_images(source, numbers)
    assert source.labels.tolist() == [n % 3 for n in numbers]
    assert source.class_names == ["ant", "bee", "15"]
    assert source.train.tolist() == source.pretrain.tolist() == list(range(6))
    assert source.test.tolist() == [6, 7, 8, 9]
    assert not load(tmp_path / "*-0", label_feature="").has_labels


def test_image_files_are_read(tmp_path):
    write_records(tmp_path / "a", [b"no image", *(png(n)[1] for n in range(1, 40))])
    with pytest.raises(UserError, match="is not a readable tf.train.Example"):
        load(tmp_path / "a")
    path = write_records(tmp_path / "a", [*(png(n)[1] for n in range(40)), b"no image"])
    source = load(path)
    np.testing.assert_array_equal(read_image(source, 7), png(7)[0])
    with pytest.raises(tf.errors.OpError):
        read_image(source, 40)
    assert not source.has_labels
    assert "no labels, because the records are image files" in source.summary
    assert sorted([*source.train, *source.test]) == source.pretrain.tolist() == list(range(41))


def test_raw_arrays_are_read(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (4, 9, 5), np.uint8)
    source = load(write_records(tmp_path / "a", [raw_example(array)]))
    assert source.channels == 5
    np.testing.assert_array_equal(read_image(source, 0), array)
    assert source.read_file is None


def test_damaged_record_is_an_error_of_this_record(tmp_path):
    contents = [labeled_example(n, n) for n in range(8)]
    path = write_records(tmp_path / "a", contents, "group_size:1,uncompressed")
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(contents[5]) + 20] ^= 1
    path.write_bytes(damaged)
    source = load(path)
    with pytest.raises(tf.errors.OpError, match="the record cannot be read: Corrupted"):
        read_image(source, 5)
    np.testing.assert_array_equal(read_image(source, 6), png(6)[0])
    assert source.labels.tolist() == [0, 1, 2, 3, 4, -1, 5, 6]


@pytest.mark.parametrize("limit", [4, resource.RLIM_INFINITY])
def test_more_files_than_may_be_open(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(arrayrecord.resource, "getrlimit", lambda _: (limit, limit))
    for n in range(6):
        write_records(tmp_path / f"{n}", [png(n)[1]])
    source = load(tmp_path / "*")
    assert_images(source, range(6))
    assert_images(source, range(6))


@pytest.mark.parametrize("damage", [lambda c: c[:-100], lambda c: b"text", lambda c: b""])
def test_error_names_a_damaged_file(tmp_path, damage):
    path = write_records(tmp_path / "a", [png(0)[1]])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="a cannot be read as an ArrayRecord file .*copy the file"):
        load(path)


def test_empty_and_remote_files_are_refused(tmp_path):
    write_records(tmp_path / "a", [])
    with pytest.raises(UserError, match="the files hold no records"):
        load(tmp_path / "a")
    with pytest.raises(UserError, match="copy the files to a local disk"):
        load("gs://bucket/*")
