"""The commands and the code of docs/examples, with a network that was trained for a few steps."""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import PIL.Image
import pytest

import moco_tf
from tests import pages
from tests.command import TINY

pytestmark = pytest.mark.slow

SIZE = 32

# Appended to the code of a page that runs in its own process: save the variables for the test.
SAVE_VARIABLES = """
import json, sys
saved = {name: globals()[name] for name in %r}
saved["imported"] = sorted(sys.modules)
json.dump(saved, open("saved.json", "w"), default=lambda value: value.tolist())
"""


def run_without_moco_tf(page, *names):
    """Run the code of a page in its own process, and return some of its variables."""
    code = "\n".join([*pages.code_blocks(page, "python"), SAVE_VARIABLES % (names,)])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    with open("saved.json") as file:
        variables = json.load(file)
    assert "moco_tf" not in variables["imported"]
    return variables


def central_view(path, round_corner):
    """Return the central view of an image, decoded and resized by Pillow, `[SIZE, SIZE, 3]`.

    Args:
        path: Path of the image.
        round_corner: Function that makes the coordinates of the view's corner integers.
    """
    image = PIL.Image.open(path).convert("RGB")
    sides = [round(SIZE * 256 / 224) * side // min(image.size) for side in image.size]
    image = image.resize(sides, PIL.Image.Resampling.BILINEAR)
    left, top = (round_corner((side - SIZE) / 2) for side in sides)
    return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)), np.float32)


def expected_features(paths, round_corner):
    images = np.stack([central_view(path, round_corner) for path in paths])
    return moco_tf.load_backbone("runs/mine").predict(images, verbose=0)


def assert_similar(features, expected):
    """Decoders and resizing differ by about one gray level; images differ by far more."""
    scale = np.linalg.norm(expected - expected.mean(axis=0), axis=1).mean()
    assert np.linalg.norm(np.asarray(features) - expected, axis=1).max() < 0.2 * scale


def photograph(path):
    """Return the name of the photograph that a piece was cut from."""
    return re.match(r"photos/(\w+?)_\d", path)[1]


def readable_photos():
    return sorted(f"photos/{name}" for name in os.listdir("photos") if name != "damaged.jpg")


def labeled_images(part):
    """Return the sorted paths of a part of the labeled images, and their classes."""
    paths = sorted(pathlib.Path("labeled", part).glob("*/*"))
    return paths, [path.parent.name for path in paths]


def is_figure(path):
    with PIL.Image.open(path) as image:
        return image.format == "PNG" and np.ptp(np.asarray(image.convert("L"))) > 100


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory with the sample photos, a run, its features and the exported backbone."""
    directory = tmp_path_factory.mktemp("examples")
    with contextlib.chdir(directory):
        make_photos, train = pages.commands("examples/README.md")
        pages.run_command(make_photos)
        pages.run_command(train, *TINY[1:], "--config.epochs=12")
        [embed] = pages.commands("examples/features.md")
        pages.run_command(embed)
        [export] = pages.commands("examples/fine_tuning.md")
        pages.run_command(export)
    return directory


@pytest.fixture(autouse=True)
def _change_directory(directory, monkeypatch):
    monkeypatch.chdir(directory)
    monkeypatch.setenv("MPLBACKEND", "agg")


@pytest.mark.nightly
def test_sample_photos_are_as_described():
    assert len({photograph(path) for path in readable_photos()}) == 12
    copies = [p for p in readable_photos() if re.search(r"_\d+_(encoded|smaller|cropped)", p)]
    assert len(copies) == 30
    train_paths, train_labels = labeled_images("train")
    test_paths, _ = labeled_images("test")
    _, counts = np.unique(train_labels, return_counts=True)
    assert counts.tolist() == [25] * 8
    assert not {path.parts[-2:] for path in train_paths} & {path.parts[-2:] for path in test_paths}


def test_existing_photos_are_not_overwritten():
    make_photos, _ = pages.commands("examples/README.md")
    with pytest.raises(AssertionError, match="photos exists: run this script in another folder"):
        pages.run_command(make_photos)


def test_features_example_writes_a_frame():
    variables, output = pages.run_code("examples/features.md")
    frame = variables["frame"]
    photos = readable_photos()
    assert frame.index.tolist() == photos
    assert frame.shape == (len(photos), 64)
    assert (frame.dtypes == np.float32).all()
    assert f"{len(photos)} images with 64 features each\n" in output
    assert "cannot be read: photos/damaged.jpg\n" in output
    assert_similar(frame.to_numpy(), expected_features(photos, round))


@pytest.mark.nightly
def test_search_example_finds_pieces_of_the_same_photograph():
    [embed] = pages.commands("examples/search.md")
    pages.run_command(embed)
    variables = run_without_moco_tf(
        "examples/search.md",
        *("paths", "features", "queries", "neighbors", "same", "chance", "recall", "found"),
    )
    photos = readable_photos()
    assert variables["paths"] == photos
    expected = expected_features(photos, round)
    features = np.array(variables["features"], np.float64)
    assert_similar(features, expected / np.linalg.norm(expected, axis=1, keepdims=True))
    assert len(variables["queries"]) == 6
    for query, neighbors in zip(variables["queries"], variables["neighbors"], strict=True):
        assert neighbors[0] == query
    assert is_figure("search.png")

    similarities = features @ features.T - 2 * np.eye(len(features))
    names = np.array([photograph(path) for path in photos])
    same = names[np.argsort(-similarities)[:, :5]] == names[:, np.newaxis]
    assert variables["same"] == pytest.approx(same.mean(), abs=0.002)
    assert variables["same"] > 4 * variables["chance"]

    # A million vectors: each finds itself first.
    assert [row[0] for row in variables["found"]] == list(range(1000))
    assert variables["recall"] > 0.9


@pytest.mark.nightly
def test_page_about_production_computes_the_features_of_the_backbone(directory):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    _, export, _ = pages.commands("deployment.md")
    if not os.path.exists("backbone.onnx"):
        pages.run_command(export)
    # The last one is about a classifier: tests/backbones/test_classifier.py.
    *blocks, _ = pages.code_blocks("deployment.md", "python")
    if importlib.util.find_spec("openvino") is None:
        blocks.pop()
    variables = {}
    for block in blocks:
        exec(block, variables)
    expected = moco_tf.load_backbone("runs/mine").predict(variables["views"], verbose=0)
    for name in ("features", "same_features")[: len(blocks)]:
        np.testing.assert_allclose(variables[name], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.nightly
def test_fine_tuning_example_exports_an_accurate_classifier():
    variables = run_without_moco_tf(
        "examples/fine_tuning.md", "CLASSES", "accuracies", "test_images"
    )
    paths, labels = labeled_images("test")
    assert variables["CLASSES"] == sorted(set(labels))
    images = np.array(variables["test_images"], np.float32)
    # The page decodes and resizes with TensorFlow, which differs from Pillow by a gray level or so.
    expected = np.stack([central_view(path, int) for path in paths])
    assert np.abs(images - expected).mean() < 2
    classifier = keras.layers.TFSMLayer("classifier", call_endpoint="serve")
    scores = classifier(images).numpy()
    np.testing.assert_allclose(classifier(images[:9]).numpy(), scores[:9], rtol=1e-3, atol=1e-3)
    predictions = np.array(variables["CLASSES"])[scores.argmax(axis=1)]
    accuracy = np.mean(predictions == np.array(labels))
    # One of the 267 predictions may change with the rounding of another batch size.
    assert accuracy == pytest.approx(variables["accuracies"]["all layers"], abs=1.5 / len(labels))
    assert min(variables["accuracies"].values()) > 0.5  # Chance level is 0.125.


def test_fit_cannot_build_an_optimizer_for_a_saved_model():
    """If this fails, Keras has fixed it, and fine_tuning.md no longer needs `optimizer.build`."""
    backbone = keras.layers.TFSMLayer("backbone", call_endpoint="serve")
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), backbone])
    model.compile(keras.optimizers.Adam(), "mse")
    with pytest.raises(ValueError, match="not a valid scope name"):
        model.fit(np.zeros([2, SIZE, SIZE, 3], np.float32), np.zeros([2, 64]), verbose=0)


@pytest.mark.nightly
def test_deduplication_example_finds_exactly_the_planted_copies(directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink(directory / "runs", "runs")
    copies_of = plant_copies(directory / "photos")
    variables, output = pages.run_code("examples/deduplication.md")
    expected = sorted([original, *copies] for original, copies in copies_of.items())
    assert sorted(variables["groups"]) == expected
    for group in expected:
        assert " ".join(group) in output
    assert is_figure("distances.png")
    assert is_figure("duplicates.png")


# Which copies of which photos to plant.
PLANTED = {0: ["sent.jpg", "small.png"], 20: ["small.png"], 40: ["trimmed.png"]}


def plant_copies(pieces):
    """Write five pieces of each photograph to photos/, and copies of some of them.

    The copies are such as an editor or a messenger makes.

    Returns:
        `{path of the original: [paths of its copies]}`.
    """
    os.mkdir("photos")
    chosen = {}
    for path in sorted(pieces.glob("*_[0-9][0-9][0-9].*")):
        chosen.setdefault(photograph(f"photos/{path.name}"), []).append(path)
    chosen = [path for paths in chosen.values() for path in paths[:: len(paths) // 5][:5]]
    copies_of = {}
    for number, path in enumerate(chosen):
        shutil.copy(path, "photos")
        image = PIL.Image.open(path).convert("RGB")
        width, height = image.size
        copies = {
            "sent.jpg": image,
            "small.png": image.resize((width * 4 // 5, height * 4 // 5)),
            "trimmed.png": image.crop((1, 1, width - 1, height - 1)),
        }
        for name in PLANTED.get(number, []):
            copy = f"photos/{path.stem}_{name}"
            copies[name].save(copy)  # JPEG has Pillow's default quality, 75.
            copies_of.setdefault(f"photos/{path.name}", []).append(copy)
    return copies_of


@pytest.mark.nightly
def test_video_search_example_finds_the_shots():
    *embed, make_videos = pages.commands("examples/video_search.md")
    pages.run_command(make_videos)
    for command in embed:
        pages.run_command(command)
    variables = run_without_moco_tf("examples/video_search.md", "results", "frames", "times")
    assert len(variables["frames"]) == 3 * 40
    assert max(variables["times"]) == 7.8
    assert len(variables["results"]) == 6
    hits = 0
    for query, found in variables["results"].items():
        video, start, _ = pathlib.Path(query).stem.split("_")
        best, seconds = found[0]
        hits += best == f"videos/{video}.mp4" and int(start) <= seconds < int(start) + 2
    assert hits >= 5
    assert is_figure("video_search.png")
