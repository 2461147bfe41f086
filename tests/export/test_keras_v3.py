"""The .keras file, loaded in a process that has Keras but cannot import this project."""

import json

import keras
import numpy as np
import pytest

from moco_tf import encoders, load_backbone
from moco_tf.errors import UserError
from moco_tf.export.keras_v3 import export_keras, to_keras
from tests import in_process
from tests.export.backbones import (
    assert_close,
    both_kinds,
    consume,
    features_of,
    photographs,
    randomize,
)

SCRIPT = "export/keras_v3.py"

CONSUMER = """
import json
import keras, numpy as np

backbone = keras.saving.load_model("backbone.keras", safe_mode=True)
for name in ("small", "large"):
    images = np.load(f"{name}.npy")
    np.save(f"{name}_features.npy", backbone(images, training=False))
layers = [*backbone.layers, *backbone.get_layer("resnet8").layers]
before = [weight.numpy() for weight in backbone.weights]
model = keras.Sequential([backbone, keras.layers.Dense(2)])
model.compile(
    keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
)
history = model.fit(images, np.array([0, 1, 0, 1, 0]), epochs=8, verbose=0).history
changed = [bool((a != b.numpy()).any()) for a, b in zip(before, backbone.weights, strict=True)]
json.dump({
    "modules": sorted({type(layer).__module__.partition(".")[0] for layer in layers}),
    "losses": history["loss"],
    "changed": dict(zip([weight.path for weight in backbone.weights], changed, strict=True)),
}, open("results.json", "w"))
"""


@pytest.mark.slow
def test_process_with_keras_alone_uses_the_export(trained_run, tmp_path):
    out = tmp_path / "backbone.keras"
    assert in_process.run(SCRIPT, f"--out={out}", workdir=trained_run) == f"wrote {out}\n"
    images = {"small": photographs(1, 32, 32), "large": photographs(5, 57, 91)}
    for name, array in images.items():
        np.save(tmp_path / f"{name}.npy", array)
    consume(tmp_path, CONSUMER)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["modules"] == ["keras"]

    backbone = load_backbone(str(trained_run))
    for name, array in images.items():
        features = np.load(tmp_path / f"{name}_features.npy")
        assert_close(features, backbone(array, training=False))

    assert sum("moving" in path for path in results["changed"]) == 18
    assert sum("kernel" in path for path in results["changed"]) == 9
    assert all(results["changed"].values())
    assert results["losses"][-1] < results["losses"][0]


def test_copy_computes_the_same_in_both_modes():
    backbone = randomize(encoders.random_network("resnet8", stem="small"))
    copy, images = to_keras(backbone), photographs(4, 32, 32)
    expected = encoders.with_normalization(backbone)
    assert_close(copy(images, training=False), expected(images, training=False))
    assert_close(copy(images, training=True), expected(images, training=True))
    norm = copy.get_layer("resnet8").get_layer("stem_bn")
    assert_close(norm.moving_mean, backbone.get_layer("stem_bn").moving_mean)
    for name in ("momentum", "epsilon"):
        assert getattr(norm, name) == getattr(backbone.get_layer("stem_bn"), name)


def test_export_has_a_model_card(tmp_path):
    backbone = encoders.random_network("resnet8", stem="small")
    export_keras(backbone, str(tmp_path / "backbone.keras"))
    assert {path.name for path in tmp_path.iterdir()} == {"backbone.keras", "backbone.keras.md"}
    card = (tmp_path / "backbone.keras.md").read_text()
    assert "# resnet8" in card
    assert "`[N, 64]`" in card


def test_other_extension_is_refused(trained_run, tmp_path):
    out = tmp_path / "backbone.h5"
    message = in_process.run_mistake(SCRIPT, f"--out={out}", workdir=trained_run)
    assert str(out) in message
    assert ".keras" in message
    assert list(tmp_path.iterdir()) == []


def test_existing_card_is_left_alone(tmp_path):
    (tmp_path / "out.keras.md").write_text("mine")
    backbone = encoders.random_network("resnet8", stem="small")
    with pytest.raises(UserError, match=r"out\.keras\.md exists"):
        export_keras(backbone, str(tmp_path / "out.keras"))
    assert [path.name for path in tmp_path.iterdir()] == ["out.keras.md"]
    assert (tmp_path / "out.keras.md").read_text() == "mine"


@pytest.mark.parametrize("kind", ["with normalization", "without"])
def test_both_kinds_of_backbone_become_the_same_file(tmp_path, kind):
    network, normalized = both_kinds()
    backbone = normalized if kind == "with normalization" else network
    export_keras(backbone, tmp_path / "backbone.keras")
    saved, images = keras.saving.load_model(tmp_path / "backbone.keras"), photographs(3, 40, 32)
    assert_close(saved(images, training=False), features_of(network, images))
    # What was exported and loaded can be exported again.
    assert_close(to_keras(saved)(images, training=False), features_of(network, images))


def test_model_that_is_not_a_backbone_is_refused(tmp_path):
    encoder = encoders.build("resnet8", head="mlp", stem="small")
    with pytest.raises(UserError, match="resnet8_encoder is not a backbone .*: use a result of"):
        export_keras(encoder, str(tmp_path / "backbone.keras"))
    assert list(tmp_path.iterdir()) == []
