"""The SavedModel, loaded in a process that cannot import this project."""

import io
import json
import re
import shutil
import zlib

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
from tests.export.backbones import (
    assert_close,
    both_kinds,
    consume,
    features_of,
    photographs,
    randomize,
)
from tests.images import crops

SIDE = 32  # of the views of encoded images

# Uses the export in its folder frozen, fine-tunes it as docs/export.md does, and runs
# saved_model_cli.
CONSUMER = """
import contextlib, io, json, sys
import keras, numpy as np
from tensorflow.python.tools import saved_model_cli

images, labels = np.load("images.npy"), np.load("labels.npy")

def values(layer):
    return [variable.numpy() for variable in layer._reloaded_obj.variables]

def changed(layer):
    names = [variable.name for variable in layer._reloaded_obj.variables]
    differ = [bool((a != b).any()) for a, b in zip(before, values(layer), strict=True)]
    return dict(zip(names, differ, strict=True))

def run_cli(*arguments):
    sys.argv = ["saved_model_cli", *arguments]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        saved_model_cli.main()
    return output.getvalue()

frozen = keras.layers.TFSMLayer("backbone", call_endpoint="serve", trainable=False)
before = values(frozen)
results = {"features": np.array(frozen(images[:8])).tolist()}
model = keras.Sequential([keras.Input((None, None, 3)), frozen, keras.layers.Dense(2)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(images, labels, verbose=0)
results["changed when frozen"] = changed(frozen)

exec(open("example.py").read())
results["changed when fine-tuned"] = changed(backbone)
results["losses"] = model.history.history["loss"]

endpoint = ("--dir", "backbone", "--tag_set", "serve", "--signature_def", "serve_encoded")
results["signature"] = run_cli("show", *endpoint)
run_cli("run", *endpoint, "--inputs", "image_bytes=files.npy", "--outdir", ".")
json.dump(results, open("results.json", "w"))
"""


def documented_example():
    """Return the first Python block of docs/export.md that fine-tunes an export."""
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL
    )
    return next(block for block in blocks if "call_training_endpoint" in block)


@pytest.fixture(scope="module")
def backbone():
    network = randomize(encoders.random_network("resnet8", stem="small"))
    return encoders.with_normalization(network)


@pytest.fixture(scope="module")
def exported(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "saved_model"
    export_saved_model(backbone, str(path), image_size=SIDE)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Image files of several formats and sizes, and what each shows, uint8 `[H, W, 3]`."""
    folder, images = tmp_path_factory.mktemp("files"), {}
    for name, (height, width) in {"a.png": (40, 56), "b.png": (90, 64), "c.jpg": (64, 50)}.items():
        image = PIL.Image.fromarray(photographs(1, height, width)[0].astype(np.uint8))
        image = image.convert("L") if name == "b.png" else image
        image.save(folder / name)
        if name.endswith("png"):
            images[folder / name] = np.asarray(image.convert("RGB"))
        else:  # JPEG decoders differ by a gray level or so; evaluate.py uses this one.
            images[folder / name] = decode((folder / name).read_bytes()).numpy()
    return images


def expected_features(backbone, files, side):
    """Return the features of the files' central views, as `evaluate.py` computes them."""
    views = [central_view(tf.constant(image), side) for image in files.values()]
    return backbone(tf.cast(tf.stack(views), tf.float32), training=False)


def test_process_without_this_project_uses_the_export(backbone, exported, files, tmp_path):
    """One process, because starting it takes longer than everything that it does."""
    shutil.copytree(exported, tmp_path / "backbone")
    (tmp_path / "example.py").write_text(documented_example())
    images = np.stack(crops(20, 32)).astype(np.float32)
    images[10:] = images[10:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2)  # the second class
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", np.repeat([0, 1], 10))
    contents = np.array([path.read_bytes() for path in files], object)
    np.save(tmp_path / "files.npy", contents, allow_pickle=True)
    consume(tmp_path, CONSUMER)
    results = json.loads((tmp_path / "results.json").read_text())
    expected = backbone(images[:8], training=False).numpy()
    np.testing.assert_allclose(results["features"], expected, rtol=1e-5, atol=1e-5)
    assert not any(results["changed when frozen"].values())

    changed = results["changed when fine-tuned"]
    assert sum("moving" in name for name in changed) == 18
    assert sum("kernel" in name for name in changed) == 9
    assert all(changed.values())
    assert results["losses"][-1] < results["losses"][0]

    signature = results["signature"]
    assert re.search(r"inputs\['image_bytes'\][^\[]*dtype: DT_STRING\s+shape: \(-1\)", signature)
    assert re.search(r"outputs\['output_0'\][^\[]*dtype: DT_FLOAT\s+shape: \(-1, 64\)", signature)
    features = np.load(tmp_path / "output_0.npy")
    assert_close(features, expected_features(backbone, files, SIDE))


def test_images_of_any_size_are_taken(backbone, exported):
    layer = keras.layers.TFSMLayer(str(exported), call_endpoint="serve")
    for shape in [(1, 32, 32), (2, 57, 91)]:
        images = photographs(*shape)
        assert_close(layer(images), backbone(images, training=False))


def test_existing_path_is_left_alone(backbone, tmp_path):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(UserError, match=f"{tmp_path} exists"):
        export_saved_model(backbone, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "mine"


def declare_png_size(width, height):
    """Return a PNG file of 8x8 pixels whose header declares another size."""
    file = io.BytesIO()
    PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, format="png")
    contents = file.getvalue()
    header = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + contents[24:29]
    return contents[:12] + header + zlib.crc32(header).to_bytes(4) + contents[33:]


@pytest.fixture(scope="module")
def encoded_layer(exported):
    return keras.layers.TFSMLayer(str(exported), call_endpoint="serve_encoded")


@pytest.mark.parametrize("damage", ["empty", "text", "half a PNG", "half a JPEG", "huge PNG"])
def test_damaged_file_is_an_error(encoded_layer, files, damage):
    png, _, jpeg = (path.read_bytes() for path in files)
    contents = {
        "empty": b"",
        "text": b"no image, but long enough to have a header",
        "half a PNG": png[: len(png) // 2],
        "half a JPEG": jpeg[: len(jpeg) // 2],
        "huge PNG": declare_png_size(30_000, 30_000),
    }[damage]
    with pytest.raises(tf.errors.InvalidArgumentError):
        encoded_layer(tf.constant([png, contents]))
    assert encoded_layer(tf.constant([png, declare_png_size(8, 8)])).shape == (2, 64)


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "side"), [((), 32), (("--image_size=48",), 48)])
def test_export_of_a_run_uses_the_views_of_the_run(trained_run, files, tmp_path, flags, side):
    out = tmp_path / "saved_model"
    in_process.run("export/saved_model.py", f"--out={out}", *flags, workdir=trained_run)
    layer = keras.layers.TFSMLayer(str(out), call_endpoint="serve_encoded")
    features = layer(tf.constant([path.read_bytes() for path in files]))
    assert_close(features, expected_features(load_backbone(str(trained_run)), files, side))
    assert f"{side}x{side}" in (out / "README.md").read_text()
    again = tmp_path / "again"
    in_process.run("export/saved_model.py", f"--saved_model={out}", f"--out={again}")
    assert f"{side}x{side}" in (again / "README.md").read_text()


def test_orientation_that_only_the_run_applies_is_stated(trained_run, tmp_path):
    workdir, out = shutil.copytree(trained_run, tmp_path / "run"), tmp_path / "saved_model"
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["orientation"] = True
    (workdir / "config.json").write_text(json.dumps(config))
    printed = in_process.run("export/saved_model.py", f"--out={out}", workdir=workdir)
    assert "note: serve_encoded does not turn images as their EXIF orientation says" in printed
    assert "without the EXIF orientation" in (out / "README.md").read_text()


def test_backbone_of_five_channels_takes_no_files(tmp_path):
    network = encoders.random_network("resnet8", stem="small", channels=5)
    export_saved_model(encoders.with_normalization(network), str(tmp_path / "saved_model"))
    assert "serve_encoded" not in (tmp_path / "saved_model" / "README.md").read_text()
    signatures = tf.saved_model.load(str(tmp_path / "saved_model")).signatures
    assert set(signatures) == {"serve", "train", "serving_default"}


@pytest.mark.parametrize("kind", ["with normalization", "without"])
def test_both_kinds_of_backbone_become_the_same_file(tmp_path, kind):
    network, normalized = both_kinds()
    backbone = normalized if kind == "with normalization" else network
    export_saved_model(backbone, tmp_path / "export", image_size=SIDE)
    saved, images = tf.saved_model.load(tmp_path / "export"), photographs(3, 40, 32)
    assert_close(saved.serve(images), features_of(network, images))
