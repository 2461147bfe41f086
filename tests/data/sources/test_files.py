"""Lists of image files, against Pillow and the images that were written."""

import os
import zlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from moco_tf import run_data
from moco_tf.data import sources
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.recipes import Recipe
from moco_tf.data.sources import files
from moco_tf.errors import UserError
from tests.images import crops

COUNT = 40


@pytest.fixture(scope="module")
def images():
    return crops(COUNT, 20)


@pytest.fixture
def folder(images, tmp_path):
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(images):
        PIL.Image.fromarray(image).save(tmp_path / "photos" / f"{number:02}.png")
    return tmp_path


def write_list(folder, lines, end="\n"):
    path = folder / "list.txt"
    path.write_bytes(end.join(lines).encode() + end.encode())
    return sources.load(f"files:{path}")


def read(source, index):
    return source.read(tf.constant(index, tf.int64)).numpy()


def test_images_are_those_of_the_lines_in_their_order(folder, images):
    order = np.random.default_rng(0).permutation(COUNT)
    source = write_list(folder, [f"photos/{number:02}.png" for number in order])
    assert source.size == COUNT
    for index, number in enumerate(order):
        np.testing.assert_array_equal(read(source, index), images[number])
        assert source.describe(index) == f"{folder}/photos/{number:02}.png"
    assert source.labels is None
    assert "no labels, because no line of the list has a label" in source.summary


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_labels_follow_a_tab(folder, images, absolute, end):
    start = f"{folder}/" if absolute else ""
    lines = [f"{start}photos/{n:02}.png\t{'dog' if n % 3 else 'big cat'}" for n in range(COUNT)]
    source = write_list(folder, ["\ufeff" + lines[0], "", *lines[1:], "   "], end)
    assert source.class_names == ["big cat", "dog"]
    assert source.labels.tolist() == [int(n % 3 > 0) for n in range(COUNT)]
    np.testing.assert_array_equal(read(source, 0), images[0])
    assert source.summary.splitlines()[0].endswith("40 images in 2 classes: big cat, dog")


def test_a_fifth_is_held_out_by_its_path(folder):
    lines = [f"photos/{number:02}.png" for number in range(COUNT)]
    source = write_list(folder, lines)
    held_out = [zlib.crc32(line.encode()) % 5 == 0 for line in lines]
    assert source.test.tolist() == np.flatnonzero(held_out).tolist()
    assert source.train.tolist() == np.flatnonzero(np.logical_not(held_out)).tolist()
    assert source.pretrain.tolist() == list(range(COUNT))


@pytest.mark.parametrize(
    "second",
    [
        "./photos/{}",
        "photos//{}",
        "photos/../photos/{}",
        "{folder}/photos/{}",
        "{folder}//photos/./{}",
        "../{folder.name}/photos/{}",
        "photos/{}",
    ],
)
def test_file_in_two_spellings_counts_once(folder, second):
    lines = [f"photos/{number:02}.png" for number in range(COUNT)]
    others = [second.format(f"{number:02}.png", folder=folder) for number in range(COUNT)]
    expected = write_list(folder, lines)
    source = write_list(folder, lines + others)
    assert source.size == COUNT
    assert (source.train.tolist(), source.test.tolist()) == (
        expected.train.tolist(),
        expected.test.tolist(),
    )
    assert f"ignored: {COUNT} lines repeat files that the list names before" in source.summary
    assert "repeat" not in expected.summary


def test_a_fifth_does_not_depend_on_the_spelling(folder):
    lines = [f"photos/{number:02}.png" for number in range(COUNT)]
    expected = write_list(folder, lines).test.tolist()
    for start in ("./", f"{folder}/", "photos/../"):
        assert write_list(folder, [f"{start}{line}" for line in lines]).test.tolist() == expected


@pytest.mark.parametrize(("label", "shown"), [("\tdog", "'dog'"), ("", "none")])
def test_file_with_two_labels_is_refused(folder, label, shown):
    lines = ["photos/00.png\tcat", "", "photos/01.png\tcat", f"./photos/00.png{label}"]
    with pytest.raises(UserError) as error:
        write_list(folder, lines)
    assert (
        f"lines 1 and 4 are the same file, ./photos/00.png, with different labels, 'cat' and "
        f"{shown}: correct one"
    ) in str(error.value)


def test_missing_files_are_counted_at_the_start(folder, monkeypatch):
    lines = [f"photos/{number:02}.png" for number in range(COUNT)]
    assert "warning" not in write_list(folder, lines).summary
    (folder / "photos" / "07.png").unlink()
    expected = f"warning: 1 of the 40 files does not exist ({folder}/photos/07.png)"
    assert expected in write_list(folder, lines).summary.splitlines()
    monkeypatch.setattr(files, "MAX_LOOKED_FOR", 10)
    for number in range(4, COUNT):
        (folder / "photos" / f"{number:02}.png").unlink(missing_ok=True)
    names = ", ".join(f"{folder}/photos/{number:02}.png" for number in (4, 8, 12))
    expected = f"warning: 9 of 10 files that were looked for do not exist ({names}, ...)"
    assert expected in write_list(folder, lines).summary.splitlines()


def test_warning_of_missing_files_says_that_variables_are_not_expanded(folder, monkeypatch):
    monkeypatch.setenv("PHOTOS", str(folder / "photos"))
    path = folder / "list.txt"
    path.write_text("photos/00.png\n$PHOTOS/01.png\n")
    warning = sources.load(f"files:{path}").notes[0]
    assert f"1 of the 2 files does not exist ({folder}/$PHOTOS/01.png); ~ and env" in warning
    path.write_text("photos/00.png\nmissing.png\n")
    assert "expanded" not in sources.load(f"files:{path}").notes[0]


def test_images_without_a_label_are_for_pretraining_only(folder):
    lines = [f"photos/{n:02}.png" + ("" if n % 2 else f"\t{n % 4}") for n in range(COUNT)]
    source = write_list(folder, lines)
    assert source.class_names == ["0", "2"]
    assert source.labels.tolist() == [-1 if n % 2 else n % 4 // 2 for n in range(COUNT)]
    assert sorted([*source.train, *source.test]) == list(range(0, COUNT, 2))
    assert len(source.pretrain) == COUNT
    assert "20 images without a label are for pre-training only" in source.summary
    assert source.collection_summary == (
        f"{source.name}: 40 images in 2 classes: 0, 2\n20 images have no label"
    )


@pytest.mark.parametrize(
    ("labels", "class_names"),
    [
        (["10", "9", "-1", "10"], ["9", "10"]),
        (["10", "9", "x", "10"], ["10", "9", "x"]),
        (["01", "1", "01", "1"], ["01", "1"]),
        (["é", "\u202ez", "é", "é"], ["é", "\\u202ez"]),
    ],
)
def test_classes_are_in_order(folder, labels, class_names):
    source = write_list(folder, [f"photos/{n:02}.png\t{label}" for n, label in enumerate(labels)])
    assert source.class_names == class_names
    names = [*class_names, "-1"]
    shown = [names[label] for label in source.labels]
    assert shown == [label.replace("\u202e", "\\u202e") for label in labels]


def test_names_do_not_have_to_be_utf8(folder, images):
    name = os.fsdecode(b"photos/caf\xe9 .png")
    PIL.Image.fromarray(images[3]).save(folder / name)
    (folder / "list.txt").write_bytes(os.fsencode(name) + b"\n")
    source = sources.load(f"files:{folder}/list.txt")
    np.testing.assert_array_equal(read(source, 0), images[3])
    assert source.describe(0).endswith(r"photos/caf\xe9 .png")


def test_unreadable_files_are_replaced_and_named(folder):
    (folder / "photos" / "03.png").write_text("no image")
    source = write_list(folder, [*(f"photos/{n:02}.png" for n in range(10)), "photos/missing.png"])
    views = TwoViews(source, 16, Recipe(), 11, seed=0)
    [batch] = views.between(0, 1).as_numpy_iterator()
    assert batch[0].shape == (11, 16, 16, 3)
    assert views.unreadable == {3, 10}


def test_contents_are_the_lines(folder):
    lines = [f"photos/{number:02}.png" for number in (3, 1, 2)]
    contents = run_data.of_source(write_list(folder, lines)).contents
    assert contents == tuple(line.encode() for line in lines)
    labeled = [
        run_data.of_source(write_list(folder, [f"{line}\t{label}" for line in lines]))
        for label in ("cat", "dog")
    ]
    assert [data.contents[:3] for data in labeled] == [contents, contents]
    run_data.write(str(folder), labeled[0])
    run_data.require_same(str(folder), labeled[0], "files:list.txt")
    with pytest.raises(
        UserError,
        match="the labels of 'files:list.txt' have changed .*: 1 changed "
        r"\(labels in list.txt\): use another directory, or restore the labels",
    ):
        run_data.require_same(str(folder), labeled[1], "files:list.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lists no images: write the path of an image on each line"),
        (b"\n \n", "lists no images"),
        (
            b"a.jpg\tcat\tdog\n",
            "line 1 of .* is neither a path nor a path, a tab and a label: a.jp",
        ),
        (b"\n\tcat\n", "line 2 of .* is neither a path nor"),
        (b"\xff\xfea\0.\0", "is not a text file, because it has zero bytes"),
        (b"a.jpg\n", "there is no file '{folder}/a.jpg': correct the paths; relative ones start"),
        (b"a.jpg\nb.jpg\n", "no file '{folder}/a.jpg', nor any of the first 2 in the list: "),
        (b"photos\n", "there is no file '{folder}/photos': "),
        (
            b"$HOME/a.jpg\n",
            r"no file '{folder}/\$HOME/a.jpg': .*; ~ and environment variables are ",
        ),
        (b"~/a.jpg\n", "~/a.jpg': .*; ~ and environment variables are not expanded in a list$"),
    ],
)
def test_mistakes_are_refused(folder, content, message):
    path = folder / "list.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message.format(folder=folder)) as error:
        sources.load(f"files:{path}")
    assert str(error.value).startswith(f"data source 'files:{path}': ")


def test_list_that_is_no_file_is_refused(folder):
    with pytest.raises(UserError, match=f"'{folder}' is a folder: use folder:{folder}"):
        sources.load(f"files:{folder}")
    with pytest.raises(UserError, match="there is no file '/none.txt'"):
        sources.load("files:/none.txt")
