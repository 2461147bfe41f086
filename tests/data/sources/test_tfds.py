"""Data sets that tensorflow-datasets itself prepared on disk, from builders of the tests."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from moco_tf.data import sources
from moco_tf.data.pipeline import TwoViews
from moco_tf.errors import UserError

CLASSES = ["cat", "dog", "emu"]
COUNTS = {"train": 40, "test": 7, "validation": 5, "unlabelled": 6}


def pixels(split, number, channels=3):
    rng = np.random.default_rng([*split.encode(), number])
    return rng.integers(0, 256, (6, 5, channels), np.uint8)


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images whose label is their number's remainder, and a feature that says which it is."""

    VERSION = tfds.core.Version("1.2.0")
    SPLITS = ("train", "test", "validation", "unlabelled")
    CHANNELS = 3

    def _features(self):
        return {
            "image": tfds.features.Image(shape=(None, None, self.CHANNELS), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=CLASSES),
            "number": tfds.features.Scalar(tf.int64),
        }

    def _info(self):
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(self._features()))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.SPLITS}

    def _generate_examples(self, split):
        for number in range(COUNTS[split]):
            # As tensorflow-datasets has it for what is not labelled, ImageNet's test images too.
            label = -1 if split == "unlabelled" else number % 3
            image = pixels(split, number, self.CHANNELS)
            found = {"image": image, "label": label, "number": number}
            yield number, {key: found[key] for key in self._features()}


class Animals(Builder, skip_registration=True):
    pass


class Unprepared(Builder):
    """The one that tensorflow-datasets knows the code of."""


class TrainOnly(Builder, skip_registration=True):
    SPLITS = ("train",)


class Grey(Builder, skip_registration=True):
    CHANNELS = 1
    SPLITS = ("train", "validation")


class NoLabels(Builder, skip_registration=True):
    SPLITS = ("train", "test")

    def _features(self):
        return {key: value for key, value in super()._features().items() if key != "label"}


class Deep(Builder, skip_registration=True):
    SPLITS = ("train",)

    def _features(self):
        image = tfds.features.Image(shape=(None, None, 3), dtype=np.uint16, encoding_format="png")
        return super()._features() | {"image": image}

    def _generate_examples(self, split):
        yield 0, {"image": pixels(split, 0).astype(np.uint16), "label": 0, "number": 0}


class NoImages(Builder, skip_registration=True):
    SPLITS = ("train",)

    def _features(self):
        return {"number": tfds.features.Scalar(tf.int64)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    tfds.display_progress_bar(False)
    for builder in (Animals, TrainOnly, Grey, NoLabels, Deep, NoImages):
        config = tfds.download.DownloadConfig(num_shards=3 if builder is Animals else None)
        builder(data_dir=folder).download_and_prepare(download_config=config)
    return folder


def load(place, data_dir):
    return sources.load(f"tfds:{place}", tfds_dir=data_dir)


def read(source, index):
    return source.read(tf.constant(index, tf.int64)).numpy()


def expected(data_dir, name, split):
    """Numbers and images of a split as `tfds` itself reads them."""
    builder = tfds.builder(f"{name}:1.2.0", data_dir=data_dir)
    read_config = tfds.ReadConfig(interleave_cycle_length=1)
    data = builder.as_dataset(split=split, read_config=read_config)
    return [(int(e["number"]), e["image"]) for e in data.as_numpy_iterator()]


def assert_is(source, indices, records):
    assert len(indices) == len(records)
    for index, (_, image) in zip(indices, records, strict=True):
        np.testing.assert_array_equal(read(source, index), image)


@pytest.mark.parametrize(
    "place", ["animals", "animals:1.2.0", "animals:train", "animals:1.2.0:train"]
)
def test_a_data_set_is_read_as_tensorflow_datasets_reads_it(data_dir, place):
    source = load(place, data_dir)
    train = expected(data_dir, "animals", "train")
    test = expected(data_dir, "animals", "test")
    assert sorted(number for number, _ in train) == list(range(40))
    assert_is(source, source.pretrain, train)
    assert_is(source, source.test, test)
    assert source.train.tolist() == source.pretrain.tolist()
    assert source.class_names == CLASSES
    for part, records in ((source.train, train), (source.test, test)):
        assert source.labels[part].tolist() == [number % 3 for number, _ in records]


def test_a_data_set_that_is_not_prepared_is_prepared(tmp_path):
    source = load("unprepared", str(tmp_path))
    assert (tmp_path / "unprepared" / "1.2.0" / "dataset_info.json").exists()
    assert_is(source, source.train, expected(str(tmp_path), "unprepared", "train"))


def test_records_are_named_by_their_file(data_dir):
    source = load("animals", data_dir)
    names = {source.describe(index).split("-train.")[-1] for index in source.train}
    assert names == {f"tfrecord-{shard:05}-of-00003" for shard in range(3)}
    assert source.describe(source.train[0]).startswith("record 0 of ")


def test_of_a_split_a_part(data_dir):
    source = load("animals:train[25%:75%]", data_dir)
    assert_is(source, source.pretrain, expected(data_dir, "animals", "train[25%:75%]"))
    assert len(source.pretrain) == 20
    assert_is(source, source.test, expected(data_dir, "animals", "test"))


def test_splits_together(data_dir):
    source = load("animals:train+unlabelled", data_dir)
    numbers = sorted(pixels_of(read(source, index)) for index in source.pretrain)
    wanted = [pixels(split, n) for split in ("train", "unlabelled") for n in range(COUNTS[split])]
    assert numbers == sorted(map(pixels_of, wanted))


def pixels_of(image):
    return image.tobytes()


def test_for_testing_is_what_was_not_asked_for(data_dir):
    source = load("animals:test", data_dir)
    assert_is(source, source.train, expected(data_dir, "animals", "test"))
    assert_is(source, source.test, expected(data_dir, "animals", "validation"))


def test_a_split_without_labels(data_dir):
    source = load("animals:unlabelled", data_dir)
    assert (source.labels, source.class_names) == (None, None)
    assert_is(source, source.pretrain, expected(data_dir, "animals", "unlabelled"))


def test_without_another_split_a_fifth_is_held_out(data_dir):
    source = load("train_only", data_dir)
    assert source.pretrain.tolist() == list(range(40))
    assert sorted([*source.train, *source.test]) == list(range(40))
    assert 1 <= len(source.test) <= 16


def test_grey_images_are_three_channels_and_validation_tests(data_dir):
    source = load("grey", data_dir)
    assert source.channels == 3
    records = [(n, np.repeat(image, 3, -1)) for n, image in expected(data_dir, "grey", "train")]
    assert_is(source, source.train, records)
    assert len(source.test) == COUNTS["validation"]


def test_labels_are_optional(data_dir):
    source = load("no_labels", data_dir)
    assert (source.labels, source.class_names) == (None, None)
    assert_is(source, source.test, expected(data_dir, "no_labels", "test"))


def test_two_workers_share_all_images(data_dir):
    batches = TwoViews(load("animals", data_dir), 4, (0.2, 1.0), batch_size=8, seed=0)
    whole = list(batches.between(0, 5).as_numpy_iterator())
    contexts = [tf.distribute.InputContext(2, worker, 2) for worker in range(2)]
    parts = [list(batches.between(0, 5, context).as_numpy_iterator()) for context in contexts]
    for step, views in enumerate(whole):
        for view in (0, 1):
            joined = np.concatenate([part[step][view] for part in parts])
            np.testing.assert_array_equal(joined, views[view])
    # Views of noise are as different as the images: forty of them, each once.
    assert len({query.tobytes() for views in whole for query in views[0]}) == 40
    assert batches.unreadable == set()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nosuchset", "knows no nosuchset:.*--config.data.tfds_dir"),
        ("animals:9.9.9", "knows no animals:9.9.9, .*--config.data.tfds_dir"),
        ("animals:valid", "no split 'valid': it has .*train"),
        ("animals:train[:x%]", "no split 'train"),
        ("animals:train[:0%]", "no record in that split"),
        (":train", "not of the form tfds:NAME"),
        ("no images", "tfds:no images.*Parsing builder name"),
        ("deep", "its images are uint16, and views are uint8"),
        ("no_images", "has no image: its features are number"),
        # A real one, whose images a person has to download.
        ("imagenet2012", "cannot be prepared: .*manual.*--config.data.tfds_dir"),
    ],
)
def test_what_cannot_be_had_is_named(data_dir, place, words):
    with pytest.raises(UserError, match=words) as caught:
        load(place, data_dir)
    assert "\n" not in str(caught.value)


def test_other_files_than_tfrecord_are_named(tmp_path):
    builder = TrainOnly(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    with pytest.raises(UserError, match="lies in array_record files.*--file_format=tfrecord"):
        load("train_only", str(tmp_path))


def test_a_file_of_fewer_records_than_were_written_is_named(tmp_path):
    TrainOnly(data_dir=str(tmp_path)).download_and_prepare()
    [path] = tmp_path.rglob("*.tfrecord*")
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records[:-1]:
            writer.write(record)
    with pytest.raises(UserError, match=f"{path.name} has 39 records where 40 belong"):
        load("train_only", str(tmp_path))
