"""KerasHub's network, layer for layer, and the preset as KerasHub loads it."""

import json
import sys

import keras
import numpy as np
import pytest

from moco_tf import encoders, load_backbone
from moco_tf.errors import UserError
from moco_tf.export.keras_hub_preset import export_keras_hub, to_image_converter, to_keras_hub
from tests import in_process
from tests.export.backbones import assert_close, consume, make_run, photographs, randomize

pytest.importorskip("keras_hub", reason="KerasHub is not installed: pip install '.[keras-hub]'")

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
names = [type(value).__name__ for value in (backbone, converter, classifier)]
json.dump(names, open("names.json", "w"))
"""


@pytest.mark.slow
def test_process_with_keras_hub_uses_the_preset(tmp_path):
    workdir = make_run(tmp_path / "run", "resnet8w4", "imagenet")
    out, images = tmp_path / "preset", photographs(3, 64, 80)
    printed = in_process.run("export/keras_hub_preset.py", f"--out={out}", workdir=workdir)
    assert printed == f"wrote {out}\n"
    assert "# resnet8w4" in (out / "README.md").read_text()
    np.save(tmp_path / "images.npy", images)
    consume(tmp_path, CONSUMER)
    names = json.loads((tmp_path / "names.json").read_text())
    assert names == ["ResNetBackbone", "ResNetImageConverter", "ResNetImageClassifier"]
    features = load_backbone(str(workdir))(images, training=False).numpy()
    assert_close(np.load(tmp_path / "features.npy"), features)
    # The classifier normalizes the images itself, and its new layer starts without a bias.
    logits = features @ np.load(tmp_path / "kernel.npy")
    assert_close(np.load(tmp_path / "logits.npy"), logits)


def test_missing_keras_hub_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)  # Python's own mark of a missing module.
    backbone = encoders.random_network("resnet8", stem="small")
    with pytest.raises(
        UserError, match=r"KerasHub is not installed: .* pip install '\.\[keras-hub\]'"
    ):
        export_keras_hub(backbone, str(tmp_path / "preset"))
    assert list(tmp_path.iterdir()) == []


def stages(backbone):
    """Return the output of each stage."""
    outputs = {}
    for layer in backbone.layers:
        if layer.name.startswith("stage") and "_block" in layer.name:
            outputs[layer.name.partition("_")[0]] = layer.output
    return list(outputs.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "channels", "shape"),
    [
        ("resnet8w4", 5, (64, 64)),
        ("resnet18", 3, (97, 75)),
        ("resnet50", 3, (64, 96)),
    ],
)
def test_every_stage_is_the_same(name, channels, shape):
    backbone = randomize(encoders.random_network(name, channels=channels))
    converted = to_keras_hub(backbone)
    images = np.random.default_rng(0).normal(size=(2, *shape, channels)).astype(np.float32)
    outputs = keras.Model(backbone.input, [*stages(backbone), backbone.output])
    *expected, features = outputs(images, training=False)
    pyramid = keras.Model(converted.input, converted.pyramid_outputs)(images, training=False)
    assert list(pyramid) == [f"P{stage + 2}" for stage in range(len(expected))]
    for stage, expected_stage in zip(pyramid.values(), expected, strict=True):
        assert_close(stage, expected_stage)
    assert_close(np.mean(converted(images, training=False), axis=(1, 2)), features)


@pytest.fixture(scope="module")
def backbone():
    return randomize(encoders.random_network("resnet8w4"))


def test_image_converter_normalizes_as_the_backbone_expects(backbone):
    images = photographs(2, 48, 48)
    expected = encoders.with_normalization(backbone)(images, training=False)
    normalized = to_image_converter(3)(images.astype(np.uint8))
    assert_close(np.mean(to_keras_hub(backbone)(normalized, training=False), axis=(1, 2)), expected)


def test_training_mode_is_the_same(backbone):
    converted, images = to_keras_hub(backbone), photographs(4, 64, 64) / 255
    features = np.mean(converted(images, training=True), axis=(1, 2))
    assert_close(features, backbone(images, training=True))
    statistics = [
        converted.get_layer("conv1_bn").moving_mean,
        backbone.get_layer("stem_bn").moving_mean,
    ]
    assert_close(*statistics)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"name": "resnet18", "stem": "small"}, "resnet18 with stem=small"),
        ({"name": "resnet8w8"}, "64 channels in the first stage, but resnet8w8 has 128"),
        ({"name": "resnet8"}, "resnet8 has 16"),
        ({"name": "resnext50_32x8d"}, "no ResNeXt such as resnext50_32x8d"),
    ],
)
def test_network_that_keras_hub_lacks_is_refused(network, message):
    with pytest.raises(UserError, match=message):
        to_keras_hub(encoders.build(**network))


def test_backbone_with_normalization_becomes_the_same_network(backbone):
    converted = to_keras_hub(encoders.with_normalization(backbone))
    images = photographs(2, 48, 48) / 255
    features = np.mean(converted(images, training=False), axis=(1, 2))
    assert_close(features, backbone(images, training=False))
