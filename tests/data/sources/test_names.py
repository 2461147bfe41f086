"""Unusual names of files and classes: every image is read, and every name can be printed."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from moco_tf.data import sources
from moco_tf.errors import UserError
from moco_tf.evaluation.features import Features
from moco_tf.plots.features import plot_neighbors
from tests.data.sources.layouts import PHOTO

# Each name as bytes, and as it is shown.
NAMES = {
    b"caf\xe9": r"caf\xe9",
    "Käse".encode(): "Käse",
    b"$x^2$ costs $5": "$x^2$ costs $5",
    rb"\frac{$": r"\frac{$",
    b"two\nlines": r"two\nlines",
    b"\x1b[31mred\x1b[0m": r"\x1b[31mred\x1b[0m",
    "🐱👩\u200d🔬".encode(): "🐱👩\u200d🔬",
    "\u202egnp".encode(): r"\u202egnp",
    b"n" * 251: "n" * 251,
    b" spaces  ": " spaces  ",
    b"%s {0} #!&'\"": "%s {0} #!&'\"",
    b"a:b=c,d;e*f?[g]": "a:b=c,d;e*f?[g]",
    b"-rf": "-rf",
    b"<b>bold": "<b>bold",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a class and an image of each name; its own name is not UTF-8 either."""
    root = os.fsencode(tmp_path_factory.mktemp("names")) + b"/im\xe4ges $HOME"
    for number, name in enumerate(NAMES):
        os.makedirs(os.path.join(root, name))
        with open(os.path.join(root, name, name + b".png"), "wb") as file:
            Image.fromarray(PHOTO[number : number + 8, :8]).save(file, "PNG")
        with open(os.path.join(root, name, name + b".txt"), "wb"):
            pass
    return os.fsdecode(root)


@pytest.fixture(scope="module")
def source(folder):
    return sources.load(f"folder:{folder}")


def test_every_image_is_read_and_has_its_class(source):
    assert source.size == len(NAMES)
    images = {}
    for index in range(source.size):
        class_name = source.class_names[source.labels[index]]
        assert os.path.basename(source.describe(index)) == f"{class_name}.png"
        images[class_name] = source.read(tf.constant(index, tf.int64)).numpy()
    assert images.keys() == set(NAMES.values())
    for number, name in enumerate(NAMES.values()):
        np.testing.assert_array_equal(images[name], PHOTO[number : number + 8, :8])


def test_every_name_can_be_printed_on_one_line(source):
    described = [source.describe(index) for index in range(source.size)]
    names = [source.name, *source.class_names, *described, *source.ignored]
    assert len(source.ignored) == len(NAMES)
    for name in names:
        assert len(name.splitlines()) == 1
        assert "\x1b" not in name
        name.encode()
    assert len(source.summary.splitlines()) == 3
    assert r"im\xe4ges $HOME: 14 images in 14 classes: " in source.summary
    text = json.dumps(names, ensure_ascii=False)
    assert json.loads(text.encode()) == names


def test_names_are_plotted_as_they_are(source, tmp_path):
    """A `$` would start mathematics otherwise, and `\\frac{$` would be a syntax error in it."""
    features = np.eye(len(NAMES), dtype=np.float32)
    indices = np.arange(len(NAMES))
    part = Features(features, indices, source.labels, len(NAMES))
    path = plot_neighbors(str(tmp_path / "plot.png"), source, 8, part, part, rows=14, columns=2)
    with Image.open(path) as image:
        assert min(image.size) > 100


@pytest.mark.parametrize("location", [b"/no/caf\xe9\n", b"/no/\x1b[31m"])
def test_error_about_an_unusual_name_is_one_line(location):
    with pytest.raises(UserError) as error:
        sources.load(f"folder:{os.fsdecode(location)}")
    message = str(error.value)
    assert "there is no folder" in message
    assert "\n" not in message
    assert "\x1b" not in message
    message.encode()


def test_home_and_variables_are_expanded(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IMAGES", "images")
    (tmp_path / "images").symlink_to(folder)
    for name in ("folder:~/images", "folder:$HOME/${IMAGES}"):
        opened = sources.load(name)
        assert opened.name == f"folder:{tmp_path}/images"
        assert opened.size == len(NAMES)
    with pytest.raises(UserError, match="the environment variable NONE is not set"):
        sources.load("folder:$NONE/images")
    with pytest.raises(UserError, match="tfds_dir: the environment variable NONE is not set"):
        sources.load("tfds:mnist", tfds_dir="$NONE/data")
