"""A source of a billion records, which are those of two small files again and again."""

import os

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.configs.billion_images import get_config
from moco_tf.data import sources
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.recipes import Recipe
from moco_tf.data.sources.tfrecord import IMAGE_FEATURE, open_records
from moco_tf.data.sources.tfrecord_files import offsets_of, records_at
from moco_tf.run_metrics import read_metrics
from moco_tf.training.run import train

RECORDS = 2500  # Of each file.
BILLION = 10**9
WHOLE = Recipe(crop_scale=(1.0, 1.0), horizontal_flip=0.0)


def write_files(folder):
    """Write two files of images, whose color is the file and the two digits of the record."""
    for file in range(2):
        with tf.io.TFRecordWriter(f"{folder}/{file}.tfrecord") as writer:
            for number in range(RECORDS):
                color = [file, *divmod(number, 256)]
                image = tf.io.encode_png(np.full([16, 16, 3], color, np.uint8)).numpy()
                feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
                features = tf.train.Features(feature={IMAGE_FEATURE: feature})
                writer.write(tf.train.Example(features=features).SerializeToString())
    return [f"{folder}/{file}.tfrecord" for file in range(2)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    paths = write_files(tmp_path_factory.mktemp("records"))
    offsets = offsets_of(paths)
    copies = BILLION // (2 * RECORDS)
    records = records_at(paths * copies, offsets * copies)
    return open_records("tfrecord:repeated", records, IMAGE_FEATURE, label_feature="")


@pytest.mark.nightly
def test_batches_anywhere_in_an_epoch_have_the_images_of_the_order(source):
    assert source.size == len(source.pretrain) == BILLION
    views = TwoViews(source, 16, WHOLE, batch_size=8, seed=0)
    for step in (0, 10_000_000, 3 * views.steps_per_epoch - 1):
        [(query, key)] = views.between(step, step + 1).as_numpy_iterator()
        _, indices = views.rows(step)
        expected = [indices // RECORDS % 2, *np.divmod(indices % RECORDS, 256)]
        np.testing.assert_array_equal(query[:, 0, 0], np.transpose(expected))
        np.testing.assert_array_equal(key, query)
    assert len(set(indices)) == 8
    assert indices.max() > BILLION // 2


@pytest.mark.nightly
def test_recipe_for_a_billion_images_trains_for_100_steps(tmp_path):
    path, _ = write_files(tmp_path)
    (tmp_path / "links").mkdir()
    for number in range(400):
        os.link(path, tmp_path / "links" / f"{number:05}-of-00400.tfrecord")
    config = get_config()
    config.update({"encoder": "resnet8", "stem": "small", "image_size": 16, "steps": 100})
    config.update({"batch_size": 64, "bn_groups": 8, "queue_size": 512, "log_every": 10})
    config.data.source = f"tfrecord:{tmp_path}/links/*"
    assert sources.from_config(config).size == 400 * RECORDS
    assert train(config, str(tmp_path / "run")).stopped_by is None
    losses = [line["loss"] for line in read_metrics(str(tmp_path / "run")) if "loss" in line]
    assert len(losses) == 10
    assert np.isfinite(losses).all()
