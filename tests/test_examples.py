"""The worked examples of docs/examples as they stand there, run from their text on pieces of real
photographs, with a network that was trained for a few steps."""

import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import PIL.Image
import pytest

import moco_tf
from tests import in_process
from tests.command import ROOT, TINY

PAGES = ROOT / "docs" / "examples"
SIZE = 32

# After a page in a process of its own: what of it the test looks at.
KEEP = """
import json, sys
kept = {name: globals()[name] for name in %r}
kept["imported"] = sorted(sys.modules)
json.dump(kept, open("kept.json", "w"), default=lambda value: value.tolist())
"""


def blocks(page, language):
    text = (PAGES / f"{page}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run_commands(page, **more):
    """Runs what a page says to type, each script with what is given more for it."""
    for command in re.findall(r"^python (.*)$", "\n".join(blocks(page, "")), re.MULTILINE):
        script, *arguments = command.split()
        in_process.run(script, *arguments, *more.get(pathlib.Path(script).stem, ()))


def run_here(page):
    """Runs a page's code; returns its names and what it printed."""
    names, output = {}, io.StringIO()
    with contextlib.redirect_stdout(output):
        for code in blocks(page, "python"):
            exec(compile(code, f"{page}.md", "exec"), names)
    return names, output.getvalue()


def run_alone(page, *names):
    """Runs a page's code where there is no moco_tf in the folder; returns those of its names."""
    code = "\n".join([*blocks(page, "python"), KEEP % (names,)])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["MPLBACKEND"] = "agg"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    with open("kept.json") as file:
        kept = json.load(file)
    assert "keras" in kept["imported"] and "moco_tf" not in kept["imported"]
    return kept


def central(path, whole):
    """The centre of an image that Pillow has decoded and resized, cut at a corner made `whole` by
    that function: float32 `[SIZE, SIZE, 3]`."""
    image = PIL.Image.open(path).convert("RGB")
    sides = [round(SIZE * 256 / 224) * side // min(image.size) for side in image.size]
    image = image.resize(sides, PIL.Image.Resampling.BILINEAR)
    left, top = (whole((side - SIZE) / 2) for side in sides)
    return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)), np.float32)


def expected_features(paths, whole):
    images = np.stack([central(path, whole) for path in paths])
    return moco_tf.load_backbone("runs/mine").predict(images, verbose=0)


def assert_alike(found, expected):
    """Decoders and resizes differ by a grey level or so; images differ by far more."""
    scale = np.linalg.norm(expected - expected.mean(axis=0), axis=1).mean()
    assert np.linalg.norm(np.asarray(found) - expected, axis=1).max() < 0.2 * scale


def photograph(path):
    """What a piece was cut from."""
    return re.match(r"photos/(\w+?)_\d", path)[1]


def labelled(part):
    """The files of a part of the labelled images, in their order, each with its class."""
    return [(path, path.parent.name) for path in sorted(pathlib.Path("labelled", part).glob("*/*"))]


def is_picture(path):
    with PIL.Image.open(path) as image:
        return image.format == "PNG" and np.ptp(np.asarray(image.convert("L"))) > 100


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which the commands of the first page were typed: the sample photos, a run."""
    place = tmp_path_factory.mktemp("examples")
    (place / "configs").symlink_to(ROOT / "configs")
    with contextlib.chdir(place):
        run_commands("README", train=(*TINY[1:], "--config.epochs=2"))  # the page says which config
        run_commands("search")
    return place


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("MPLBACKEND", "agg")


def test_the_sample_photos_are_what_they_say():
    names = sorted(os.listdir("photos"))
    assert len({photograph(f"photos/{name}") for name in names if name != "damaged.jpg"}) == 12
    copies = [name for name in names if re.search(r"_\d+_(encoded|smaller|cropped)", name)]
    assert len(copies) == 30
    pieces = {part: labelled(part) for part in ("train", "test")}
    _, counts = np.unique([label for _, label in pieces["train"]], return_counts=True)
    assert counts.tolist() == [25] * 8
    names = {part: {path.parts[-2:] for path, _ in pieces[part]} for part in pieces}
    assert not names["train"] & names["test"]
    assert "photos exists" in in_process.run_mistake("docs/examples/sample_photos.py")


def test_a_frame_of_features():
    names, output = run_here("features")
    frame = pd.read_pickle("features.pkl")
    readable = sorted(f"photos/{name}" for name in os.listdir("photos") if name != "damaged.jpg")
    assert frame.index.tolist() == readable
    assert frame.shape == (len(readable), 64) and (frame.dtypes == np.float32).all()
    assert f"{len(readable)} images, 64 features of each\n" in output
    assert "cannot be read: photos/damaged.jpg\n" in output
    assert_alike(frame.to_numpy(), expected_features(readable, round))


def test_search_finds_pieces_of_the_same_photograph():
    found = run_alone("search", "paths", "features", "queries", "neighbours", "alike", "chance")
    readable = sorted(f"photos/{name}" for name in os.listdir("photos") if name != "damaged.jpg")
    assert found["paths"] == readable
    assert_alike(found["features"], expected_features(readable, int))
    for query, neighbours in zip(found["queries"], found["neighbours"], strict=True):
        assert readable[neighbours[0]] == query
    assert len(found["queries"]) == 6 and is_picture("search.png")

    features = np.array(found["features"], np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    similarities = features @ features.T - 2 * np.eye(len(features))
    sources = np.array([photograph(path) for path in readable])
    same = sources[np.argsort(-similarities)[:, :5]] == sources[:, np.newaxis]
    assert found["alike"] == pytest.approx(same.mean(), abs=0.002)
    assert found["alike"] > 4 * found["chance"]


def test_a_classifier_from_200_labels():
    found = run_alone("fine_tuning", "CLASSES", "accuracies")
    paths, labels = zip(*labelled("test"), strict=True)
    assert found["CLASSES"] == sorted({*labels})
    images = np.stack([central(path, int) for path in paths])
    classifier = keras.layers.TFSMLayer("classifier", call_endpoint="serve")
    scores = classifier(images).numpy()
    np.testing.assert_allclose(classifier(images[:9]).numpy(), scores[:9], rtol=1e-3, atol=1e-3)
    accuracy = np.mean(
        [found["CLASSES"][best] for best in scores.argmax(axis=1)] == np.array(labels)
    )
    assert accuracy == pytest.approx(found["accuracies"]["all layers"], abs=0.02)
    assert all(accuracy > 0.5 for accuracy in found["accuracies"].values())  # by chance 0.125


def test_left_to_fit_an_optimizer_refuses_the_names_of_a_saved_models_variables():
    """As the page says; where this fails, Keras has learnt it, and the page has a line too many."""
    backbone = keras.layers.TFSMLayer("backbone", call_endpoint="serve")
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), backbone])
    model.compile(keras.optimizers.Adam(), "mse")
    with pytest.raises(ValueError, match="not a valid scope name"):
        model.fit(np.zeros([2, SIZE, SIZE, 3], np.float32), np.zeros([2, 64]), verbose=0)


def test_planted_duplicates_are_found_and_no_others(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink(place / "runs", "runs")
    originals = plant_duplicates(place / "photos")
    names, output = run_here("deduplication")
    expected = sorted([original, *copies] for original, copies in originals.items())
    assert sorted(names["groups"]) == expected
    for group in expected:
        assert " ".join(group) in output
    assert is_picture("distances.png") and is_picture("duplicates.png")


PLANTED = {0: ["sent.jpg", "small.png"], 20: ["small.png"], 40: ["trimmed.png"]}


def plant_duplicates(pieces):
    """Writes a few pieces of each photograph to photos/, and for some of them what an editor or a
    messenger makes of a picture; returns their paths, `{original: [copy]}`."""
    os.mkdir("photos")
    chosen = {}
    for path in sorted(pieces.glob("*_[0-9][0-9][0-9].*")):
        chosen.setdefault(photograph(f"photos/{path.name}"), []).append(path)
    chosen = [path for paths in chosen.values() for path in paths[:: len(paths) // 5][:5]]
    originals = {}
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
            copies[name].save(f"photos/{path.stem}_{name}")  # JPEG at Pillow's quality of 75
            originals.setdefault(f"photos/{path.name}", []).append(f"photos/{path.stem}_{name}")
    return originals
