"""The .keras file as its users meet it: in a process that has Keras, and not this project."""

import json

import numpy as np
import pytest

from moco_tf import encoders, load_backbone
from moco_tf.errors import UserError
from moco_tf.export.keras_v3 import export_keras, to_keras
from tests import in_process
from tests.command import run
from tests.export.backbones import assert_close, consume, make_run, photographs, randomize

SCRIPT = "export/keras.py"

CONSUMER = """
import json
import keras, numpy as np

backbone = keras.saving.load_model("backbone.keras", safe_mode=True)
for name in ("small", "large"):
    np.save(f"{name}_features.npy", backbone.predict(np.load(f"{name}.npy"), verbose=0))
layers = [*backbone.layers, *backbone.get_layer("resnet8").layers]
before = [weight.numpy() for weight in backbone.weights]
model = keras.Sequential([backbone, keras.layers.Dense(2)])
model.compile(
    keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
)
history = model.fit(np.load("large.npy"), np.array([0, 1, 0, 1, 0]), epochs=8, verbose=0).history
moved = [bool((a != b.numpy()).any()) for a, b in zip(before, backbone.weights, strict=True)]
json.dump({
    "modules": sorted({type(layer).__module__.partition(".")[0] for layer in layers}),
    "losses": history["loss"],
    "moved": dict(zip([weight.path for weight in backbone.weights], moved, strict=True)),
}, open("out.json", "w"))
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", "resnet8", "small")


@pytest.fixture(scope="module")
def consumed(workdir, tmp_path_factory):
    """The folder of a process that has loaded the export, and what it found."""
    folder = tmp_path_factory.mktemp("consumer")
    out = folder / "backbone.keras"
    assert run(SCRIPT, f"--workdir={workdir}", f"--out={out}") == f"wrote {out}\n"
    np.save(folder / "small.npy", photographs(1, 32, 32))
    np.save(folder / "large.npy", photographs(5, 57, 91))
    consume(folder, CONSUMER)
    return folder, json.loads((folder / "out.json").read_text())


@pytest.mark.parametrize("name", ["small", "large"])
def test_features_are_the_same_with_keras_alone(workdir, consumed, name):
    folder, found = consumed
    assert found["modules"] == ["keras"]
    expected = load_backbone(str(workdir))(np.load(folder / f"{name}.npy"), training=False)
    assert_close(np.load(folder / f"{name}_features.npy"), expected)


def test_it_fine_tunes(consumed):
    _, found = consumed
    assert sum("moving" in path for path in found["moved"]) == 18
    assert sum("kernel" in path for path in found["moved"]) == 9
    assert all(found["moved"].values())
    assert found["losses"][-1] < found["losses"][0]


def test_the_card_stands_beside_it(consumed):
    card = (consumed[0] / "backbone.keras.md").read_text()
    assert "# resnet8" in card and "`[N, 64]`" in card and "normalisation is inside" in card


def test_in_training_it_is_the_same_too():
    backbone = randomize(encoders.build("resnet8", stem="small"))
    found, images = to_keras(backbone), photographs(4, 32, 32)
    expected = encoders.with_normalization(backbone)
    assert_close(found(images, training=True), expected(images, training=True))
    norm = found.get_layer("resnet8").get_layer("stem_bn")
    assert_close(norm.moving_mean, backbone.get_layer("stem_bn").moving_mean)
    for name in ("momentum", "epsilon"):
        assert getattr(norm, name) == getattr(backbone.get_layer("stem_bn"), name)


def test_another_ending_is_refused(workdir, tmp_path):
    line = in_process.run_mistake(SCRIPT, f"--workdir={workdir}", f"--out={tmp_path / 'out.h5'}")
    assert "out.h5: Keras loads what ends in .keras" in line
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "out.keras.md").write_text("mine")
    with pytest.raises(UserError, match="out.keras.md exists, where its model card would be"):
        export_keras(encoders.build("resnet8", stem="small"), str(tmp_path / "out.keras"))
    assert (tmp_path / "out.keras.md").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1
