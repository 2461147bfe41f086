"""A run on 16-bit TIFF files with two channels: training, evaluation, exports and pictures."""

import json

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
import tifffile

import moco_tf
from moco_tf import encoders, run_directory, run_metrics, run_pixels
from moco_tf.backbones import loading
from moco_tf.data import sources
from moco_tf.data.normalization import mean_and_std
from moco_tf.data.pixels import Pixels
from moco_tf.errors import UserError
from moco_tf.plots.thumbnails import thumbnails
from moco_tf.plots.visible import shown
from moco_tf.training.build import restored_globals
from tests import in_process
from tests.command import TINY
from tests.export.backbones import assert_close

SIDE, LOW, HIGH = 32, 1000, 5000


def write_cells(folder):
    """Write files with two pages, whose values are from 1000 to 5000, in two classes."""
    generator = np.random.default_rng(0)
    for number in range(40):
        blocks = generator.integers(LOW, HIGH + 1, [2, 8, 8]) // (1 + number % 2)
        image = np.kron(blocks, np.ones([1, 5, 5])).astype(np.uint16)
        path = folder / f"class{number % 2}" / f"{number:02}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, image, photometric="minisblack")
    return f"folder:{folder}"


@pytest.fixture(scope="module")
def source_name(tmp_path_factory):
    return write_cells(tmp_path_factory.mktemp("cells"))


def flags(source_name, **changes):
    settings = {
        "epochs": 1,
        "knn_every": 1,
        "rgb_operations": False,
        "data.source": source_name,
        "data.pixels": "uint16",
        "data.channels": 2,
        "data.value_range": f"{LOW},{HIGH}",
        "data.mean": "measure",
        "data.std": "measure",
        **changes,
    }
    return (*TINY, *(f"--config.{key}={value}" for key, value in settings.items()))


@pytest.fixture(scope="module")
def workdir(source_name, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    in_process.run("train.py", *flags(source_name), workdir=workdir)
    return workdir


@pytest.fixture(scope="module")
def saved_model(workdir, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "saved_model"
    in_process.run("export/saved_model.py", f"--out={out}", workdir=workdir)
    return out


def raw_images(source_name, count=4):
    paths = sorted(tf.io.gfile.glob(source_name.removeprefix("folder:") + "/*/*.tif"))[:count]
    return np.stack([np.moveaxis(tifffile.imread(path), 0, -1) for path in paths])


def expected_features(workdir, images):
    """Normalize by hand what a run takes, and apply its network."""
    data = json.loads((workdir / "config.json").read_text())["data"]
    mean, std = (np.array([float(n) for n in data[name].split(",")]) for name in ("mean", "std"))
    fractions = np.clip((images.astype(np.float64) - LOW) / (HIGH - LOW), 0, 1)
    network = loading.load_query_encoder(str(workdir)).backbone
    return network(((fractions - mean) / std).astype(np.float32), training=False)


@pytest.mark.slow
def test_config_has_the_measured_numbers_and_the_run_resumes_with_the_word(source_name, workdir):
    data = json.loads((workdir / "config.json").read_text())["data"]
    assert (data["pixels"], data["value_range"]) == ("uint16", f"{LOW},{HIGH}")
    images = raw_images(source_name, 40)
    fractions = np.clip((images.astype(np.float64) - LOW) / (HIGH - LOW), 0, 1)
    mean, std = (np.array([float(n) for n in data[name].split(",")]) for name in ("mean", "std"))
    np.testing.assert_allclose(mean, fractions.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(std, fractions.std((0, 1, 2)), rtol=1e-4)
    assert "already finished" in in_process.run("train.py", *flags(source_name), workdir=workdir)
    changed = flags(source_name, **{"data.value_range": "0,5000"})
    line = in_process.run_mistake("train.py", *changed, f"--workdir={workdir}")
    assert "data.value_range is '1000,5000' there and '0,5000' here" in line


@pytest.mark.slow
def test_monitor_and_evaluation_of_a_run_and_of_its_saved_model(source_name, workdir, saved_model):
    lines = run_metrics.read_metrics(str(workdir))
    assert [line["step"] for line in lines if "knn_top1" in line] == [0, 2]
    evaluation = ("evaluate.py", "--protocol=knn")
    in_process.run(*evaluation, workdir=workdir)
    data = (f"--data={source_name}", f"--image_size={SIDE}")
    in_process.run(*evaluation, f"--saved_model={saved_model}", *data)
    ours, theirs = (
        json.loads((d / "eval" / "knn.json").read_text()) for d in (workdir, saved_model)
    )
    assert ours["top1"] == theirs["top1"]
    line = in_process.run_mistake(
        *evaluation, f"--saved_model={saved_model}", *data, "--value_range=0,65535"
    )
    assert "are in 0, 65535, but" in line
    assert "takes 1000, 5000: choose such images by --data, --pixels and --value_range" in line


@pytest.mark.slow
def test_saved_model_takes_raw_values(source_name, workdir, saved_model):
    images = raw_images(source_name)
    expected = expected_features(workdir, images)
    backbone = moco_tf.load_backbone(str(workdir))
    assert_close(backbone(images.astype(np.float32), training=False), expected)
    loaded = tf.saved_model.load(str(saved_model))
    assert_close(loaded.serve(tf.constant(images, tf.float32)), expected)
    assert not hasattr(loaded, "serve_encoded")
    layer, channels = loading.load_saved_model(str(saved_model))
    assert (layer.pixels, channels) == (backbone.pixels, 2)
    assert encoders.pixels_of(loading.load_network(str(saved_model))) == backbone.pixels
    card = (saved_model / "README.md").read_text()
    assert "in [1000, 5000]; values outside are clipped" in card
    assert "for values in 0 to 1, the ends of [1000, 5000], per channel: mean 0." in card
    assert "2 channels, uint16 values in [1000, 5000]" in card


@pytest.mark.slow
def test_keras_file_takes_raw_values_and_is_evaluated(source_name, workdir, tmp_path):
    import keras

    out = tmp_path / "backbone.keras"
    in_process.run("export/keras_v3.py", f"--out={out}", workdir=workdir)
    images = raw_images(source_name).astype(np.float32)
    expected = expected_features(workdir, images)
    assert_close(keras.saving.load_model(out)(images), expected)
    network = loading.load_keras(str(out))
    assert_close(encoders.with_normalization(network)(images, training=False), expected)
    options = (f"--data={source_name}", f"--image_size={SIDE}", "--pixels=uint16", "--channels=2")
    arguments = ("evaluate.py", "--protocol=knn", f"--checkpoint={out}", *options)
    arguments = (*arguments, f"--output_dir={tmp_path}")
    in_process.run(*arguments, f"--value_range={LOW},{HIGH}")
    assert "takes 1000, 5000" in in_process.run_mistake(*arguments)


@pytest.mark.nightly
def test_onnx_and_litert_take_raw_values(source_name, workdir, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    images = raw_images(source_name).astype(np.float32)
    out = tmp_path / "backbone.onnx"
    in_process.run("export/onnx_file.py", f"--out={out}", workdir=workdir)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    [features] = session.run(["features"], {"images": images})
    assert_close(features, expected_features(workdir, images))
    pytest.importorskip("ai_edge_litert")
    out = tmp_path / "backbone.tflite"
    printed = in_process.run("export/litert_file.py", f"--out={out}", workdir=workdir)
    assert "cosine similarity to the backbone's features 1.00000 on average" in printed


def test_keras_hub_preset_takes_raw_values(source_name):
    pytest.importorskip("keras_hub")
    from moco_tf.export.keras_hub_preset import to_image_converter

    images = raw_images(source_name).astype(np.float32)
    pixels = Pixels(*mean_and_std(2), "uint16", (0.0, 5000.0))
    mean, std = mean_and_std(2)
    expected = (images.astype(np.float64) / 5000 - mean) / std
    np.testing.assert_allclose(to_image_converter(2, pixels)(images), expected, atol=1e-5)


def test_detectron2_is_refused_by_name():
    from moco_tf.errors import UserError
    from moco_tf.export.detectron2_pickle import detectron2_settings

    pixels = Pixels((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    settings = detectron2_settings(encoders.build("resnet18", pixels=pixels))
    assert settings["MODEL.PIXEL_MEAN"] == [25.5, 51.0, 76.5]
    pixels = Pixels((0.1, 0.2, 0.3), (0.5, 0.5, 0.5), "uint16", (0.0, 65535.0))
    with pytest.raises(UserError, match="takes uint16 values in 0, 65535: use another format"):
        detectron2_settings(encoders.build("resnet18", pixels=pixels))


def test_color_operations_are_refused_by_name(tmp_path, source_name):
    changes = {"rgb_operations": True, "data.channels": 2}
    arguments = (*flags(source_name, **changes), f"--workdir={tmp_path}/run")
    line = in_process.run_mistake("train.py", *arguments)
    assert "includes RGB operations (saturation, hue, gray)" in line
    assert "have 2 channels: set config.rgb_operations=False" in line
    images = np.random.default_rng(0).integers(0, 65536, [20, 8, 8, 3], np.uint16)
    np.save(tmp_path / "images.npy", images)
    changes |= {"data.channels": 0, "data.source": f"npy:{tmp_path}/images.npy"}
    arguments = (*flags(source_name, **changes), f"--workdir={tmp_path}/run")
    assert "have uint16 pixels: set" in in_process.run_mistake("train.py", *arguments)


@pytest.mark.slow
def test_embeddings_of_the_run(source_name, workdir, tmp_path):
    import pyarrow.parquet

    in_process.run("embed.py", f"--out={tmp_path}/out", "--part=all", workdir=workdir)
    table = pyarrow.parquet.read_table(tmp_path / "out")
    assert len(table) == 40


@pytest.mark.nightly
def test_report_of_the_run(workdir):
    output = in_process.run("evaluate.py", "--protocol=report", workdir=workdir)
    assert "report.html" in output


def test_pictures_show_the_value_range(source_name, tmp_path):
    options = {"pixels": "uint16", "channels": 2}
    source = sources.load(source_name, value_range="2000,4000", **options)
    image = raw_images(source_name, 1)[0]
    expected = np.clip((image[..., :1].astype(np.float64) - 2000) / 2000, 0, 1) * 255
    picture = shown(source.read(tf.constant(0, tf.int64)), source)
    assert np.abs(picture - expected).max() <= 0.5 + 1e-3
    tiles = thumbnails(source, np.arange(4), 40)
    assert tiles.min() < 20 < 235 < tiles.max()
    config = moco_tf.default_config()
    config.update(batch_size=4, bn_groups=2, image_size=24, rgb_operations=False)
    config.data.update(source=source_name, value_range="measure", **options)
    moco_tf.preview(None, f"{tmp_path}/views.png", config)
    assert matplotlib.image.imread(f"{tmp_path}/views.png").std() > 0.05


@pytest.mark.nightly
def test_array_of_floats_is_trained_in_python(tmp_path):
    images = np.random.default_rng(0).normal(0, 100, [32, 20, 20, 2])
    settings = {"data.pixels": "float32", "data.value_range": "measure", "rgb_operations": False}
    settings |= {"batch_size": 16, "bn_groups": 2, "queue_size": 32, "steps": 2, "knn_every": 0}
    run = moco_tf.train(images, tmp_path / "run", config="photos", **settings)
    low, high = run.backbone.pixels.value_range
    np.testing.assert_allclose([low, high], np.percentile(images, [0.1, 99.9]), rtol=1e-4)


@pytest.mark.slow
def test_plan_leaves_out_color_operations_and_names_the_values(tmp_path):
    images = np.random.default_rng(0).integers(0, 4096, [40, 40, 40, 3], np.uint16)
    np.save(tmp_path / "images.npy", images)
    with restored_globals():
        output = in_process.run(
            "train.py",
            "--plan",
            "--config=configs/auto.py",
            f"--config.data.source=npy:{tmp_path}/images.npy",
            "--config.data.pixels=uint16",
            "--config.data.value_range=0,4095",
            "--config.data.mean=measure",
        )
    assert "color, uint16 values from 0 to 4095" in output
    assert "images with uint16 pixels are not taken for RGB" in output


@pytest.mark.parametrize(
    ("name", "saved"), [("mean", "imagenet"), ("std", "imagenet"), ("value_range", "auto")]
)
def test_run_that_measured_nothing_is_not_resumed_with_the_word(tmp_path, name, saved):
    config = moco_tf.default_config()
    config.data.source = "photos"
    (tmp_path / "config.json").write_text(config.to_json())
    config.data[name] = "measure"
    message = f"data.{name} is '{saved}' there and 'measure' here"
    with pytest.raises(UserError, match=message):
        run_pixels.resolve(config, str(tmp_path))
    config.data[name] = "0.25,0.5"
    (tmp_path / "config.json").write_text(config.to_json())
    config.data[name] = "measure"
    assert run_pixels.resolve(config, str(tmp_path)).data[name] == "0.25,0.5"


def test_run_of_an_earlier_version_is_read(tmp_path):
    config = moco_tf.default_config()
    config.data.source = "photos"
    values = json.loads(config.to_json())
    for name in ("pixels", "channels", "value_range", "mean", "std", "orientation"):
        del values["data"][name]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert run_directory.read_config(str(tmp_path)).data == config.data
    assert run_pixels.resolve(config) is config
