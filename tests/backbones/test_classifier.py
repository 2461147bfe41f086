"""Classifiers of a backbone and a linear layer, against the same arithmetic in NumPy."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from moco_tf import encoders
from moco_tf.backbones import classifier, history
from moco_tf.backbones.history import Origin
from moco_tf.backbones.model_card import keras_format
from moco_tf.errors import UserError
from tests.export.backbones import randomize

CLASSES = ["a", 'with "quotes"', "ü"]
RESULT = {
    "protocol": "finetune",
    "data": "folder:labeled",
    "image_size": 32,
    "top1": 0.75,
    "top5": 1.0,
    "num_train": 20,
    "num_test": 8,
    "epochs": 3,
    "learning_rate": 0.1,
}


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(0)
    network = encoders.build("resnet8", stem="small", bn_groups=2)
    randomize(network)
    return encoders.with_normalization(network)


@pytest.fixture(scope="module")
def layer():
    generator = np.random.default_rng(0)
    return generator.normal(0, 0.2, (64, 3)).astype(np.float32), generator.normal(size=3)


def example_images():
    """Return noise around another color for each image."""
    generator = np.random.default_rng(1)
    colors, noise = (
        generator.uniform(0, 200, (5, 1, 1, 3)),
        generator.uniform(0, 55, (5, 24, 20, 3)),
    )
    return (colors + noise).astype(np.float32)


def save(backbone, layer, path, backbone_history=""):
    model = classifier.assemble(backbone, *layer)
    classifier.save(model, path, CLASSES, RESULT, backbone, backbone_history)


def expected(backbone, layer, images):
    weights, bias = layer
    scores = backbone.predict(images, verbose=0).astype(np.float64) @ weights + bias
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_probabilities_are_the_softmax_of_the_linear_layer(backbone, layer):
    images = example_images()
    model = classifier.assemble(backbone, *layer)
    probabilities = expected(backbone, layer, images)
    assert np.ptp(probabilities, axis=0).min() > 0.01
    np.testing.assert_allclose(model.predict(images, verbose=0), probabilities, atol=1e-5)
    # A network without normalization gets it.
    network = encoders.without_normalization(backbone)
    model = classifier.assemble(network, *layer)
    np.testing.assert_allclose(model.predict(images, verbose=0), probabilities, atol=1e-5)


def test_file_consists_of_layers_of_keras(backbone, layer, tmp_path):
    path = str(tmp_path / "classifier.keras")
    save(backbone, layer, path)
    model = keras.saving.load_model(path)
    modules = {type(part).__module__.partition(".")[0] for part in model._flatten_layers()}
    assert modules == {"keras"}
    images = example_images()
    np.testing.assert_allclose(
        model.predict(images, verbose=0), expected(backbone, layer, images), atol=1e-5
    )


def as_saved_model(model, folder):
    model.export(str(folder), verbose=False)
    return keras.layers.TFSMLayer(str(folder), call_endpoint="serve")


def as_onnx(model, folder):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed")
    model.export(str(folder), verbose=False)
    flags = ["--saved-model", folder, "--signature_def", "serve", "--output", folder / "onnx"]
    subprocess.run([sys.executable, "-m", "tf2onnx.convert", *map(str, flags)], check=True)
    session = onnxruntime.InferenceSession(folder / "onnx")
    return lambda images: session.run(None, {"images": images})[0]


def as_litert(model, folder):
    if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 13):
        pytest.skip("Keras 3.12 does not export to LiteRT")
    module = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT is not installed")
    model.export(f"{folder}.tflite", format="litert", verbose=False)
    interpreter = module.Interpreter(f"{folder}.tflite")
    [inputs], [outputs] = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images):
        interpreter.resize_tensor_input(inputs["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(inputs["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(outputs["index"])

    return run


@pytest.mark.slow
@pytest.mark.parametrize("export", [as_saved_model, as_onnx, as_litert])
def test_exports_of_keras_compute_the_same(backbone, layer, tmp_path, export):
    """docs/deployment.md has these exports."""
    path = str(tmp_path / "classifier.keras")
    save(backbone, layer, path)
    exported = export(keras.saving.load_model(path), tmp_path / "classifier")
    images = example_images()
    np.testing.assert_allclose(exported(images), expected(backbone, layer, images), atol=1e-5)


def test_card_names_the_classes_the_training_and_the_result(backbone, layer, tmp_path):
    path = str(tmp_path / "classifier.keras")
    origin = Origin("checkpoint", "weights.safetensors")
    save(backbone, layer, path, history.training(origin, ""))
    card = pathlib.Path(f"{path}.md").read_text()
    assert card.startswith("# resnet8, a classifier of 3 classes\n")
    block = card.partition("## Classes\n```python\n")[2].partition("```")[0]
    variables = {}
    exec(block, variables)
    assert variables["CLASSES"] == CLASSES
    assert "| output | probabilities of the classes, float32 `[N, 3]` |" in card
    assert "on central views of 32x32 pixels: the shorter side resized to 37 with" in card
    assert "Trained on `folder:labeled` by the protocol `finetune` of moco-evaluate:" in card
    assert "| `learning_rate` | `0.1` |" in card
    assert "### Backbone\nLoaded from `weights.safetensors`, a PyTorch file." in card
    assert "- `finetune` on `folder:labeled`: top-1 0.7500, top-5 1.0000" in card


@keras.saving.register_keras_serializable("tests")
class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs


def test_card_names_layers_that_are_not_of_keras(backbone, layer):
    model = classifier.assemble(backbone, *layer)
    assert keras_format(model) == "Keras model, made of Keras' own layers"
    model = keras.Model(model.input, Doubled()(model.output))
    assert keras_format(model).endswith(f"before you load it: `{Doubled.__module__}.Doubled`")


def test_sequential_and_models_of_lists_of_one_are_backbones():
    images = keras.Input((8, 8, 3))
    features = keras.layers.GlobalAveragePooling2D()(images)
    for model in (
        keras.Sequential([images, keras.layers.GlobalAveragePooling2D()]),
        keras.Model([images], features),
    ):
        classifier.require_classifiable(model)
        built = classifier.assemble(model, np.zeros([3, 2]), np.zeros(2))
        np.testing.assert_array_equal(built(np.zeros([1, 8, 8, 3], np.float32)), [[0.5, 0.5]])


def functional(*layers):
    images = keras.Input((8, 8, 3))
    outputs = images
    for part in layers:
        outputs = part(outputs)
    return images, outputs


POOLING = keras.layers.GlobalAveragePooling2D()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lambda images: images, "backbone is of the type function, which cannot become"),
        (
            lambda: classifier.assemble(
                keras.Model(*functional(POOLING)), np.zeros([3, 2]), np.zeros(2)
            ),
            r"has a layer 'probabilities', as a classifier has: pass the backbone that",
        ),
        (
            lambda: keras.Model(images := keras.Input((8, 8, 3)), [POOLING(images)]),
            r"cannot become part of a classifier \(it takes or returns a list of tensors\): pass a",
        ),
        (
            lambda: keras.Model(*functional(POOLING, keras.layers.Lambda(lambda x: x))),
            "Lambda",
        ),
        (lambda: keras.Sequential([POOLING]), "cannot become part of a classifier"),
    ],
)
def test_backbones_that_cannot_become_a_classifier_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        classifier.require_classifiable(build())


def test_paths_are_checked_before_the_training(tmp_path):
    def message(path):
        with pytest.raises(UserError) as error:
            classifier.require_path(str(tmp_path / path))
        return str(error.value)

    (tmp_path / "there.keras").touch()
    (tmp_path / "card.keras.md").touch()
    assert "does not end in .keras, as Keras requires: use " in message("new.h5")
    assert "there.keras exists: use a path that" in message("there.keras")
    assert "card.keras.md exists, but the model card of " in message("card.keras")
    assert "missing/new.keras cannot be written: " in message("missing/new.keras")
    # The name of the card has three characters more.
    assert "cannot be written: " in message("x" * 247 + ".keras")
    classifier.require_path(str(tmp_path / "new.keras"))
    assert sorted(os.listdir(tmp_path)) == ["card.keras.md", "there.keras"]
