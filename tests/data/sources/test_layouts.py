"""What the `folder` source makes of parts, classes and stray files, and what it says about them."""

import contextlib
import os
import subprocess
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from moco_tf.data.sources.folder import require_outside
from moco_tf.data.sources.layout import part_of
from moco_tf.errors import UserError
from moco_tf.evaluation.protocols import require_two_labeled_parts
from tests.data.sources.layouts import PHOTO, label_names, load, parts, paths_of, write

CLASSES = ("cat/a.png", "dog/b.png")


def within(*folders):
    return [f"{folder}/{path}" for folder in folders for path in CLASSES]


def held_out(paths):
    """Return the paths for training and for testing."""
    testing = [path for path in paths if zlib.crc32(path.encode()) % 5 == 0]
    return [path for path in paths if path not in testing], testing


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "val"),
        ("training", "valid"),
        ("Train", "Validation"),
        ("TRAIN", "dev"),
        ("train_set", "eval"),
        ("Training Images", "test"),
        ("train-data", "Testing"),
        ("train2017", "val2017"),
        ("train_32x32", "valid_32x32"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val"),
        ("trainset", "testset"),
        ("data_train", "data_test"),
    ],
)
def test_usual_names_of_parts(tmp_path, train, test):
    write(tmp_path, *within(train), *within(test), "labels.csv")
    source = load(tmp_path)
    assert parts(source, tmp_path) == [within(train), within(train), within(test)]
    assert label_names(source, tmp_path) == {
        path: path.split("/")[1] for path in within(train, test)
    }
    assert f"in {train}/ (2), {test}/ (2), in 2 classes: cat, dog" in source.summary
    assert f"trains on 2 ({train}/) and tests on 2 ({test}/)" in source.summary
    assert source.ignored == [f"{tmp_path}/labels.csv"]
    for indices in (source.pretrain, source.train, source.test):
        assert indices.dtype == np.int64
    assert source.labels.dtype == np.int32


@pytest.mark.parametrize("name", ["trainer", "tests", "contest", "boat", "unlabeled cats", "値"])
def test_other_names_are_not_parts(name):
    assert part_of(name) is None


def test_validation_comes_before_test(tmp_path):
    """ImageNet has a `val` folder, and a `test` folder without labels."""
    write(tmp_path, *within("train", "valid"), "test/e.png", "test/emu/f.png")
    source = load(tmp_path)
    assert parts(source, tmp_path) == [within("train"), within("train"), within("valid")]
    assert sorted(label_names(source, tmp_path)) == sorted(within("train", "valid"))
    assert source.labels.tolist().count(-1) == 2
    assert "tests on 2 (valid/, not test/)" in source.summary


@pytest.mark.parametrize("unlabeled", ["unlabeled", "Unlabelled", "unlabeled_images"])
def test_unlabeled_images_are_for_pre_training_only(tmp_path, unlabeled):
    write(tmp_path, *within("train", "test"), f"{unlabeled}/x.png", f"{unlabeled}/more/y.png")
    source = load(tmp_path)
    pretrain, train, test = parts(source, tmp_path)
    assert sorted(pretrain) == sorted(
        [*within("train"), f"{unlabeled}/more/y.png", f"{unlabeled}/x.png"]
    )
    assert [train, test] == [within("train"), within("test")]
    assert sorted(label_names(source, tmp_path)) == sorted(within("train", "test"))
    assert f"pre-training uses 4 of them (train/, {unlabeled}/)" in source.summary


def test_train_alone_holds_out_a_fifth(tmp_path):
    paths = [f"train/{name}/{n}.png" for name in ("cat", "dog") for n in range(10)]
    write(tmp_path, *paths)
    source = load(tmp_path)
    assert parts(source, tmp_path) == [paths, *held_out(paths)]
    assert len(source.test) > 0
    assert source.class_names == ["cat", "dog"]
    assert "held-out images, which pre-training sees too" in source.summary


def test_train_and_unlabeled_hold_out_labeled_images_only(tmp_path):
    labeled = [f"train/{name}/{n}.png" for name in ("cat", "dog") for n in range(10)]
    unlabeled = [f"unlabeled/{n}.png" for n in range(10)]
    write(tmp_path, *labeled, *unlabeled)
    source = load(tmp_path)
    assert parts(source, tmp_path) == [labeled + unlabeled, *held_out(labeled)]


def test_unlabeled_alone(tmp_path):
    paths = [f"unlabeled/{name}/{n}.png" for name in ("cat", "dog") for n in range(10)]
    write(tmp_path, *paths)
    source = load(tmp_path)
    assert parts(source, tmp_path) == [paths, *held_out(paths)]
    assert not source.has_labels
    assert "no labels, because there is no folder train/" in source.summary


def test_unlabeled_and_test(tmp_path):
    write(tmp_path, "unlabeled/a.png", *within("test"))
    source = load(tmp_path)
    assert parts(source, tmp_path) == [["unlabeled/a.png"], ["unlabeled/a.png"], within("test")]
    assert not source.has_labels


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        ([*within("train", "val"), "extra/cat/c.png"], ["train/, val/", "extra/", "unlabeled/"]),
        ([*within("train"), "boat/cat/b.png"], ["train/", "boat/", "rename train/"]),
        ([*within("train", "valid"), "loose.png"], ["train/, valid/", "(loose.png)", "move"]),
        ([*within("Train"), "loose.png"], ["Train/", "(loose.png)"]),
        ([*within("train", "training")], ["train/ and training/", "merge"]),
        ([*within("train", "val", "dev")], ["dev/ and val/", "merge"]),
        ([*within("Train", "train", "test")], ["Train/ and train/"]),
        ([*within("val", "test")], ["test/, val/", "no train/", "folder:{}/test"]),
        (within("imagenet/train", "imagenet/val"), ["train/, val/", "use folder:{}/imagenet"]),
        ([*within("test")], ["test/", "no train/ or unlabeled/", "folder:{}/test"]),
    ],
)
def test_mixtures_are_refused_in_one_line(tmp_path, paths, named):
    write(tmp_path, *paths)
    with pytest.raises(UserError) as error:
        load(tmp_path)
    message = str(error.value)
    assert f"folder:{tmp_path}" in message
    assert "\n" not in message
    for part in named:
        assert part.format(tmp_path) in message


def test_class_folders_may_have_a_subfolder_that_is_named_as_a_part(tmp_path):
    write(tmp_path, "vehicles/boat/a.png", "vehicles/train/b.png", "pets/cat/c.png")
    write(tmp_path, "pets/test/d.png")
    assert load(tmp_path).class_names == ["pets", "vehicles"]


def test_folders_without_images_are_no_mixture(tmp_path):
    write(tmp_path, *within("train", "val"), "annotations/a.xml", "logs/")
    source = load(tmp_path)
    assert parts(source, tmp_path)[2] == within("val")
    assert "2 folders without images: annotations/, logs/" in source.summary


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (["a.png", "b.png"], "the images are not in class folders"),
        (["only/a.png", "only/b.png"], "there is only one class folder, only/"),
        ([*CLASSES, "loose.png"], "loose.png is not in a class folder"),
        (["train/a.png", "val/c.png"], "the images are not in class folders"),
        (["train/a.png", *within("val")], "train/a.png is not in a class folder"),
        # As ImageNet is distributed.
        ([*within("train"), "val/c.png"], "val/c.png is not in a class folder"),
        (["train/b.png", "train/cat/a.png", "val/cat/c.png"], "train/b.png is not in a class"),
        (["train/cat/a.png", "val/cat/c.png"], "there is only one class folder, cat/"),
        (
            [*within("train"), *within("val"), "val/emu/c.png"],
            "val/ has images of the class 'emu', but train/ has none",
        ),
        (
            [*within("train", "val"), "train/emu/", "val/emu/c.png"],
            "val/ has images of the class 'emu'",
        ),
        (["train/cat/a.png", "val/dog/c.png"], "val/ has images of the class 'dog', but train/"),
    ],
)
def test_pre_training_needs_no_labels_and_an_evaluation_says_why_there_are_none(
    tmp_path, paths, reason
):
    write(tmp_path, *paths)
    source = load(tmp_path)
    for_training = [path for path in paths if not path.startswith("val/") and path[-1] != "/"]
    assert parts(source, tmp_path)[0] == sorted(for_training)
    assert not source.has_labels
    assert source.labels is None
    assert source.class_names is None
    assert f"no labels, because {reason}" in source.summary
    with pytest.raises(UserError, match="has no labels") as error:
        require_two_labeled_parts(source)
    assert f"because {reason}" in str(error.value)


def test_class_without_test_images_is_accepted(tmp_path):
    write(tmp_path, *within("train"), "val/dog/c.png")
    source = load(tmp_path)
    assert source.class_names == ["cat", "dog"]
    assert source.labels.tolist() == [0, 1, 1]


def test_nested_class_folders(tmp_path):
    write(tmp_path, "train/dog/old/2019/a.png", "train/cat/cat/b.png", "val/cat/dog/c.png")
    assert label_names(load(tmp_path), tmp_path) == {
        "train/dog/old/2019/a.png": "dog",
        "train/cat/cat/b.png": "cat",
        "val/cat/dog/c.png": "cat",
    }


@pytest.mark.parametrize("part", ["", "train/"])
def test_empty_class_folders_are_named(tmp_path, part):
    write(tmp_path, *[f"{part}{path}" for path in CLASSES], f"{part}emu/", f"{part}fox/a.txt")
    source = load(tmp_path)
    assert source.class_names == ["cat", "dog"]
    assert f"2 folders without images: {part}emu/, {part}fox/" in source.summary


def test_summary_of_class_folders(tmp_path):
    write(tmp_path, *[f"{letter}/{number}.png" for letter in "abcdefg" for number in range(3)])
    source = load(tmp_path)
    assert source.summary.splitlines() == [
        f"folder:{tmp_path}: 21 images in 7 classes: a, b, c, d, e, ...",
        f"pre-training uses 21 of them; an evaluation trains on {len(source.train)} and tests on "
        f"{len(source.test)} held-out images, which pre-training sees too",
    ]


@pytest.mark.parametrize(
    "stray",
    ["LICENSE", "README", "notes.txt", "a.svg", "list.2019", "empty", "Thumbs.db", "no suffix."],
)
def test_stray_files_have_no_vote(tmp_path, stray):
    write(tmp_path, *CLASSES, stray)
    if stray == "empty":
        (tmp_path / stray).write_bytes(b"")
    source = load(tmp_path)
    assert source.class_names == ["cat", "dog"]
    assert source.ignored == [f"{tmp_path}/{stray}"]
    assert f"({stray})" in source.summary
    split = tmp_path / "split"
    write(split, *within("train", "val"), stray)
    assert parts(load(split), split)[2] == within("val")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("name", ["n01440764_10026", "photo.jpg_large", "v1.2", "cat.JPG~"])
def test_files_without_a_known_suffix_are_images_if_they_begin_like_one(
    tmp_path, image_format, name
):
    image = Image.fromarray(PHOTO[:16, :24])
    image.save(tmp_path / name, image_format)
    source = load(tmp_path)
    assert paths_of(source, tmp_path, range(source.size)) == [name]
    assert source.read(tf.constant(0, tf.int64)).shape == [16, 24, 3]


@pytest.mark.parametrize(
    "suffix",
    [
        "jpg",
        "jpeg",
        "jpe",
        "jfif",
        "pjpeg",
        "mpo",
        "JPG",
        "Jfif",
        "png",
        "PNG",
        "bmp",
        "gif",
        "GIF",
        "webp",
        "WebP",
    ],
)
def test_suffixes_of_images(tmp_path, suffix):
    formats = {"png": "PNG", "bmp": "BMP", "gif": "GIF", "webp": "WEBP", "mpo": "MPO"}
    image_format = formats.get(suffix.lower(), "JPEG")
    first, second = Image.fromarray(PHOTO[:16, :24]), Image.fromarray(PHOTO[100:116, :24])
    # A file in the MPO format is a JPEG file with several images.
    several = {"save_all": True, "append_images": [second]} if image_format == "MPO" else {}
    path = tmp_path / f"image.{suffix}"
    first.save(path, image_format, **several)
    source = load(tmp_path)
    image = source.read(tf.constant(0, tf.int64)).numpy().astype(int)
    with Image.open(path) as expected:
        difference = np.abs(image - np.asarray(expected.convert("RGB")))
    # Decoders of lossy formats differ a little.
    assert difference.max() <= (4 if image_format in ("JPEG", "MPO", "WEBP") else 0)


def test_ignored_files_are_counted_by_suffix(tmp_path):
    write(tmp_path, "a.png", *[f"{n:02}.SVG" for n in range(10)], "b.txt", "c.txt", "LICENSE")
    source = load(tmp_path)
    assert (
        "ignored 13 files: 10 .svg, 2 .txt, 1 without a known suffix (00.SVG, 01.SVG, 02.SVG, ...)"
    ) in source.summary.splitlines()
    assert len(source.ignored) == 13


def test_error_without_images_says_what_is_there(tmp_path):
    write(tmp_path, "a.svg", "b.svg")
    with pytest.raises(UserError, match=r"no image file \(\.bmp, .*\.mpo.*ignored 2 files: 2 .svg"):
        load(tmp_path)


@pytest.mark.parametrize(
    "hidden", [".DS_Store", ".thumbnails/a.png", "cat/.cache/a.png", "._a.png"]
)
def test_hidden_files_and_folders_are_left_out(tmp_path, hidden):
    write(tmp_path, *CLASSES, hidden)
    source = load(tmp_path)
    assert paths_of(source, tmp_path, range(source.size)) == list(CLASSES)
    assert source.ignored == []


@pytest.mark.parametrize("folder", ["__MACOSX", "cat/@eaDir", "lost+found"])
def test_folders_of_the_system_are_left_out(tmp_path, folder):
    write(tmp_path, *CLASSES, f"{folder}/cat/a.png")
    source = load(tmp_path)
    assert paths_of(source, tmp_path, range(source.size)) == list(CLASSES)
    assert f"{folder}/ (of the operating system)" in source.summary


def test_special_files_are_ignored_and_not_opened(tmp_path):
    write(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    assert "ignored 2 files: 2 special files" in load(tmp_path).summary


def test_remote_files_without_suffix_are_looked_at(tmp_path):
    write(tmp_path, "image.png")
    root = "ram://test_layouts"
    tf.io.gfile.makedirs(f"{root}/cat")
    tf.io.gfile.copy(str(tmp_path / "image.png"), f"{root}/cat/image")
    with tf.io.gfile.GFile(f"{root}/LICENSE", "w") as file:
        file.write("Permission is hereby granted")
    source = load(root)
    assert [source.describe(index) for index in range(source.size)] == [f"{root}/cat/image"]
    assert source.ignored == [f"{root}/LICENSE"]


# Links.


def test_loops_are_skipped_and_named(tmp_path):
    write(tmp_path / "root", *CLASSES)
    (tmp_path / "root" / "cat" / "again").symlink_to(tmp_path / "root" / "cat")
    (tmp_path / "root" / "all").symlink_to("..")
    (tmp_path / "root" / "self").symlink_to("self")
    source = load(tmp_path / "root")
    assert paths_of(source, tmp_path / "root", range(source.size)) == list(CLASSES)
    assert source.class_names == ["cat", "dog"]
    assert "all/ (a link to a folder that contains it), cat/again/ (a link to cat/)" in (
        source.summary
    )
    assert "1 broken links (self)" in source.summary


def test_loop_outside_of_the_folder(tmp_path):
    write(tmp_path / "elsewhere", "deep/a.png")
    (tmp_path / "elsewhere" / "deep" / "up").symlink_to(tmp_path / "elsewhere")
    write(tmp_path / "root", "cat/c.png")
    (tmp_path / "root" / "dog").symlink_to(tmp_path / "elsewhere")
    source = load(tmp_path / "root")
    assert paths_of(source, tmp_path / "root", range(source.size)) == [
        *["cat/c.png", "dog/deep/a.png"]
    ]
    assert "dog/deep/up/ (the same folder as dog/)" in source.summary


def test_folder_is_read_once_and_at_its_own_path(tmp_path):
    write(tmp_path, *CLASSES)
    (tmp_path / "a_link").symlink_to("cat")
    source = load(tmp_path)
    assert paths_of(source, tmp_path, range(source.size)) == list(CLASSES)
    assert "a_link/ (a link to cat/)" in source.summary
    assert source.ignored == [f"{tmp_path}/a_link/"]


def test_second_of_two_links_to_one_folder_is_named(tmp_path):
    write(tmp_path / "elsewhere", "a.png")
    write(tmp_path / "root", "cat/c.png")
    for name in ("dog", "emu"):
        (tmp_path / "root" / name).symlink_to(tmp_path / "elsewhere")
    source = load(tmp_path / "root")
    assert paths_of(source, tmp_path / "root", range(source.size)) == ["cat/c.png", "dog/a.png"]
    assert "emu/ (the same folder as dog/)" in source.summary


def test_links_to_hidden_folders_and_to_files_are_followed(tmp_path):
    write(tmp_path, ".store/cat/a.png", "dog/b.png", ".store/c.png")
    (tmp_path / "cat").symlink_to(".store/cat")
    (tmp_path / "dog" / "c.png").symlink_to("../.store/c.png")
    source = load(tmp_path)
    assert paths_of(source, tmp_path, range(source.size)) == ["cat/a.png", "dog/b.png", "dog/c.png"]
    assert source.ignored == []


def test_links_to_files_that_are_read_themselves_are_named(tmp_path):
    write(tmp_path, "cat/a.png", "cat/b.png", "notes.txt")
    (tmp_path / "newest.png").symlink_to("cat/b.png")
    # The name of the link says that the file is an image.
    (tmp_path / "dog.png").symlink_to("notes.txt")
    source = load(tmp_path)
    found = paths_of(source, tmp_path, range(source.size))
    assert found == ["cat/a.png", "cat/b.png", "dog.png"]
    assert "1 links to files below this folder" in source.summary
    assert f"{tmp_path}/newest.png" in source.ignored


def test_further_links_to_a_file_are_named(tmp_path):
    write(tmp_path / "elsewhere", "c.png")
    write(tmp_path / "root", "cat/a.png", "dog/b.png")
    for name in ("cat", "dog"):
        (tmp_path / "root" / name / "link.png").symlink_to(tmp_path / "elsewhere" / "c.png")
    source = load(tmp_path / "root")
    found = paths_of(source, tmp_path / "root", range(source.size))
    assert found == ["cat/a.png", "cat/link.png", "dog/b.png"]
    assert "1 further links to the same file (dog/link.png)" in source.summary


def test_file_of_a_linked_folder_is_read_once_after_a_link_to_it(tmp_path):
    write(tmp_path / "store", "cats/0.png", "cats/1.png")
    write(tmp_path / "root", "x/a.png")
    (tmp_path / "root" / "x" / "0.png").symlink_to(tmp_path / "store" / "cats" / "0.png")
    (tmp_path / "root" / "z").symlink_to(tmp_path / "store" / "cats")
    source = load(tmp_path / "root")
    found = paths_of(source, tmp_path / "root", range(source.size))
    assert found == ["x/0.png", "x/a.png", "z/1.png"]
    assert "1 further links to the same file (z/0.png)" in source.summary


def test_file_of_a_linked_folder_is_read_once_before_links_to_it(tmp_path):
    write(tmp_path / "store", "cats/0.png", "cats/1.png")
    write(tmp_path / "root", "x/a.png")
    (tmp_path / "root" / "a").symlink_to(tmp_path / "store" / "cats")
    (tmp_path / "root" / "x" / "0.png").symlink_to(tmp_path / "store" / "cats" / "0.png")
    (tmp_path / "store" / "cats" / "newest.png").symlink_to("1.png")
    source = load(tmp_path / "root")
    found = paths_of(source, tmp_path / "root", range(source.size))
    assert found == ["a/0.png", "a/1.png", "x/a.png"]
    assert "2 further links to the same file (a/newest.png, x/0.png)" in source.summary


def test_links_that_are_not_read_hide_no_image(tmp_path):
    write(tmp_path / "store", "0.png", "1.png", "2.png", ".3.png")
    write(tmp_path / "root", "cat/a.png", "dog/b.png", "run/metrics.jsonl", "run/config.json")
    (tmp_path / "root" / "cat" / "0.txt").symlink_to(tmp_path / "store" / "0.png")
    (tmp_path / "root" / "cat" / "0.png").symlink_to(tmp_path / "store" / "0.png")
    (tmp_path / "root" / "run" / "1.png").symlink_to(tmp_path / "store" / "1.png")
    (tmp_path / "root" / "stored").symlink_to(tmp_path / "store")
    (tmp_path / "root" / "z.png").symlink_to(tmp_path / "store" / ".3.png")
    source = load(tmp_path / "root")
    found = paths_of(source, tmp_path / "root", range(source.size))
    names = ["cat/0.png", "cat/a.png", "dog/b.png", "stored/1.png", "stored/2.png", "z.png"]
    assert found == names


@pytest.mark.parametrize("is_reversed", [False, True])
def test_first_of_several_links_is_read_in_whatever_order_a_folder_is_listed(
    tmp_path, monkeypatch, is_reversed
):
    write(tmp_path / "elsewhere", "c.png")
    write(tmp_path / "root", "a.png")
    for name in ("b.png", "d.png"):
        (tmp_path / "root" / name).symlink_to(tmp_path / "elsewhere" / "c.png")
    scan = os.scandir

    def ordered(path):
        entries = sorted(scan(path), key=lambda entry: entry.name, reverse=is_reversed)
        return contextlib.nullcontext(entries)

    monkeypatch.setattr(os, "scandir", ordered)
    source = load(tmp_path / "root")
    found = paths_of(source, tmp_path / "root", range(source.size))
    assert found == ["a.png", "b.png"]


def test_broken_links_are_named(tmp_path):
    write(tmp_path, *CLASSES)
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    source = load(tmp_path)
    assert source.class_names == ["cat", "dog"]
    assert source.ignored == [f"{tmp_path}/gone.png"]
    assert "1 broken links (gone.png)" in source.summary


def test_many_levels_of_folders(tmp_path):
    path = "d/" * 1500 + "a.png"
    write(tmp_path, "b.png")
    parent = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=parent)
        child = os.open("d", os.O_RDONLY, dir_fd=parent)
        os.close(parent)
        parent = child
    with open(os.open("a.png", os.O_CREAT | os.O_WRONLY, dir_fd=parent), "wb") as file:
        file.write((tmp_path / "b.png").read_bytes())
    os.close(parent)
    try:
        source = load(tmp_path)
        assert paths_of(source, tmp_path, range(source.size)) == ["b.png", path]
    finally:
        # shutil.rmtree, which pytest uses, fails below a thousand levels.
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)


# What runs write.


def write_run(folder):
    write(folder, "config.json", "metrics.jsonl", "curves.png", "neighbours.png", "eval/knn.png")
    write(folder, "checkpoints/step-10.index", "checkpoints/a.png", "tensorboard/sprite.jpg")


@pytest.mark.parametrize("place", ["run", "runs/mine", "cat/run"])
def test_run_directories_are_skipped_and_named(tmp_path, place):
    write(tmp_path, *CLASSES)
    before = load(tmp_path)
    write_run(tmp_path / place)
    source = load(tmp_path)
    assert parts(source, tmp_path) == parts(before, tmp_path)
    assert source.class_names == ["cat", "dog"]
    assert f"{place}/ (a run directory)" in source.summary
    assert "without images" not in source.summary


def test_image_folder_may_be_a_run_directory_itself(tmp_path):
    write(tmp_path, *CLASSES)
    before = load(tmp_path)
    write_run(tmp_path)
    source = load(tmp_path)
    assert parts(source, tmp_path) == parts(before, tmp_path)
    assert "checkpoints/ (of the run in this folder)" in source.summary


def test_config_file_alone_makes_no_run_directory(tmp_path):
    write(tmp_path, *CLASSES, "dog/config.json")
    assert load(tmp_path).class_names == ["cat", "dog"]


@pytest.mark.parametrize(
    ("picture", "is_refused"),
    [
        ("images/views.png", True),
        ("images/cat/views.png", True),
        ("images/new/eval/knn.png", True),
        ("link/views.png", True),
        ("images/run/views.png", False),
        ("images/run/eval/knn.png", False),
        ("images_of_views/views.png", False),
        ("views.png", False),
    ],
)
def test_picture_that_would_become_an_image_is_refused(tmp_path, picture, is_refused):
    write(tmp_path / "images", *CLASSES)
    write_run(tmp_path / "images" / "run")
    (tmp_path / "link").symlink_to("images")
    path = tmp_path / picture
    if is_refused:
        with pytest.raises(UserError, match=f"{path} would be one of the images.*another folder"):
            require_outside(f"folder:{tmp_path}/images", str(path))
    else:
        require_outside(f"folder:{tmp_path}/images", str(path))


def test_pictures_of_a_run_in_the_image_folder_itself(tmp_path):
    write_run(tmp_path)
    require_outside(f"folder:{tmp_path}", str(tmp_path / "neighbours.png"))
    require_outside(f"folder:{tmp_path}", str(tmp_path / "eval" / "knn.png"))
    with pytest.raises(UserError, match="views.png would be"):
        require_outside(f"folder:{tmp_path}", str(tmp_path / "views.png"))


def test_other_sources_accept_every_picture():
    require_outside("photos", "views.png")
    require_outside("idx:/data", "/data/views.png")
    require_outside("folder:gs://bucket/images", "/data/views.png")
