"""The strings that name data sources."""

import inspect
import re

import numpy as np
import pytest

from moco_tf.config import default_config
from moco_tf.data import sources
from moco_tf.errors import UserError
from tests.images import write_folder

FEATURES = ("image_feature", "label_feature")


@pytest.mark.parametrize(
    "name", ["", "folder:", "folder", "imagenet", "tfds:", "tfrecord:", "parquet:", "/data"]
)
def test_error_names_an_unknown_source_and_the_choices(name):
    with pytest.raises(UserError, match=f"'{name}'.*{sources.SOURCE_NAMES}"):
        sources.load(name)


def test_path_without_a_scheme_is_taken_for_a_folder():
    with pytest.raises(UserError, match="did you mean folder:/data[?]"):
        sources.load("/data")


def test_path_object_is_a_folder(tmp_path):
    write_folder(tmp_path / "photos", images_per_class=2)
    source = sources.load(tmp_path / "photos")
    assert source.name == f"folder:{tmp_path / 'photos'}"
    assert source.size == 4
    (tmp_path / "a.npy").touch()
    with pytest.raises(UserError, match=f"that of a file: .* 'npy:{tmp_path / 'a.npy'}'"):
        sources.load(tmp_path / "a.npy")


@pytest.mark.parametrize("images", [np.zeros([2, 8, 8, 3], np.uint8), ["a.jpg"], None, b"photos"])
def test_images_themselves_are_refused(images):
    message = f"is of the type {type(images).__name__}: use photos, folder:PATH.*numpy.save"
    with pytest.raises(UserError, match=message):
        sources.load(images)


def make_source(load_labels):
    indices = np.arange(2)
    return sources.Source(
        "name", 2, lambda index: index, str, indices, indices, indices, load_labels
    )


def test_labels_are_loaded_once_and_only_when_they_are_read():
    calls = []

    def load_labels():
        calls.append(1)
        return np.array([1, 0], np.int32), ["cat", "dog"]

    source = make_source(load_labels)
    assert source.has_labels
    assert not calls
    assert source.labels.tolist() == [1, 0]
    assert source.class_names == ["cat", "dog"]
    assert len(calls) == 1


def test_source_without_labels_has_no_class_names():
    source = make_source(None)
    assert not source.has_labels
    assert source.labels is None
    assert source.class_names is None


def test_options_of_a_config_are_the_arguments_of_load():
    parameters = inspect.signature(sources.load).parameters
    defaults = {name: parameters[name].default for name in list(parameters)[1:]}
    # They are those of the run's own images, and the options of other images too.
    assert defaults.pop("weights") == ()
    assert sources.options(default_config()) == defaults


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("", set()),
        ("video:clips", {"orientation", "tfds_dir", *FEATURES}),
        ("folder:a;files:b", {"frame_seconds", "tfds_dir", *FEATURES}),
        ("folder:a;tfrecord:b", {"frame_seconds", "tfds_dir"}),
        ("tfds:a", {"frame_seconds", "orientation"}),
        ("photos;parquet:b", {"frame_seconds", "orientation", "tfds_dir"}),
        ("photos", {"frame_seconds", "orientation", "tfds_dir", *FEATURES}),
    ],
)
def test_options_that_another_source_would_refuse_are_left_out(name, left_out):
    options = sources.options(default_config(), name)
    assert set(sources.OPTIONS) - set(options) == left_out


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "photos",
            {"label_feature": ""},
            "label_feature= applies to tfrecord, arrayrecord, webdataset, parquet and tfds sources "
            "only: leave it at 'image/class/label' for 'photos'",
        ),
        ("folder:a;npy:b.npy", {"image_feature": "photo"}, "image_feature=photo applies to tfr"),
        ("tfrecord:a", {"tfds_dir": "/data"}, "tfds_dir=/data applies to tfds sources only: leave"),
    ],
)
def test_options_without_effect_are_refused(name, options, message):
    with pytest.raises(UserError, match=f"config.data.{re.escape(message)}"):
        sources.load(name, **options)


def test_run_with_an_option_without_effect_can_still_be_opened():
    config = default_config()
    config.data.source = "photos"
    config.data.tfds_dir = "/data"  # Version 0.1 ignored it.
    assert sources.from_config(config).size
    with pytest.raises(UserError, match="data.tfds_dir=/data applies to tfds sources only"):
        sources.require_effect(config)


def test_orientation_applies_to_the_parts_that_are_image_files(image_folder, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((20, 32, 32, 3), np.uint8))
    array = f"npy:{tmp_path}/images.npy"
    source = sources.load(f"folder:{image_folder};{array}", orientation=True)
    assert source.options == {"source 1": {"orientation": True}}
    with pytest.raises(UserError, match="orientation=True applies to folder and files sources"):
        sources.load(f"photos;{array}", orientation=True)


def test_summary_loads_no_labels():
    def load_labels():
        raise AssertionError

    assert make_source(load_labels).summary.splitlines() == [
        "name: 2 images with labels",
        "pre-training uses 2 of them; an evaluation trains on 2 and tests on 2 held-out images, "
        "which pre-training sees too",
    ]
    assert make_source(None).summary.startswith("name: 2 images; no labels\n")


def test_summary_for_an_evaluation_does_not_speak_of_pretraining():
    assert make_source(lambda: None).evaluation_summary.splitlines() == [
        "name: 2 images with labels",
        "an evaluation trains on 2 and tests on 2 held-out images",
    ]
    assert sources.load("photos").evaluation_summary.splitlines()[1:] == [
        "an evaluation trains on 8,116 and tests on 1,818",
    ]


def test_summary_of_a_source_with_a_test_part():
    summary = sources.load("photos").summary
    assert summary.splitlines() == [
        "photos: 9,934 images with labels",
        "pre-training uses 8,116 of them; an evaluation trains on 8,116 and tests on 1,818",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orientation": "false"}, "^orientation='false': must be True or False"),
        ({"frame_seconds": "x"}, "^frame_seconds='x': must be a number, 0 or greater"),
        ({"frame_seconds": -1}, "^frame_seconds=-1: must be 0 or greater"),
        ({"channels": 1.5}, "^channels=1.5: must be an integer, 0 or greater"),
        ({"weights": "2,1"}, "^weights='2,1': pass a list of numbers, such as "),
        ({"weights": [2, "x"]}, "^weights=.*: pass a list of numbers, such as "),
        ({"weights": 2}, "^weights=2: pass a list of numbers, such as "),
        ({"weights": np.array([2, 1])}, "has no effect on one source"),
        ({"value_range": (255, 0)}, "value_range='255,0': use auto, measure, or the values"),
        ({"value_range": None}, "value_range='None': use auto, measure, or the values"),
    ],
)
def test_option_of_another_type_or_out_of_range_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        sources.load("photos", **options)
