"""Several sources as one, with and without weights."""

import collections
import dataclasses
import itertools
import os
import pathlib
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from moco_tf.data import sources
from moco_tf.data.order import in_epoch_of_mixture
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.recipes import Recipe
from moco_tf.data.sources.mixture import mix, shared_file
from moco_tf.errors import UserError
from tests import videos
from tests.data.sources import (
    test_arrayrecord,
    test_idx,
    test_parquet,
    test_tfrecord,
    test_webdataset,
)
from tests.data.sources.encoded import png

COUNTS = (10, 5)


@pytest.fixture(scope="module")
def name(tmp_path_factory):
    """A folder of images in shades of red and an array of images in shades of green."""
    directory = tmp_path_factory.mktemp("mixture")
    for number in range(COUNTS[0]):
        folder = directory / "folder" / ("cat" if number < 5 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        image = np.full([24, 32, 3], [20 * number, 0, 0], np.uint8)
        Image.fromarray(image).save(folder / f"{number:02}.png")
    images = np.zeros([COUNTS[1], 16, 16, 3], np.uint8)
    images[..., 1] = 40 * np.arange(COUNTS[1])[:, None, None] + 20
    np.save(directory / "array.npy", images)
    np.save(directory / "array.labels.npy", np.array(["dog", "bird", "bird", "", "dog"]))
    return f"folder:{directory}/folder;npy:{directory}/array.npy"


def parts(name):
    return [sources.load(part) for part in name.split(";")]


def test_images_follow_each_other(name):
    mixture, (folder, array) = sources.load(name), parts(name)
    assert mixture.size == 15
    for index in range(15):
        part, own = (folder, index) if index < 10 else (array, index - 10)
        expected = part.read(tf.constant(own, tf.int64)).numpy()
        np.testing.assert_array_equal(mixture.read(tf.constant(index, tf.int64)), expected)
        assert mixture.describe(index) == part.describe(own)
    assert mixture.pretrain.tolist() == list(range(15))
    for attribute in ("train", "test"):
        of_folder, of_array = (getattr(part, attribute) for part in (folder, array))
        expected = [*of_folder, *(of_array + 10)]
        assert getattr(mixture, attribute).tolist() == expected


def test_classes_of_the_same_name_are_one(name):
    mixture = sources.load(name)
    assert mixture.class_names == ["cat", "dog", "bird"]
    assert mixture.labels.tolist() == [0] * 5 + [1] * 5 + [1, 2, 2, -1, 1]


def test_only_labeled_sources_are_evaluated(name, tmp_path):
    np.save(tmp_path / "unlabeled.npy", np.zeros([4, 16, 16, 3], np.uint8))
    array = name.split(";")[1]
    mixture = sources.load(f"npy:{tmp_path}/unlabeled.npy;{array}")
    assert set(mixture.train.tolist()) | set(mixture.test.tolist()) == {4, 5, 6, 8}
    assert mixture.labels.tolist() == [-1, -1, -1, -1, 1, 0, 0, -1, 1]
    np.save(tmp_path / "more.npy", np.zeros([4, 16, 16, 3], np.uint8))
    unlabeled = sources.load(f"npy:{tmp_path}/unlabeled.npy;npy:{tmp_path}/more.npy")
    assert unlabeled.labels is None
    assert len(unlabeled.train) + len(unlabeled.test) == 8


def test_summary_has_the_sources_and_their_shares(name):
    summary = sources.load(name).summary
    for part in parts(name):
        assert part.summary.splitlines()[0] in summary
    assert "15 images from 2 sources" in summary
    assert "66.7% of the images of an epoch are from folder:" in summary
    summary = sources.load(name, weights=(1, 3)).summary
    assert "26.7% of the images of an epoch are from folder:" in summary  # 4 of 15.
    first, *lines = sources.load(name, weights=(1, 3)).collection_summary.splitlines()
    assert first == summary.splitlines()[0]
    of_parts = [line for part in parts(name) for line in part.collection_summary.splitlines()]
    assert lines == [f"  {line}" for line in of_parts]


@pytest.mark.parametrize("is_first", [True, False])
def test_summary_says_whether_pre_training_sees_the_test_images(tmp_path, is_first):
    for number in range(6):
        part = "train" if number < 3 else "val"
        (tmp_path / "parts" / part).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "parts" / part / f"{number}.png")
    np.save(tmp_path / "whole.npy", np.zeros([50, 8, 8, 3], np.uint8))
    names = [f"folder:{tmp_path}/parts", f"npy:{tmp_path}/whole.npy"]
    source = sources.load(";".join(names if is_first else names[::-1]))
    assert "held-out images, some of which pre-training sees too" in source.summary.splitlines()[1]


def is_red(views):
    return views[..., 1].max(axis=(-1, -2)) < 10


@pytest.mark.parametrize(("weights", "num_red"), [((3, 1), 11), ((1, 1), 8), ((1, 3), 4)])
def test_every_epoch_has_the_shares_by_weight(name, weights, num_red):
    source = sources.load(name, weights=weights)
    views = TwoViews(source, 16, Recipe(), batch_size=3, seed=0)
    assert views.steps_per_epoch == 5
    # 15 images in these proportions are 11.25, 7.5 and 3.75 of the first source.
    for epoch in range(3):
        data = views.between(5 * epoch, 5 * epoch + 5)
        queries = np.concatenate([query for query, _ in data.as_numpy_iterator()])
        assert is_red(queries).sum() == num_red


def test_weighted_mixture_resumes_at_any_step(name):
    source = sources.load(name, weights=(3, 1))
    views = TwoViews(source, 16, Recipe(), batch_size=4, seed=1)
    whole = list(views.between(0, 7).as_numpy_iterator())
    for step, batch in enumerate(views.between(4, 7).as_numpy_iterator(), start=4):
        for view, expected in zip(batch, whole[step], strict=True):
            np.testing.assert_array_equal(view, expected)


def test_image_has_other_views_whenever_it_is_used(name):
    views = TwoViews(sources.load(name, weights=(1, 20)), 16, Recipe(), batch_size=5, seed=0)
    rows = [pair for step in range(6) for pair in zip(*views.rows(step), strict=True)]
    assert len(set(rows)) == len(rows) == 30


@pytest.mark.parametrize("seed", [0, 1])
def test_sources_go_through_their_images_again_and_again(seed):
    mixture = [(7, 2.0), (5, 1.0), (11, 0.5)]
    size = 23
    drawn = collections.defaultdict(list)
    for epoch in range(20):
        images, passes = in_epoch_of_mixture(np.arange(size), mixture, seed, epoch)
        for image, number in zip(images.tolist(), passes.tolist(), strict=True):
            drawn[image].append(number)
    for image in range(size):
        # All passes from the first one, without a gap or a repetition.
        assert sorted(drawn[image]) == list(range(len(drawn[image])))
    bounds = np.cumsum([0, 7, 5, 11])
    shares = np.round(np.cumsum([0, 2, 1, 0.5]) / 3.5 * size).astype(int)
    for (first, end), share in zip(itertools.pairwise(bounds), np.diff(shares), strict=True):
        uses = [len(drawn[image]) for image in range(first, end)]
        assert sum(uses) == 20 * share
        assert max(uses) - min(uses) <= 1


def test_passes_of_a_source_have_different_orders():
    orders = set()
    for epoch in range(6):
        images, _ = in_epoch_of_mixture(np.arange(20), [(10, 1.0), (10, 1.0)], 0, epoch)
        orders.add(tuple(images[images < 10]))
    assert len(orders) == 6


@pytest.fixture
def copy(name, tmp_path):
    """Another folder with the same images."""
    folder = name.split(";")[0].removeprefix("folder:")
    return f"folder:{shutil.copytree(folder, tmp_path / 'copy')}"


def test_files_are_read_if_all_parts_have_files(name, copy):
    folder, array = name.split(";")
    assert sources.load(f"{folder};{array}").read_file is None
    mixture = sources.load(f"{folder};{copy}")
    data = tf.data.Dataset.range(20).map(mixture.read_file)
    for index, found in enumerate(data.as_numpy_iterator()):
        with open(mixture.describe(index), "rb") as file:
            assert found == file.read()


def test_options_are_those_of_the_parts(name, copy):
    assert sources.load(name).options == {}
    folder, array = name.split(";")
    mixture = sources.load(f"{folder};{copy}", orientation=True)
    assert mixture.options == {f"source {n}": {"orientation": True} for n in (1, 2)}
    parts = [sources.load(folder, orientation=True), sources.load(array, value_range="0,100")]
    assert mix("a;b", [parts[0], dataclasses.replace(parts[1], value_range=(0, 255))]).options == {
        "source 1": {"orientation": True},
        "source 2": {"value_range": [0.0, 100.0]},
    }
    assert sources.load(array, value_range="0,100").options == {"value_range": [0.0, 100.0]}
    # These are the defaults in other words.
    assert sources.load(folder, channels=3, value_range="0,255").options == {}


def test_mixtures_of_different_channels_are_refused(name, tmp_path):
    np.save(tmp_path / "gray.npy", np.zeros([4, 16, 16, 1], np.uint8))
    with pytest.raises(UserError, match="have 3 channels, but those of .* have 1 channels"):
        sources.load(f"{name};npy:{tmp_path}/gray.npy")


@pytest.mark.parametrize(
    ("num_sources", "weights", "message"),
    [
        (2, (1, 2, 3), "has 3 weights, but .* 2 sources"),
        (1, (1,), "no effect on one source"),
        (2, (0, 1), "data.weights=0,1: use finite numbers greater than 0"),
        (2, (1.7e308, 1.7e308), "use finite numbers"),
        (2, (1000, 1), "an epoch of 15 images would have none of 'npy:"),
    ],
)
def test_weights_must_fit_the_sources(name, num_sources, weights, message):
    with pytest.raises(UserError, match=message):
        sources.load(";".join(name.split(";")[:num_sources]), weights=weights)


@pytest.mark.parametrize("second", ["", "/", "/cat", "/cat/..", "/./dog"])
def test_images_that_are_named_twice_are_refused(name, second):
    folder = name.split(";")[0]
    with pytest.raises(UserError, match="both have .*: name each image once"):
        sources.load(f"{folder}{second};{folder}")


@pytest.fixture
def spellings(name, tmp_path, monkeypatch):
    """Names of sources that have the images of the folder or of the array in other spellings."""
    folder, array = (pathlib.Path(part.partition(":")[2]) for part in name.split(";"))
    monkeypatch.chdir(folder.parent)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "array.npy").symlink_to(array)
    files = [path for path in sorted(folder.rglob("*.png"))]
    (tmp_path / "list.txt").write_text("".join(f"{path}\t{path.parent.name}\n" for path in files))
    for file in files:
        (tmp_path / "links" / file.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "links" / file.parent.name / f"x{file.name}").symlink_to(file)
    names = ("folder:folder", "folder:{}/link", "files:{}/list.txt", "folder:{}/links")
    arrays = ("npy:array.npy", "npy:{}/array.npy")
    return [[text.format(tmp_path) for text in texts] for texts in (names, arrays)]


@pytest.mark.parametrize(("kind", "number"), [*((0, n) for n in range(4)), (1, 0), (1, 1)])
def test_images_with_two_spellings_are_refused(name, spellings, kind, number):
    original, other = name.split(";")[kind], spellings[kind][number]
    file = original.partition(":")[2]
    for mixed in (f"{original};{other}", f"{other};{original}"):
        with pytest.raises(UserError, match=f"both have {re.escape(file)}"):
            sources.load(mixed)


@pytest.mark.parametrize("is_list", [False, True])
def test_link_beside_files_that_are_none_is_found(name, tmp_path, is_list):
    folder = pathlib.Path(name.split(";")[0].partition(":")[2])
    file = folder / "dog" / "07.png"
    (tmp_path / "more").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "more" / "a.png")
    (tmp_path / "more" / "b.png").symlink_to(file)
    other = f"folder:{tmp_path}/more"
    if is_list:
        (tmp_path / "list.txt").write_text("more/a.png\nmore/b.png\n")
        other = f"files:{tmp_path}/list.txt"
    for mixed in (f"folder:{folder};{other}", f"{other};folder:{folder}"):
        with pytest.raises(UserError, match=f"both have {re.escape(str(file))}"):
            sources.load(mixed)


def test_folder_that_cannot_be_listed_is_looked_at_file_by_file(name, tmp_path, monkeypatch):
    folder = pathlib.Path(name.split(";")[0].partition(":")[2])
    file = folder / "dog" / "07.png"
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.png").symlink_to(file)
    (tmp_path / "list.txt").write_text("more/b.png\n")
    parts = [sources.load(f"folder:{folder}"), sources.load(f"files:{tmp_path}/list.txt")]

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    assert shared_file(parts) == (*parts, str(file))


def test_lists_of_different_files_of_a_folder_are_mixed(name, tmp_path):
    folder = pathlib.Path(name.split(";")[0].partition(":")[2])
    files = sorted(folder.rglob("*.png"))
    for number in range(2):
        lines = [f"{path}\n" for path in files[number::2]]
        (tmp_path / f"{number}.txt").write_text("".join(lines))
    mixture = sources.load(f"files:{tmp_path}/0.txt;files:{tmp_path}/1.txt")
    assert {mixture.describe(index) for index in range(mixture.size)} == set(map(str, files))


WRITERS = {
    "tfrecord": lambda path: test_tfrecord.write_records(
        path, [test_tfrecord.raw_example(png(number)[0]) for number in range(3)]
    ),
    "arrayrecord": lambda path: test_arrayrecord.write_records(
        path, [png(number)[1] for number in range(3)]
    ),
    "webdataset": lambda path: test_webdataset.write_samples(path, range(3)),
    "parquet": lambda path: test_parquet.write_rows(path, map(test_parquet.row, range(3))),
    "video": lambda path: videos.encode(path, videos.pan("coffee", 3)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_files_of_many_images_with_two_spellings_are_refused(kind, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    suffix = ".mp4" if kind == "video" else ""
    for name in "ab":
        WRITERS[kind](tmp_path / "data" / f"{name}{suffix}")
    with pytest.raises(UserError, match=f"both have {tmp_path}/data/b{suffix}:"):
        sources.load(f"{kind}:{tmp_path}/data/b{suffix};{kind}:{tmp_path}/link/b{suffix}")
    assert sources.load(f"{kind}:{tmp_path}/data/b{suffix};{kind}:{tmp_path}/link/a{suffix}").size


def test_folder_of_idx_files_with_two_spellings_is_refused(tmp_path, monkeypatch):
    (tmp_path / "idx").mkdir()
    images = np.zeros([5, 8, 8], np.uint8)
    test_idx.write_idx(tmp_path / "idx", "train-images-idx3-ubyte", images)
    monkeypatch.chdir(tmp_path / "idx")
    with pytest.raises(UserError, match=f"both have {tmp_path}/idx:"):
        sources.load(f"idx:.;idx:{tmp_path}/idx/")


def test_paths_of_each_source_are_expanded(name, monkeypatch):
    folder, array = name.split(";")
    monkeypatch.setenv("MIXED", array.removeprefix("npy:"))
    assert sources.load(f"{folder};npy:$MIXED").size == 15


def test_space_after_the_separator_is_ignored(name):
    assert sources.load(name.replace(";", "; ")).size == 15


def test_folder_with_a_semicolon_is_one_source(tmp_path):
    folder = tmp_path / "a;b"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8)).save(folder / f"{number}.png")
    assert sources.load(f"folder:{folder}").size == 3


def test_missing_kind_after_a_semicolon_is_mentioned(tmp_path):
    with pytest.raises(UserError, match="there is no folder .* such as folder:photo$"):
        sources.load(f"folder:{tmp_path};photo")
