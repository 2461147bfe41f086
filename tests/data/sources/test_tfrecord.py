"""TFRecord files that TensorFlow's own writer wrote: their index, images, labels, parts, damage."""

import gzip
import inspect
import itertools
import zlib

import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from PIL import Image

from moco_tf.config import default_config
from moco_tf.data import sources
from moco_tf.data.pipeline import TwoViews, first_readable
from moco_tf.data.sources import records
from moco_tf.errors import UserError

SIZE = 12


def png(number):
    """An image whose red channel is 5 times its number throughout, and its PNG file."""
    image = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE + 2, 3), np.uint8)
    image[..., 0] = 5 * number
    return image, tf.io.encode_png(image).numpy()


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def example(**features):
    """A record; of a feature's name `__` stands for `/`."""
    named = {name.replace("__", "/"): feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def labelled(number, label):
    return example(image__encoded=png(number)[1], image__class__label=label)


def raw(array, **changes):
    height, width, channels = array.shape
    features = {"image__encoded": array.tobytes(), "image__format": b"raw"}
    features |= {"image__height": height, "image__width": width, "image__channels": channels}
    return example(**features | changes)


def write(path, contents):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in contents:
            writer.write(record)
    return path


def load(place, **options):
    return sources.load(f"tfrecord:{place}", **options)


def read(source, index):
    return source.read(tf.constant(index, tf.int64)).numpy()


@pytest.fixture
def shards(tmp_path):
    """Ten labelled images in four files, one of which is empty."""
    numbers = iter(range(10))
    for file, count in enumerate((3, 0, 5, 2)):
        contents = [labelled(n, 7 * (n % 3) + 1) for n in itertools.islice(numbers, count)]
        write(tmp_path / f"data-{file}", contents)
    return tmp_path


def test_records_lie_where_tensorflow_reads_them(tmp_path):
    rng = np.random.default_rng(0)
    contents = [rng.bytes(length) for length in (0, 1, 300, 70_000, 5)]
    paths = [str(write(tmp_path / "a", contents)), str(write(tmp_path / "b", contents[::-1]))]
    found = records.scan(paths)
    expected = list(tf.data.TFRecordDataset(paths).as_numpy_iterator())
    assert found.size == len(expected) == 10
    inside = tf.data.Dataset.range(10).map(found.reader())
    assert list(inside.as_numpy_iterator()) == expected
    assert found.describe(6) == f"record 1 of {paths[1]}"
    file, number = found.place(np.arange(10))
    assert file.tolist() == [0] * 5 + [1] * 5 and number.tolist() == [*range(5), *range(5)]


def test_images_labels_and_names_are_those_written(shards):
    source = load(shards / "data-*")
    assert (source.size, source.channels) == (10, 3)
    for number in range(10):
        found = read(source, number)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, png(number)[0])
    assert source.describe(4) == f"record 1 of {shards / 'data-2'}"
    # Labels 1, 8 and 15 are three classes.
    assert source.labels.dtype == np.int32
    assert source.labels.tolist() == [n % 3 for n in range(10)]
    assert source.class_names == ["1", "8", "15"]


def test_jpegs_are_read_as_pillow_reads_them(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(skimage.data.astronaut()[:60, 100:170]).save(path, quality=90)
    write(tmp_path / "data", [example(image__encoded=path.read_bytes())])
    expected = np.asarray(Image.open(path)).astype(int)
    error = np.abs(read(load(tmp_path / "data"), 0) - expected)
    # The fast integer DCT is not Pillow's accurate one.
    assert error.mean() < 2 and error.max() < 12


def test_labels_wait_until_they_are_asked_for(shards):
    source = load(shards / "data-*")
    assert source.labels is not None and source.class_names is not None
    (shards / "data-2").unlink()
    with pytest.raises(UserError, match="data-2; No such file"):
        source.labels[0]


def test_labels_of_some_are_looked_up_as_in_an_array(shards):
    source = load(shards / "data-*")
    assert source.labels[np.array([4, 0, 8])].tolist() == [1, 0, 2]
    assert len(source.labels) == 10 and len(source.class_names) == 3
    assert source.class_names[source.labels[5]] == "15"
    np.testing.assert_array_equal(np.bincount(source.labels), [4, 3, 3])


def test_names_of_features_are_the_callers(tmp_path):
    write(tmp_path / "a", [example(photo=png(3)[1], kind=4), example(photo=png(5)[1], kind=2)])
    source = load(tmp_path / "a", image_feature="photo", label_feature="kind")
    np.testing.assert_array_equal(read(source, 1), png(5)[0])
    assert source.labels.tolist() == [1, 0] and source.class_names == ["2", "4"]


def test_the_settings_of_a_config_are_what_loading_takes():
    parameters = inspect.signature(sources.load).parameters
    expected = {name: parameters[name].default for name in list(parameters)[1:]}
    assert sources.options(default_config().data) == expected


def test_records_without_labels(tmp_path, shards):
    write(tmp_path / "unlabelled", [example(image__encoded=png(n)[1]) for n in range(3)])
    assert load(tmp_path / "unlabelled").labels is None
    source = load(shards / "data-*", label_feature="")
    assert (source.labels, source.class_names) == (None, None)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_raw_arrays_are_those_written(tmp_path, channels):
    rng = np.random.default_rng(channels)
    arrays = [rng.integers(0, 256, (h, 9, channels), np.uint8) for h in (4, 8)]
    write(tmp_path / "raw", map(raw, arrays))
    source = load(tmp_path / "raw")
    assert source.channels == channels
    for index, array in enumerate(arrays):
        np.testing.assert_array_equal(read(source, index), array)


def test_raw_arrays_of_other_shapes_than_they_say_are_errors(tmp_path):
    array = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    wrong = [
        raw(array[..., :3]),  # other channels than the first
        raw(array, image__height=4),  # too few bytes
        raw(array, image__height=-1),
        raw(array, image__height=0, image__encoded=b""),
        labelled(1, 1),
    ]
    write(tmp_path / "raw", [raw(array), *wrong])
    source = load(tmp_path / "raw")
    np.testing.assert_array_equal(read(source, 0), array)
    for index in range(1, 6):
        with pytest.raises(tf.errors.InvalidArgumentError):
            read(source, index)


@pytest.mark.parametrize("dtype, count", [(np.uint16, 2), (np.float32, 4)])
def test_raw_arrays_of_wider_types_are_refused(tmp_path, dtype, count):
    array = np.zeros((3, 4, 5), np.uint8)
    write(tmp_path / "raw", [raw(array, image__encoded=array.astype(dtype).tobytes())])
    with pytest.raises(UserError, match=f"raw has {count} bytes for each value.*as uint8"):
        load(tmp_path / "raw")


def test_raw_arrays_without_a_shape_are_refused(tmp_path):
    write(tmp_path / "raw", [example(image__encoded=b"1234", image__format=b"RAW")])
    with pytest.raises(UserError, match=r"record 0 of .*image/height.*\[None, None, None\]"):
        load(tmp_path / "raw")


@pytest.mark.parametrize("others", ["validation", "val", "test"])
def test_files_named_for_a_part_are_that_part(tmp_path, others):
    write(tmp_path / f"{others}-0", [labelled(n, n % 2) for n in range(3)])
    write(tmp_path / "train-0", [labelled(n, n % 2) for n in range(4)])
    source = load(tmp_path / "*")
    first = 0 if others < "train" else 4
    test = list(range(first, first + 3))
    assert source.test.tolist() == test
    assert source.train.tolist() == source.pretrain.tolist() == sorted({*range(7)} - {*test})
    assert all("train-0" in source.describe(index) for index in source.train)


def many(folder, name, count):
    return write(folder / name, [example(image__encoded=b"any") for _ in range(count)])


@pytest.mark.parametrize("names", [("train-0", "train-1"), ("train-0", "test-0", "more"), ("a",)])
def test_else_a_fifth_is_held_out(tmp_path, names):
    for name in names:
        many(tmp_path, name, 3000 // len(names))
    source = load(tmp_path / "*")
    assert source.pretrain.tolist() == list(range(3000))
    assert sorted([*source.train, *source.test]) == list(range(3000))
    # Four standard deviations of a fair choice of one in five.
    assert abs(len(source.test) / 3000 - 0.2) < 4 * (0.2 * 0.8 / 3000) ** 0.5
    # Nor is it every fifth: gaps between its members are as different as chance makes them.
    assert len(set(np.diff(source.test))) > 10


def test_a_new_file_moves_no_record_in_or_out_of_the_held_out_part(tmp_path):
    many(tmp_path, "b", 300)
    before = load(tmp_path / "*")
    many(tmp_path, "a", 100)
    after = load(tmp_path / "*")
    held_out = [after.describe(index) for index in after.test if index >= 100]
    assert held_out == [before.describe(index) for index in before.test]


def test_what_cannot_be_read_is_an_error_that_training_survives(tmp_path):
    contents = [labelled(n, n) for n in range(8)]
    contents[0] = b"no message"
    contents[2] = example(image__class__label=2)
    contents[5] = example(image__encoded=png(5)[1][:60], image__class__label=5)
    path = write(tmp_path / "data", contents)
    spoiled = bytearray(path.read_bytes())
    place = spoiled.index(contents[6]) + 20
    spoiled[place] ^= 1  # a bit of the payload, which no longer agrees with its checksum
    path.write_bytes(spoiled)
    source = load(path)
    for index in range(8):
        if index in (0, 2, 5, 6):
            with pytest.raises(tf.errors.OpError):
                read(source, index)
        else:
            np.testing.assert_array_equal(read(source, index), png(index)[0])
    assert first_readable(source) == 1
    batches = TwoViews(source, 8, (0.2, 1.0), batch_size=8, seed=0)
    [(query, _)] = batches.between(0, 1)
    reds = np.rint(query.numpy()[..., 0].mean((1, 2)) / 5).astype(int)
    assert len(reds) == 8 and set(reds) == {1, 3, 4, 7}
    assert batches.unreadable == {0, 2, 5, 6}
    # What is damaged has no label, and takes none from the others.
    assert source.labels.tolist() == [-1, 0, 1, 2, 3, 4, -1, 5]
    assert source.class_names == ["1", "2", "3", "4", "5", "7"]


def test_a_record_without_a_label_among_others_is_named(tmp_path):
    write(tmp_path / "data", [labelled(0, 4), example(image__encoded=png(1)[1])])
    source = load(tmp_path / "data")
    with pytest.raises(UserError, match="record 1 of .*data has the label None"):
        source.labels[0]


def test_two_workers_share_all_images(shards):
    batches = TwoViews(load(shards / "data-*"), 8, (0.2, 1.0), batch_size=10, seed=3)
    whole = list(batches.between(0, 2).as_numpy_iterator())
    contexts = [tf.distribute.InputContext(2, worker, 2) for worker in range(2)]
    parts = [list(batches.between(0, 2, context).as_numpy_iterator()) for context in contexts]
    for step in range(2):
        for view in (0, 1):
            joined = np.concatenate([part[step][view] for part in parts])
            np.testing.assert_array_equal(joined, whole[step][view])
            reds = np.rint(joined[..., 0].mean((1, 2)) / 5)
            assert sorted(reds) == list(range(10))
    assert batches.unreadable == set()


def test_files_in_memory_are_read_through_gfile(shards):
    for path in shards.iterdir():
        tf.io.gfile.makedirs("ram://records")
        tf.io.gfile.copy(str(path), f"ram://records/{path.name}", overwrite=True)
    source = load("ram://records/data-*")
    assert source.labels.tolist() == [n % 3 for n in range(10)]
    for number in range(10):
        np.testing.assert_array_equal(read(source, number), png(number)[0])


def cut_short(contents):
    return contents[:-5]


def cut_within_a_header(contents):
    return contents + contents[:7]


def damaged(contents):
    second = 16 + int.from_bytes(contents[:8], "little")
    return contents[:second] + b"\x01" + contents[second + 1 :]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_short, "data-2 is cut short, within record 4"),
        (cut_within_a_header, "data-2 is cut short, within record 5"),
        (damaged, "data-2 is damaged: record 1 has no valid header"),
        (gzip.compress, "data-2 is compressed"),
        (zlib.compress, "data-2 is compressed"),
        (
            lambda _: b"a,b,c\n1,2,3\n4,5,6\n",
            "data-2 is not a TFRecord file: it begins with 612c62",
        ),
        (lambda _: b"\xff" * 40, "data-2 is not a TFRecord file"),
    ],
)
def test_a_file_that_is_not_whole_or_not_of_the_format_is_named(shards, damage, words):
    path = shards / "data-2"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=words):
        load(shards / "data-*")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("train-*", "no file matches '.*train-[*]': give a pattern"),
        ("data-1", "there is no record"),
        ("", "is a folder: give a pattern of its files, such as tfrecord:.*/[*]"),
    ],
)
def test_a_pattern_without_records_is_named(shards, place, words):
    with pytest.raises(UserError, match=f"tfrecord:{shards}.*{words}"):
        load(shards / place)


def test_a_folder_among_the_files_is_named(shards):
    (shards / "data-9").mkdir()
    with pytest.raises(UserError, match="data-9 cannot be read"):
        load(shards / "data-*")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_feature": "picture"}, "data.image_feature to .* image/class/label, image/encoded"),
        ({"image_feature": "image/class/label"}, "has no image bytes as 'image/class/label'"),
        ({"label_feature": "kind"}, "has None as 'kind': set --config.data.label_feature"),
        ({"label_feature": "image/encoded"}, "set --config.data.label_feature"),
    ],
)
def test_features_that_records_lack_are_named(shards, options, words):
    with pytest.raises(UserError, match=words):
        load(shards / "data-*", **options)


def test_records_that_are_no_examples_are_named(tmp_path):
    write(tmp_path / "data", [b"\xff"] * 3)
    with pytest.raises(UserError, match="record 0 of .* is no tf.train.Example, nor .* of the 3"):
        load(tmp_path / "data")
