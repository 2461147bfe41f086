"""The SavedModel as its users meet it: in a process that has never heard of this project."""

import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from moco_tf import encoders, load_backbone
from moco_tf.data.decoding import decode
from moco_tf.data.views import central_view
from moco_tf.errors import UserError
from moco_tf.export.saved_model import export_saved_model
from tests import in_process
from tests.command import ROOT
from tests.export.backbones import assert_close, make_run, photographs
from tests.images import crops

# What a process finds that runs the README's lines on the export in its folder.
CONSUMER = """
import json, sys
import keras, numpy as np

images, labels = np.load("images.npy"), np.load("labels.npy")

def values(layer):
    return [variable.numpy() for variable in layer._reloaded_obj.variables]

def moved(layer):
    names = [variable.name for variable in layer._reloaded_obj.variables]
    changed = [bool((a != b).any()) for a, b in zip(before, values(layer), strict=True)]
    return dict(zip(names, changed, strict=True))

frozen = keras.layers.TFSMLayer("backbone", call_endpoint="serve", trainable=False)
before = values(frozen)
results = {"features": np.array(frozen(images[:8])).tolist()}
model = keras.Sequential([keras.Input((None, None, 3)), frozen, keras.layers.Dense(2)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(images, labels, verbose=0)
results["frozen"] = moved(frozen)

exec(open("readme.py").read())
results["tuned"] = moved(backbone)
results["losses"] = model.history.history["loss"]
results["imported"] = [name for name in sys.modules if name.split(".")[0] == "moco_tf"]
json.dump(results, open("out.json", "w"))
"""


def readme_lines():
    [lines] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return lines


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(0)
    backbone = encoders.with_normalization(encoders.build("resnet8", stem="small"))
    # Statistics as after training, so that inference and training mode differ.
    for variable in backbone.variables:
        if "moving" in variable.name:
            variable.assign(
                variable.numpy() + np.random.default_rng(0).uniform(0, 1, variable.shape)
            )
    return backbone


@pytest.fixture(scope="module")
def consumed(backbone, tmp_path_factory):
    """What a process finds that loads the export in an empty folder, and its images."""
    folder = tmp_path_factory.mktemp("consumer")
    export_saved_model(backbone, str(folder / "backbone"))
    (folder / "readme.py").write_text(readme_lines())
    images = np.stack(crops(40, 40)).astype(np.float32)
    images[20:] = images[20:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2)  # the second class
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.repeat([0, 1], 20))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", CONSUMER],
        cwd=folder,
        env=environment,
        check=True,
    )
    return images, json.loads((folder / "out.json").read_text())


def test_features_are_the_same_without_this_project(backbone, consumed):
    images, results = consumed
    assert results["imported"] == []
    expected = backbone(images[:8], training=False).numpy()
    np.testing.assert_allclose(results["features"], expected, rtol=1e-5, atol=1e-5)


def test_the_readmes_lines_move_weights_and_statistics(consumed):
    results = consumed[1]
    moved = results["tuned"]
    statistics = [name for name in moved if "moving" in name]
    kernels = [name for name in moved if "kernel" in name]
    assert len(statistics) == 18 and len(kernels) == 9
    assert all(moved[name] for name in statistics + kernels)
    assert results["losses"][-1] < results["losses"][0]


def test_frozen_nothing_moves(consumed):
    assert not any(consumed[1]["frozen"].values())


def test_any_size_goes_in(backbone, tmp_path):
    export_saved_model(backbone, str(tmp_path / "saved_model"))
    layer = keras.layers.TFSMLayer(str(tmp_path / "saved_model"), call_endpoint="serve")
    for shape in [(1, 32, 32, 3), (2, 57, 91, 3)]:
        images = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
        np.testing.assert_allclose(layer(images), backbone(images), rtol=1e-5, atol=1e-5)


def test_an_existing_path_is_left_alone(backbone, tmp_path):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        export_saved_model(backbone, str(tmp_path))
    assert (tmp_path / "kept").read_text() == "mine"


# Encoded images.

SIDE = 32


@pytest.fixture(scope="module")
def served(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "saved_model"
    export_saved_model(backbone, str(path), image_size=SIDE)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Image files of several kinds and sizes, and what each shows, uint8 `[H, W, 3]`."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    for name, (height, width) in {"a.png": (40, 56), "b.png": (90, 64), "c.jpg": (64, 50)}.items():
        image = PIL.Image.fromarray(photographs(1, height, width)[0].astype(np.uint8))
        image = image.convert("L") if name == "b.png" else image
        image.save(folder / name)
        if name.endswith("png"):
            found[folder / name] = np.asarray(image.convert("RGB"))
        else:  # where decoders differ by a grey level or so, evaluate.py's
            found[folder / name] = decode((folder / name).read_bytes()).numpy()
    return found


def saved_model_cli(*arguments):
    program = os.path.join(os.path.dirname(sys.executable), "saved_model_cli")
    return subprocess.run(
        [program, *map(str, arguments)], check=True, capture_output=True, text=True
    ).stdout


def test_saved_model_cli_lists_what_takes_files(served):
    signature = ("--tag_set", "serve", "--signature_def", "serve_encoded")
    shown = saved_model_cli("show", "--dir", served, *signature)
    assert re.search(r"inputs\['image_bytes'\][^\[]*dtype: DT_STRING\s+shape: \(-1\)", shown)
    assert re.search(r"outputs\['output_0'\][^\[]*dtype: DT_FLOAT\s+shape: \(-1, 64\)", shown)


def test_saved_model_cli_runs_files_to_features(backbone, served, files, tmp_path):
    contents = np.array([path.read_bytes() for path in files], object)
    np.save(tmp_path / "files.npy", contents, allow_pickle=True)
    saved_model_cli(
        *("run", "--dir", served, "--tag_set", "serve", "--signature_def", "serve_encoded"),
        *("--inputs", f"image_bytes={tmp_path / 'files.npy'}", "--outdir", tmp_path),
    )
    views = np.stack([central_view(tf.constant(image), SIDE) for image in files.values()])
    expected = backbone(views.astype(np.float32), training=False)
    assert_close(np.load(tmp_path / "output_0.npy"), expected)


def png_that_promises(width, height):
    """A PNG file that says it is of another size."""
    from io import BytesIO
    from zlib import crc32

    file = BytesIO()
    PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, format="png")
    contents = file.getvalue()
    header = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + contents[24:29]
    return contents[:12] + header + crc32(header).to_bytes(4) + contents[33:]


@pytest.mark.parametrize("kind", ["empty", "words", "half a PNG", "half a JPEG", "a huge PNG"])
def test_what_is_no_image_is_an_error(served, files, kind):
    png, _, jpeg = (path.read_bytes() for path in files)
    contents = {
        "empty": b"",
        "words": b"no image, but long enough to have a header",
        "half a PNG": png[: len(png) // 2],
        "half a JPEG": jpeg[: len(jpeg) // 2],
        "a huge PNG": png_that_promises(30_000, 30_000),
    }[kind]
    layer = keras.layers.TFSMLayer(str(served), call_endpoint="serve_encoded")
    with pytest.raises(tf.errors.InvalidArgumentError):
        layer(tf.constant([png, contents]))
    assert layer(tf.constant([png, png_that_promises(8, 8)])).shape == (2, 64)


def test_a_run_goes_to_a_saved_model_that_sees_the_runs_views(files, tmp_path):
    workdir = make_run(tmp_path / "run", "resnet8", "small")  # of views of 32 pixels
    path, image = next(iter(files.items()))
    for flags, side in (((), SIDE), (("--image_size=48",), 48)):
        out = tmp_path / f"saved_model_{side}"
        in_process.run("export/saved_model.py", f"--workdir={workdir}", f"--out={out}", *flags)
        layer = keras.layers.TFSMLayer(str(out), call_endpoint="serve_encoded")
        view = central_view(tf.constant(image), side)[tf.newaxis]
        expected = load_backbone(str(workdir))(tf.cast(view, tf.float32), training=False)
        assert_close(layer(tf.constant([path.read_bytes()])), expected)
        assert f"{side}x{side}" in (out / "README.md").read_text()


def test_other_channels_than_three_have_no_files(tmp_path):
    network = encoders.with_normalization(encoders.build("resnet8", stem="small", channels=5))
    export_saved_model(network, str(tmp_path / "saved_model"))
    assert "serve_encoded" not in (tmp_path / "saved_model" / "README.md").read_text()
    signatures = tf.saved_model.load(str(tmp_path / "saved_model")).signatures
    assert set(signatures) == {"serve", "train", "serving_default"}
