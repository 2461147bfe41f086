"""The `tfrecord` source, on files written by TensorFlow."""

import dataclasses
import gzip
import itertools
import os
import zlib

import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from PIL import Image

from moco_tf.data import sources
from moco_tf.data.pipeline import TwoViews, first_readable
from moco_tf.data.recipes import Recipe
from moco_tf.data.sources import tfrecord_files
from moco_tf.errors import UserError

SIZE = 12


def png(number):
    """An image whose red channel is 5 times its number in every pixel, and its PNG file."""
    image = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE + 2, 3), np.uint8)
    image[..., 0] = 5 * number
    return image, tf.io.encode_png(image).numpy()


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def example(**features):
    """A record; `__` in the name of a feature stands for `/`."""
    named = {name.replace("__", "/"): feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def labeled_example(number, label):
    return example(image__encoded=png(number)[1], image__class__label=label)


def raw_example(array, **changes):
    height, width, channels = array.shape
    features = {"image__encoded": array.tobytes(), "image__format": b"raw"}
    features |= {"image__height": height, "image__width": width, "image__channels": channels}
    return example(**features | changes)


def write_records(path, contents):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in contents:
            writer.write(record)
    return path


def load(pattern, **options):
    return sources.load(f"tfrecord:{pattern}", **options)


def read_image(source, index):
    return source.read(tf.constant(index, tf.int64)).numpy()


@pytest.fixture
def shards(tmp_path):
    """Ten labeled images in four files, one of which is empty."""
    numbers = iter(range(10))
    for file, count in enumerate((3, 0, 5, 2)):
        contents = [labeled_example(n, 7 * (n % 3) + 1) for n in itertools.islice(numbers, count)]
        write_records(tmp_path / f"data-{file}", contents)
    return tmp_path


def test_scan_finds_the_records_that_tensorflow_reads(tmp_path):
    rng = np.random.default_rng(0)
    contents = [rng.bytes(length) for length in (0, 1, 300, 70_000, 5)]
    paths = [
        str(write_records(tmp_path / "a", contents)),
        str(write_records(tmp_path / "b", contents[::-1])),
    ]
    scanned = tfrecord_files.scan(paths)
    expected = list(tf.data.TFRecordDataset(paths).as_numpy_iterator())
    assert scanned.size == len(expected) == 10
    inside = tf.data.Dataset.range(10).map(scanned.reader())
    assert list(inside.as_numpy_iterator()) == expected
    assert scanned.describe(6) == f"record 1 of {paths[1]}"
    files, numbers = scanned.locate(np.arange(10))
    assert files.tolist() == [0] * 5 + [1] * 5
    assert numbers.tolist() == [*range(5), *range(5)]


def test_images_labels_and_class_names_are_read(shards):
    source = load(shards / "data-*")
    assert (source.size, source.channels) == (10, 3)
    for number in range(10):
        image = read_image(source, number)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, png(number)[0])
    assert source.describe(4) == f"record 1 of {shards / 'data-2'}"
    # The labels in the files are 1, 8 and 15.
    assert source.labels.dtype == np.int32
    assert source.labels.tolist() == [n % 3 for n in range(10)]
    assert source.class_names == ["1", "8", "15"]


def test_jpeg_images_match_pillow(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(skimage.data.astronaut()[:60, 100:170]).save(path, quality=90)
    write_records(tmp_path / "data", [example(image__encoded=path.read_bytes())])
    expected = np.asarray(Image.open(path)).astype(int)
    error = np.abs(read_image(load(tmp_path / "data"), 0) - expected)
    # TensorFlow uses the fast integer DCT, Pillow the accurate one.
    assert error.mean() < 2
    assert error.max() < 12


def test_labels_are_not_read_before_they_are_used(shards):
    source = load(shards / "data-*")
    assert source.has_labels
    (shards / "data-2").unlink()
    with pytest.raises(UserError, match="data-2; No such file"):
        _ = source.labels


def test_copies_of_a_source_share_the_pass_over_its_labels(shards):
    source = load(shards / "data-*")
    copy = dataclasses.replace(source, test=source.train)
    assert copy.labels is source.labels


def test_feature_names_are_arguments(tmp_path):
    write_records(
        tmp_path / "a", [example(photo=png(3)[1], species=4), example(photo=png(5)[1], species=2)]
    )
    source = load(tmp_path / "a", image_feature="photo", label_feature="species")
    np.testing.assert_array_equal(read_image(source, 1), png(5)[0])
    assert source.labels.tolist() == [1, 0]
    assert source.class_names == ["2", "4"]


def test_records_without_labels_give_a_source_without_labels(tmp_path, shards):
    write_records(tmp_path / "unlabeled", [example(image__encoded=png(n)[1]) for n in range(3)])
    assert not load(tmp_path / "unlabeled").has_labels
    assert not load(shards / "data-*", label_feature="").has_labels


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_raw_arrays_are_read(tmp_path, channels):
    rng = np.random.default_rng(channels)
    arrays = [rng.integers(0, 256, (h, 9, channels), np.uint8) for h in (4, 8)]
    write_records(tmp_path / "raw", map(raw_example, arrays))
    source = load(tmp_path / "raw")
    assert source.channels == channels
    for index, array in enumerate(arrays):
        np.testing.assert_array_equal(read_image(source, index), array)


def test_raw_arrays_that_contradict_their_shape_are_errors(tmp_path):
    array = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    wrong = [
        raw_example(array[..., :3]),  # Not as many channels as the first.
        raw_example(array, image__height=4),  # Too few bytes.
        raw_example(array, image__height=-1),
        raw_example(array, image__height=0, image__encoded=b""),
        labeled_example(1, 1),
    ]
    write_records(tmp_path / "raw", [raw_example(array), *wrong])
    source = load(tmp_path / "raw")
    np.testing.assert_array_equal(read_image(source, 0), array)
    for index in range(1, 6):
        with pytest.raises(tf.errors.InvalidArgumentError):
            read_image(source, index)


@pytest.mark.parametrize(("dtype", "size"), [(np.uint16, 2), (np.float32, 4)])
def test_raw_arrays_of_wider_types_are_refused(tmp_path, dtype, size):
    array = np.zeros((3, 4, 5), np.uint8)
    write_records(
        tmp_path / "raw", [raw_example(array, image__encoded=array.astype(dtype).tobytes())]
    )
    with pytest.raises(UserError, match=f"raw has {size} bytes for each value.*as uint8"):
        load(tmp_path / "raw")


def test_raw_arrays_without_a_shape_are_refused(tmp_path):
    write_records(tmp_path / "raw", [example(image__encoded=b"1234", image__format=b"RAW")])
    with pytest.raises(UserError, match=r"record 0 of .*image/height.*\[None, None, None\]"):
        load(tmp_path / "raw")


@pytest.mark.parametrize("prefix", ["validation", "val", "test"])
def test_file_names_decide_the_split(tmp_path, prefix):
    write_records(tmp_path / f"{prefix}-0", [labeled_example(n, n % 2) for n in range(3)])
    write_records(tmp_path / "train-0", [labeled_example(n, n % 2) for n in range(4)])
    source = load(tmp_path / "*")
    # "test" sorts before "train".
    test, train = [range(3), range(3, 7)] if prefix < "train" else [range(4, 7), range(4)]
    assert source.test.tolist() == list(test)
    assert source.train.tolist() == source.pretrain.tolist() == list(train)
    assert all("train-0" in source.describe(index) for index in source.train)


@pytest.mark.parametrize(
    ("names", "pretrain", "train", "test", "found"),
    [
        (["train-0", "val-0", "test-0"], "train-0", "train-0", "val-0", "(val, not test)"),
        (["mnist-train.tfrecord-0", "mnist-test.tfrecord-0"], "train", "train", "test", "(test)"),
        (["Training_0", "Testing_0"], "Training", "Training", "Testing", "2 (train) and"),
        (["train-0", "train-1", "dev-0"], "train", "train", "dev", "(val)"),
        (["unlabeled-0", "test-0"], "unlabeled", "unlabeled", "test", "(unlabeled)"),
    ],
)
def test_words_in_file_names_decide_the_split(tmp_path, names, pretrain, train, test, found):
    for name in names:
        write_records(tmp_path / name, [labeled_example(n, n) for n in range(2)])
    source = load(tmp_path / "*")
    for indices, part in ((source.pretrain, pretrain), (source.train, train), (source.test, test)):
        expected = [i for i in range(source.size) if part in source.describe(i).split("/")[-1]]
        assert indices.tolist() == expected
        assert len(indices) >= 2
    assert found in source.summary


def test_unlabeled_files_need_no_labels(tmp_path):
    write_records(tmp_path / "train-0", [labeled_example(n, 3 + n) for n in range(2)])
    write_records(tmp_path / "test-0", [labeled_example(n, 3 + n) for n in range(2)])
    unlabeled = [example(image__encoded=png(1)[1]), labeled_example(2, -1)]
    write_records(tmp_path / "unlabeled-0", unlabeled)
    source = load(tmp_path / "*")
    assert source.pretrain.tolist() == [2, 3, 4, 5]
    assert [source.train.tolist(), source.test.tolist()] == [[2, 3], [0, 1]]
    assert source.class_names == ["3", "4"]
    assert source.labels.tolist() == [0, 1, 0, 1, -1, -1]


def test_labels_are_found_if_the_first_file_has_none(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    write_records(tmp_path / "a" / "unlabeled-0", [example(image__encoded=png(1)[1])])
    for part in ("train-0", "test-0"):
        write_records(tmp_path / "b" / part, [labeled_example(n, n) for n in range(2)])
    assert load(tmp_path / "*" / "*").has_labels


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-0", "test-0", "more"], "mixes .*such as .*test-0, with others, such as .*more:"),
        (["val-0", "test-0"], "has files for test, val, but none for training"),
        ([b"caf\xe9-0"], r"not encoded in UTF-8 \(.*caf\\xe9-0\)"),
    ],
)
def test_files_whose_use_is_unclear_are_refused(tmp_path, names, message):
    write_records(tmp_path / "file", [labeled_example(0, 0)])
    contents = (tmp_path / "file").read_bytes()
    (tmp_path / "file").unlink()
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(contents)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "*")


def write_many(folder, name, count):
    """Write records whose images are never read."""
    return write_records(folder / name, [example(image__encoded=b"any") for _ in range(count)])


@pytest.mark.parametrize("names", [("train-0", "train-1"), ("val-0",), ("a", "b"), ("train_val",)])
def test_a_fifth_is_held_out_if_the_names_decide_nothing(tmp_path, names):
    for name in names:
        write_many(tmp_path, name, 3000 // len(names))
    source = load(tmp_path / "*")
    assert source.pretrain.tolist() == list(range(3000))
    assert sorted([*source.train, *source.test]) == list(range(3000))
    # Four standard deviations of a random choice of one in five.
    assert abs(len(source.test) / 3000 - 0.2) < 4 * (0.2 * 0.8 / 3000) ** 0.5
    # It is not every fifth record: the gaps between the test records vary.
    assert len(set(np.diff(source.test))) > 10


def test_new_file_does_not_move_records_in_or_out_of_the_test_part(tmp_path):
    write_many(tmp_path, "b", 300)
    before = load(tmp_path / "*")
    write_many(tmp_path, "a", 100)
    after = load(tmp_path / "*")
    held_out = [after.describe(index) for index in after.test if index >= 100]
    assert held_out == [before.describe(index) for index in before.test]


def test_appended_records_do_not_move_others_in_or_out_of_the_test_part(tmp_path):
    write_many(tmp_path, "a", 100)
    before = load(tmp_path / "*").test
    write_many(tmp_path, "a", 150)
    after = np.asarray(load(tmp_path / "*").test)
    assert after[after < 100].tolist() == before.tolist()


@pytest.mark.slow
def test_training_skips_unreadable_records(tmp_path):
    contents = [labeled_example(n, n) for n in range(8)]
    contents[0] = b"not a message"
    contents[2] = example(image__class__label=2)
    contents[5] = example(image__encoded=png(5)[1][:60], image__class__label=5)
    path = write_records(tmp_path / "data", contents)
    damaged = bytearray(path.read_bytes())
    # A bit of the payload, which no longer matches its checksum.
    damaged[damaged.index(contents[6]) + 20] ^= 1
    path.write_bytes(damaged)
    source = load(path)
    for index in range(8):
        if index in (0, 2, 5, 6):
            with pytest.raises(tf.errors.OpError):
                read_image(source, index)
        else:
            np.testing.assert_array_equal(read_image(source, index), png(index)[0])
    assert first_readable(source) == 1
    batches = TwoViews(source, 8, Recipe(), batch_size=8, seed=0)
    [(query, _)] = batches.between(0, 1)
    reds = np.rint(query.numpy()[..., 0].mean((1, 2)) / 5).astype(int)
    assert len(reds) == 8
    assert set(reds) == {1, 3, 4, 7}
    assert batches.unreadable == {0, 2, 5, 6}
    # An unreadable record has no label; the labels of the others are right.
    assert source.labels.tolist() == [-1, 0, 1, 2, 3, 4, -1, 5]
    assert source.class_names == ["1", "2", "3", "4", "5", "7"]


def test_error_names_a_record_without_a_label(tmp_path):
    write_records(tmp_path / "data", [labeled_example(0, 4), example(image__encoded=png(1)[1])])
    source = load(tmp_path / "data")
    with pytest.raises(UserError, match="record 1 of .*data has the label None"):
        _ = source.labels


def test_remote_files_are_read(shards):
    for path in shards.iterdir():
        tf.io.gfile.makedirs("ram://records")
        tf.io.gfile.copy(str(path), f"ram://records/{path.name}", overwrite=True)
    source = load("ram://records/data-*")
    assert source.labels.tolist() == [n % 3 for n in range(10)]
    for number in range(10):
        np.testing.assert_array_equal(read_image(source, number), png(number)[0])


def truncate(contents):
    return contents[:-5]


def truncate_within_a_header(contents):
    return contents + contents[:7]


def with_damaged_header(contents):
    second = 16 + int.from_bytes(contents[:8], "little")
    return contents[:second] + b"\x01" + contents[second + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "data-2 is truncated in record 4"),
        (truncate_within_a_header, "data-2 is truncated in record 5"),
        (with_damaged_header, "data-2 is damaged: record 1 has no valid header"),
        (gzip.compress, "data-2 is compressed"),
        (zlib.compress, "data-2 is compressed"),
        (
            lambda _: b"a,b,c\n1,2,3\n4,5,6\n",
            "data-2 is not a TFRecord file: it begins with 612c62",
        ),
        (lambda _: b"\xff" * 40, "data-2 is not a TFRecord file"),
    ],
)
def test_error_names_a_damaged_file(shards, damage, message):
    path = shards / "data-2"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        load(shards / "data-*")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("train-*", "no file matches '.*train-[*]': use a pattern"),
        ("data-1", "hold no records"),
        ("", "is a folder: use a pattern .*, such as tfrecord:.*/[*]"),
    ],
)
def test_error_names_a_pattern_without_records(shards, pattern, message):
    with pytest.raises(UserError, match=f"tfrecord:{shards}.*{message}"):
        load(shards / pattern)


def test_error_names_a_folder_among_the_files(shards):
    (shards / "data-9").mkdir()
    with pytest.raises(UserError, match="data-9 cannot be read"):
        load(shards / "data-*")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_feature": "picture"}, "data.image_feature to .* image/class/label, image/encoded"),
        ({"image_feature": "image/class/label"}, "has no image bytes as 'image/class/label'"),
        (
            {"label_feature": "species"},
            "has the label None as 'species': set config.data.label_feature",
        ),
        ({"label_feature": "image/encoded"}, "set config.data.label_feature"),
    ],
)
def test_error_names_a_missing_feature(shards, options, message):
    with pytest.raises(UserError, match=message):
        load(shards / "data-*", **options)


def test_negative_label_is_no_class(tmp_path):
    write_records(tmp_path / "data", [labeled_example(n, n % 2 - (n == 7)) for n in range(20)])
    write_records(tmp_path / "more", [labeled_example(n, -1) for n in range(20)])
    assert load(tmp_path / "data").class_names == ["0", "1"]
    with pytest.raises(UserError, match="record 0 of .* has the label -1 .* of 0 or greater; set"):
        _ = load(tmp_path / "more").labels


def test_error_names_records_that_are_not_examples(tmp_path):
    write_records(tmp_path / "data", [b"\xff"] * 3)
    with pytest.raises(UserError, match="record 0 of .* is not .* tf.train.Example, .* first 3"):
        load(tmp_path / "data")
