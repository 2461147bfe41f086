"""The `tfds` source, on data sets that tensorflow-datasets prepared from small builders."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from moco_tf.data import sources
from moco_tf.errors import UserError

CLASSES = ["cat", "dog", "emu"]
COUNTS = {"train": 40, "test": 7, "validation": 5, "unlabeled": 6}


def pixels(split, number, channels=3):
    rng = np.random.default_rng([*split.encode(), number])
    return rng.integers(0, 256, (6, 5, channels), np.uint8)


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Random images with a number, whose remainder modulo 3 is the label."""

    VERSION = tfds.core.Version("1.2.0")
    SPLITS = ("train", "test", "validation", "unlabeled")
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
            # tensorflow-datasets writes -1 for no label, for ImageNet's test images too.
            label = -1 if split == "unlabeled" else number % 3
            image = pixels(split, number, self.CHANNELS)
            example = {"image": image, "label": label, "number": number}
            yield number, {key: example[key] for key in self._features() if key in example}


class Animals(Builder, skip_registration=True):
    pass


class Unprepared(Builder):
    """The only registered builder: tensorflow-datasets finds its code by name."""


class TrainOnly(Builder, skip_registration=True):
    SPLITS = ("train",)


class Gray(Builder, skip_registration=True):
    CHANNELS = 1
    SPLITS = ("train", "validation")


class NoLabels(Builder, skip_registration=True):
    SPLITS = ("train", "test")

    def _features(self):
        return {key: value for key, value in super()._features().items() if key != "label"}


class SixteenBit(Builder, skip_registration=True):
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


class TwoEyes(Builder, skip_registration=True):
    """Images of two cameras, and labels of two kinds."""

    SPLITS = ("train", "test")

    def _features(self):
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
        side = tfds.features.ClassLabel(names=["left", "right"])
        return super()._features() | {"other image": image, "side": side}

    def _generate_examples(self, split):
        for number, example in super()._generate_examples(split):
            other = pixels(split, 1000 + number)
            yield number, example | {"other image": other, "side": number % 2}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    tfds.display_progress_bar(False)
    for builder in (Animals, TrainOnly, Gray, NoLabels, SixteenBit, NoImages, TwoEyes):
        config = tfds.download.DownloadConfig(num_shards=3 if builder is Animals else None)
        builder(data_dir=folder).download_and_prepare(download_config=config)
    return folder


def load(dataset, data_dir, **options):
    return sources.load(f"tfds:{dataset}", tfds_dir=data_dir, **options)


def read_images(source, indices):
    return list(tf.data.Dataset.from_tensor_slices(indices).map(source.read).as_numpy_iterator())


def expected_examples(data_dir, name, split):
    """Numbers and images of a split as tensorflow-datasets reads them."""
    builder = tfds.builder(f"{name}:1.2.0", data_dir=data_dir)
    read_config = tfds.ReadConfig(interleave_cycle_length=1)
    data = builder.as_dataset(split=split, read_config=read_config)
    return [(int(e["number"]), e["image"]) for e in data.as_numpy_iterator()]


def assert_images_equal(source, indices, examples):
    np.testing.assert_array_equal(
        read_images(source, indices), [image for _, image in examples], strict=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "dataset", ["animals", "animals:1.2.0", "animals:train", "animals:1.2.0:train"]
)
def test_images_match_tensorflow_datasets(data_dir, dataset):
    source = load(dataset, data_dir)
    train = expected_examples(data_dir, "animals", "train")
    test = expected_examples(data_dir, "animals", "test")
    assert sorted(number for number, _ in train) == list(range(40))
    assert_images_equal(source, source.pretrain, train)
    assert_images_equal(source, source.test, test)
    assert source.train.tolist() == source.pretrain.tolist()
    assert source.class_names == CLASSES
    for part, examples in ((source.train, train), (source.test, test)):
        assert source.labels[part].tolist() == [number % 3 for number, _ in examples]


def test_data_set_is_prepared_if_necessary(tmp_path):
    source = load("unprepared", str(tmp_path))
    assert (tmp_path / "unprepared" / "1.2.0" / "dataset_info.json").exists()
    assert_images_equal(
        source, source.train, expected_examples(str(tmp_path), "unprepared", "train")
    )


def test_description_names_the_file(data_dir):
    source = load("animals", data_dir)
    files = {source.describe(index).split("-train.")[-1] for index in source.train}
    assert files == {f"tfrecord-{shard:05}-of-00003" for shard in range(3)}
    assert source.describe(source.train[0]).startswith("record 0 of ")


def test_requested_part_of_a_split_is_read(data_dir):
    source = load("animals:train[25%:75%]", data_dir)
    assert_images_equal(
        source, source.pretrain, expected_examples(data_dir, "animals", "train[25%:75%]")
    )
    assert len(source.pretrain) == 20
    assert_images_equal(source, source.test, expected_examples(data_dir, "animals", "test"))


def test_requested_splits_are_added(data_dir):
    source = load("animals:train+unlabeled", data_dir)
    images = sorted(image.tobytes() for image in read_images(source, source.pretrain))
    assert images == sorted(
        pixels(split, number).tobytes()
        for split in ("train", "unlabeled")
        for number in range(COUNTS[split])
    )


def test_requested_split_is_not_the_test_split(data_dir):
    source = load("animals:test", data_dir)
    assert_images_equal(source, source.train, expected_examples(data_dir, "animals", "test"))
    assert_images_equal(source, source.test, expected_examples(data_dir, "animals", "validation"))


def test_split_without_labels_is_not_the_test_split(data_dir):
    source = load("animals:unlabeled", data_dir)
    assert not source.has_labels
    assert_images_equal(
        source, source.pretrain, expected_examples(data_dir, "animals", "unlabeled")
    )


def test_a_fifth_is_held_out_without_a_test_split(data_dir):
    source = load("train_only", data_dir)
    assert source.pretrain.tolist() == list(range(40))
    assert sorted([*source.train, *source.test]) == list(range(40))
    assert 1 <= len(source.test) <= 16


def test_gray_images_have_three_channels_and_validation_is_the_test_split(data_dir):
    source = load("gray", data_dir)
    assert source.channels == 3
    gray = expected_examples(data_dir, "gray", "train")
    assert_images_equal(source, source.train, [(n, np.repeat(image, 3, -1)) for n, image in gray])
    assert len(source.test) == COUNTS["validation"]


def test_data_set_without_label_feature_has_no_labels(data_dir):
    source = load("no_labels", data_dir)
    assert not source.has_labels
    assert_images_equal(source, source.test, expected_examples(data_dir, "no_labels", "test"))


@pytest.mark.parametrize("second", ["animals:test", "animals:1.2.0:unlabeled", "animals:train[1:]"])
def test_parts_of_one_data_set_are_not_mixed(data_dir, second):
    # Both would test on images of the other one, or on the same ones.
    with pytest.raises(UserError, match="parts of one data set.*such as tfds:NAME:train.test$"):
        load(f"animals;tfds:{second}", data_dir)
    assert load("animals;tfds:gray", data_dir).size


def test_features_can_be_chosen(data_dir):
    source = load("two_eyes", data_dir, image_feature="other image", label_feature="side")
    assert source.class_names == ["left", "right"]
    assert source.options == {"image_feature": "other image", "label_feature": "side"}
    # The order is that of the default features, whose images have the same numbers.
    numbers = [n for n, _ in expected_examples(data_dir, "two_eyes", "train")]
    assert source.labels[source.train].tolist() == [number % 2 for number in numbers]
    expected = [(number, pixels("train", 1000 + number)) for number in numbers]
    assert_images_equal(source, source.train, expected)


def test_empty_label_feature_leaves_out_the_labels(data_dir):
    assert load("animals", data_dir).has_labels
    assert not load("animals", data_dir, label_feature="").has_labels


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (
            "two_eyes",
            {"image_feature": "number"},
            "no feature 'number' of the type Image: set config.data.image_feature to one of image, "
            "other image",
        ),
        (
            "two_eyes",
            {"label_feature": "image"},
            "no feature 'image' of the type ClassLabel: .*label_feature to one of label, side",
        ),
        ("no_labels", {"label_feature": "label"}, "label_feature to its default"),
    ],
)
def test_features_that_do_not_exist_are_refused(data_dir, dataset, options, message):
    with pytest.raises(UserError, match=message):
        load(dataset, data_dir, **options)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("nosuchset", "has no nosuchset:.*set config.data.tfds_dir"),
        ("animals:9.9.9", "has no animals:9.9.9, .*set config.data.tfds_dir"),
        ("animals:valid", "no split 'valid': use one of .*train"),
        ("animals:train[:x%]", "no split 'train"),
        ("animals:train[:0%]", "no record in the split 'train.:0%.'"),
        (":train", "not of the form tfds:NAME"),
        ("no images", "tfds:no images.*Parsing builder name"),
        ("sixteen_bit", "images of the type uint16, but only uint8"),
        ("no_images", "has no images: its features are number"),
        # A public data set that has to be downloaded manually.
        ("imagenet2012", "cannot be prepared: .*manual.*set config.data.tfds_dir"),
    ],
)
def test_error_names_the_problem(data_dir, dataset, message):
    with pytest.raises(UserError, match=message) as error:
        load(dataset, data_dir)
    assert "\n" not in str(error.value)


def test_array_record_files_are_read(tmp_path):
    Animals(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    source = load("animals:train[:30]", str(tmp_path))
    builder = tfds.builder("animals:1.2.0", data_dir=str(tmp_path))
    for part, split in ((source.train, "train[:30]"), (source.test, "test")):
        examples = list(builder.as_data_source(split=split))
        for image, example in zip(read_images(source, part), examples, strict=True):
            np.testing.assert_array_equal(image, example["image"])
        assert source.labels[part].tolist() == [example["label"] for example in examples]


def test_error_names_other_file_formats(tmp_path):
    builder = TrainOnly(data_dir=str(tmp_path), file_format="parquet")
    builder.download_and_prepare()
    with pytest.raises(UserError, match="is stored in parquet files.*--file_format=tfrecord"):
        load("train_only", str(tmp_path))


def test_error_names_a_file_with_missing_records(tmp_path):
    TrainOnly(data_dir=str(tmp_path)).download_and_prepare()
    [path] = tmp_path.rglob("*.tfrecord*")
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records[:-1]:
            writer.write(record)
    with pytest.raises(UserError, match=f"{path.name} has 39 records instead of 40"):
        load("train_only", str(tmp_path))
