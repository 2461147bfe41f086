"""Backbones come back as they were saved, and other files and networks are refused."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import encoders, run_directory
from moco_tf.backbones import loading
from moco_tf.encoders import Network
from moco_tf.errors import UserError
from moco_tf.export.keras_v3 import export_keras
from moco_tf.export.saved_model import export_saved_model


@pytest.fixture(scope="module")
def backbone():
    """A backbone whose weights are all different from each other and from the initial ones."""
    backbone = encoders.build("resnet8", stem="small", channels=5)
    for number, weight in enumerate(backbone.weights):
        weight.assign(np.random.default_rng(number).uniform(0.5, 1.5, weight.shape))
    return backbone


@pytest.fixture(scope="module")
def exported(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "saved_model"
    export_saved_model(encoders.with_normalization(backbone), str(path))
    return path


@pytest.fixture
def path(exported, tmp_path):
    """A SavedModel that the test may change."""
    return shutil.copytree(exported, tmp_path / "saved_model")


def refusal(function, *arguments):
    with pytest.raises(UserError) as error:
        function(*arguments)
    message = str(error.value)
    assert "--" not in message  # Messages of the library name no flags.
    return message


@pytest.mark.parametrize("has_network_file", [True, False])
def test_saved_model_is_rebuilt_with_all_its_weights(backbone, path, has_network_file):
    if not has_network_file:  # As in SavedModels of earlier versions.
        (path / "network.json").unlink()
        assert f"{path} does not say" in refusal(loading.load_network, str(path))
    loaded = loading.load_network(str(path), *([] if has_network_file else ["resnet8", "small"]))
    assert encoders.network_of(loaded) == Network("resnet8", "small", 5)
    for weight, expected in zip(loaded.weights, backbone.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy())


def test_weights_with_the_same_path_are_told_apart(tmp_path):
    """Models in a network name their layers independently of each other, also side by side."""

    def stage(channels):
        inputs = keras.Input((None, None, channels))
        x = keras.layers.Conv2D(4, 1, name="conv")(inputs)
        return keras.Model(inputs, keras.layers.BatchNormalization(name="bn")(x))

    images = keras.Input((None, None, 3))
    x = stage(3)(images)
    network = keras.Model(images, keras.layers.Concatenate()([stage(4)(x), stage(4)(x)]))
    for number, weight in enumerate(network.weights):
        weight.assign(np.random.default_rng(number).uniform(0.5, 1.5, weight.shape))
    network.save(tmp_path / "network.keras")
    backbone = encoders.build(str(tmp_path / "network.keras"))
    paths = [weight.path for weight in backbone.weights]
    assert paths.count("conv/kernel") == 3
    export_saved_model(encoders.with_normalization(backbone), str(tmp_path / "exported"))
    loaded = loading.load_network(str(tmp_path / "exported"))
    for weight, expected in zip(loaded.weights, network.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy())


def test_saved_model_computes_the_features_of_the_backbone(backbone, exported):
    layer, channels = loading.load_saved_model(str(exported))
    assert channels == 5
    images = np.random.default_rng(0).uniform(0, 255, [2, 16, 16, 5]).astype(np.float32)
    expected = encoders.with_normalization(backbone)(images)
    np.testing.assert_allclose(layer(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "stem"), [("resnet14", "small"), ("resnet8", "imagenet"), ("resnet8w2", "small")]
)
def test_saved_model_of_another_network_is_refused(exported, encoder, stem):
    message = refusal(loading.load_network, str(exported), encoder, stem)
    assert str(exported) in message
    assert encoder in message
    assert stem in message


def test_unknown_encoder_is_refused(exported):
    message = refusal(loading.load_network, str(exported), "resnet9", "small")
    assert "unknown encoder 'resnet9'" in message


def test_edited_network_file_is_refused(path):
    file = path / "network.json"
    file.write_text(json.dumps({"encoder": "resnet8", "stem": "imagenet", "channels": 5}))
    assert "stem imagenet" in refusal(loading.load_network, str(path))
    file.write_text("{}")
    assert str(file) in refusal(loading.load_network, str(path))
    for text in ("", '{"encoder": "resnet8', "[1]", "[" * 100_000):
        file.write_text(text)
        message = refusal(loading.load_network, str(path))
        assert message.startswith(f"{file} cannot be read (")
        assert message.endswith("): delete it, and set encoder")


def write_file(path, trained_run):
    path.write_text("mine")


def write_other_model(path, trained_run):
    module = tf.Module()
    module.weight = tf.Variable(1.0)
    tf.saved_model.save(module, str(path))


def write_damaged(path, trained_run):
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"damaged")


@pytest.mark.parametrize("function", [loading.load_network, loading.load_saved_model])
@pytest.mark.parametrize(
    ("write", "fact"),
    [
        (lambda path, trained_run: None, "there is no directory {path}, which should be"),
        (write_file, "{path} is a file, but a SavedModel is a directory"),
        (lambda path, trained_run: path.mkdir(), "{path} holds no SavedModel, no saved_model.pb"),
        (lambda path, trained_run: shutil.copytree(trained_run, path), "give it as workdir"),
        (write_damaged, "the SavedModel {path} cannot be loaded: "),
        (write_other_model, "the SavedModel {path} has no endpoint 'serve'"),
    ],
    ids=["nothing", "file", "empty", "run", "damaged", "other"],
)
def test_path_without_a_saved_model_is_refused(tmp_path, trained_run, function, write, fact):
    path = tmp_path / "path"
    write(path, trained_run)
    message = refusal(function, str(path))
    assert fact.format(path=path) in message
    assert message.isprintable()


def test_run_is_loaded_from_its_newest_checkpoint(trained_run):
    backbone = loading.load_backbone(str(trained_run))
    encoder = loading.load_encoder(str(trained_run))
    query_encoder = loading.load_query_encoder(str(trained_run))
    config = run_directory.read_config(str(trained_run))
    assert encoders.network_of(backbone) == Network(config.encoder, config.stem, 3)
    images = np.random.default_rng(0).uniform(0, 255, [2, 32, 32, 3]).astype(np.float32)
    features, projections = backbone(images), encoder(images)
    assert projections.shape == (2, config.dim)
    np.testing.assert_allclose(query_encoder.head(features), projections, rtol=1e-4, atol=1e-5)
    # The weights are those of the checkpoint: initial ones would differ between two models.
    for weight, expected in zip(backbone.weights, encoder.weights, strict=False):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy())


def test_damaged_and_missing_checkpoints_are_refused(trained_run, tmp_path):
    workdir = shutil.copytree(trained_run, tmp_path / "run")
    checkpoint = run_directory.require_checkpoint(str(workdir))
    with open(f"{checkpoint}.index", "wb") as file:
        file.write(b"damaged")
    assert f"{checkpoint} cannot be read" in refusal(loading.load_backbone, str(workdir))
    shutil.rmtree(workdir / "checkpoints")
    assert "no checkpoint yet" in refusal(loading.load_backbone, str(workdir))
    assert f"{tmp_path} holds no run" in refusal(loading.load_backbone, str(tmp_path))


def test_run_of_another_architecture_is_refused(trained_run, tmp_path):
    workdir = shutil.copytree(trained_run, tmp_path / "run")
    values = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps({**values, "encoder": "resnet14"}))
    assert "cannot be read" in refusal(loading.load_backbone, str(workdir))


@pytest.mark.parametrize("load", [loading.load_backbone, loading.load_encoder])
def test_run_is_loaded_from_a_path_object(trained_run, load, monkeypatch):
    images = np.zeros([1, 32, 32, 3], np.float32)
    expected = load(str(trained_run))(images, training=False)
    np.testing.assert_array_equal(load(pathlib.Path(trained_run))(images, training=False), expected)
    monkeypatch.setenv("WORKDIR", str(trained_run))
    np.testing.assert_array_equal(load("$WORKDIR")(images, training=False), expected)
    with pytest.raises(UserError, match="(path|workdir) is None: use a path"):
        load(None)


def test_exports_are_loaded_from_path_objects(tmp_path):
    backbone = encoders.random_backbone("resnet8", stem="small")
    export_saved_model(backbone, tmp_path / "saved_model")
    export_keras(backbone, tmp_path / "backbone.keras")
    images = np.random.default_rng(0).uniform(0, 255, [2, 16, 16, 3]).astype(np.float32)
    expected = backbone(images, training=False)
    saved, channels = loading.load_saved_model(tmp_path / "saved_model")
    assert channels == 3
    np.testing.assert_allclose(saved(images), expected, rtol=1e-4, atol=1e-5)
    for network in (
        loading.load_network(tmp_path / "saved_model"),
        loading.load_keras(tmp_path / "backbone.keras"),
    ):
        again = encoders.with_normalization(network)(images, training=False)
        np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-5)
    for path in (tmp_path / "saved_model", tmp_path / "backbone.keras"):
        again = loading.load_backbone(path)(images, training=False)
        np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-5)
