"""KerasHub's network, layer for layer, and the preset as KerasHub loads it."""

import json
import sys

import keras
import numpy as np
import pytest

from moco_tf import encoders, load_backbone
from moco_tf.errors import UserError
from moco_tf.export.keras_hub_preset import to_image_converter, to_keras_hub
from tests import in_process
from tests.command import run
from tests.export.backbones import assert_close, consume, make_run, photographs, randomize

pytest.importorskip("keras_hub", reason="KerasHub is not installed: pip install '.[keras-hub]'")
SCRIPT = "export/keras_hub.py"

CONSUMER = """
import json
import keras_hub, numpy as np

images = np.load("images.npy")
backbone = keras_hub.models.Backbone.from_preset("preset")
converter = keras_hub.layers.ImageConverter.from_preset("preset")
np.save("features.npy", np.mean(backbone(converter(images), training=False), axis=(1, 2)))
classifier = keras_hub.models.ImageClassifier.from_preset("preset", num_classes=2)
np.save("logits.npy", classifier.predict(images, verbose=0))
np.save("kernel.npy", classifier.output_dense.kernel)
json.dump([type(thing).__name__ for thing in (backbone, converter, classifier)],
          open("out.json", "w"))
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", "resnet8w4", "imagenet")


def test_keras_hub_loads_the_preset(workdir, tmp_path):
    out, images = tmp_path / "preset", photographs(3, 64, 80)
    assert run(SCRIPT, f"--workdir={workdir}", f"--out={out}") == f"wrote {out}\n"
    assert "# resnet8w4" in (out / "README.md").read_text()
    np.save(tmp_path / "images.npy", images)
    consume(tmp_path, CONSUMER)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found == ["ResNetBackbone", "ResNetImageConverter", "ResNetImageClassifier"]
    expected = load_backbone(str(workdir))(images, training=False).numpy()
    assert_close(np.load(tmp_path / "features.npy"), expected)
    # The classifier normalises by itself; its new layer begins without a bias.
    logits = expected @ np.load(tmp_path / "kernel.npy")
    assert_close(np.load(tmp_path / "logits.npy"), logits)


def test_without_keras_hub_it_is_one_line(workdir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)  # as Python itself marks what is not there
    line = in_process.run_mistake(SCRIPT, f"--workdir={workdir}", f"--out={tmp_path / 'out'}")
    assert "KerasHub is not installed: pip install '.[keras-hub]'" in line
    assert not list(tmp_path.iterdir())


def randomized(*args, **kwargs):
    """A backbone that has no statistic, scale or shift of its initial value."""
    keras.utils.set_random_seed(0)
    return randomize(encoders.build(*args, **kwargs))


def stages(backbone):
    """The output of every stage."""
    last = {}
    for layer in backbone.layers:
        if layer.name.startswith("stage") and "_block" in layer.name:
            last[layer.name.partition("_")[0]] = layer.output
    return list(last.values())


@pytest.mark.parametrize(
    ("name", "channels", "shape"),
    [("resnet18", 3, (97, 75)), ("resnet50", 3, (64, 96)), ("resnet8w4", 5, (64, 64))],
)
def test_every_stage_is_the_same(name, channels, shape):
    backbone = randomized(name, channels=channels)
    found = to_keras_hub(backbone)
    images = np.random.default_rng(0).normal(size=(2, *shape, channels)).astype(np.float32)
    outputs = keras.Model(backbone.input, [*stages(backbone), backbone.output])
    *expected, features = outputs(images, training=False)
    pyramid = keras.Model(found.input, found.pyramid_outputs)(images, training=False)
    assert list(pyramid) == [f"P{stage + 2}" for stage in range(len(expected))]
    for stage, map_ in zip(pyramid.values(), expected, strict=True):
        assert_close(stage, map_)
    assert_close(np.mean(found(images, training=False), axis=(1, 2)), features)


def test_in_training_it_is_the_same_too():
    backbone, images = randomized("resnet18"), photographs(4, 64, 64) / 255
    found = to_keras_hub(backbone)
    features = np.mean(found(images, training=True), axis=(1, 2))
    assert_close(features, backbone(images, training=True))
    assert_close(found.get_layer("conv1_bn").moving_mean, backbone.get_layer("stem_bn").moving_mean)


def test_the_converter_is_our_normalisation():
    images, backbone = photographs(2, 48, 48), randomized("resnet18")
    expected = encoders.with_normalization(backbone)(images, training=False)
    normalized = to_image_converter(3)(images.astype(np.uint8))
    assert_close(np.mean(to_keras_hub(backbone)(normalized, training=False), axis=(1, 2)), expected)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (dict(name="resnet18", stem="small"), "resnet18 with stem=small"),
        (dict(name="resnet50w2"), "64 channels in the first stage, and resnet50w2 has 128"),
        (dict(name="resnet8"), "and resnet8 has 16"),
        (dict(name="resnext50_32x8d"), "no ResNeXt, and resnext50_32x8d is one"),
    ],
)
def test_a_network_that_keras_hub_does_not_have(network, words):
    with pytest.raises(UserError, match=words):
        to_keras_hub(encoders.build(**network))
