"""A run whose encoder is a .keras file: training, resumption, evaluation, exports, warm starts."""

import json
import shutil

import keras
import numpy as np
import pytest

from moco_tf import encoders, load_backbone, run_directory, run_metrics
from moco_tf.backbones import loading, warm_start
from moco_tf.backbones.model_card import model_card
from moco_tf.config import default_config
from moco_tf.data import sources
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.errors import UserError
from moco_tf.evaluation import finetune
from moco_tf.evaluation.settings import FinetuneSettings
from moco_tf.keras_internals import all_layers
from moco_tf.training.build import build_model
from tests import in_process
from tests.command import TINY, state
from tests.conftest import source_flag
from tests.encoders.foreign_networks import images, means, small_network

pytestmark = pytest.mark.slow

SMALL_RUN = (
    *TINY,
    "--config.stem=imagenet",
    "--config.steps=4",
    "--config.knn_every=1",
)


def train(encoder, folder, workdir, *arguments, status=0):
    flags = (f"--config.encoder={encoder}", source_flag(folder), *arguments)
    return in_process.run("train.py", *SMALL_RUN, *flags, workdir=workdir, status=status)


@pytest.fixture(scope="module")
def run(image_folder, tmp_path_factory):
    """A finished run, its encoder's file, which is gone, its model, and what it printed."""
    folder = tmp_path_factory.mktemp("foreign")
    path, workdir = folder / "net.keras", folder / "run"
    network = small_network()
    network.save(path)
    printed = train(path, image_folder, workdir)
    path.unlink()
    return workdir, path, network, printed


def test_run_starts_from_the_weights_of_the_file_and_records_them(run):
    workdir, path, _, printed = run
    config = run_directory.read_config(str(workdir))
    assert config.init == f"keras:{path}"
    assert len(config.init_checksum) == 64
    assert f"starting from keras:{path}: the backbone; the head is new" in printed
    assert "note: Dropout in" in printed
    assert json.loads((workdir / "encoder.json").read_text())["config"]["name"] == "file_net"
    [first, *_] = [line for line in run_metrics.read_metrics(str(workdir)) if "knn_top1" in line]
    assert first["step"] == 0


@pytest.mark.nightly
def test_run_resumes_exactly_without_the_file(run, image_folder, tmp_path):
    workdir, path, _, _ = run
    copy = shutil.copytree(workdir, tmp_path / "run")
    for file in (copy / "checkpoints").glob("step-4.*"):
        file.unlink()
    output = train(path, image_folder, copy)
    assert "resuming from step 2" in output
    expected = state(workdir)
    for name, value in state(copy).items():
        assert (value == expected[name]).all(), name


def test_backbone_of_the_run_has_learned(run):
    workdir, _, network, _ = run
    backbone = load_backbone(str(workdir))
    trained = backbone(images()).numpy()
    assert np.isfinite(trained).all()
    assert np.abs(trained - means(network(images()))).max() > 1e-3
    kinds = {type(layer) for layer in all_layers(backbone)}
    assert BatchNormalization in kinds


@pytest.fixture(scope="module")
def exports(run, tmp_path_factory):
    """The exports of the run by the names of their formats."""
    folder = tmp_path_factory.mktemp("exports")
    paths = {"saved_model": folder / "saved_model", "keras_v3": folder / "backbone.keras"}
    for module, path in paths.items():
        in_process.run(f"export/{module}.py", f"--out={path}", workdir=run[0])
    return paths


def test_exports_compute_what_the_backbone_computes(run, exports):
    expected = load_backbone(str(run[0]))(images()).numpy()
    layer, channels = loading.load_saved_model(str(exports["saved_model"]))
    assert channels == 3
    np.testing.assert_allclose(layer(images()), expected, rtol=1e-4, atol=1e-5)
    model = keras.saving.load_model(exports["keras_v3"], safe_mode=True)
    np.testing.assert_allclose(model(images()), expected, rtol=1e-4, atol=1e-5)
    for network in (
        loading.load_network(str(exports["saved_model"])),
        loading.load_keras(str(exports["keras_v3"])),
    ):
        again = encoders.with_normalization(network)
        np.testing.assert_allclose(again(images()), expected, rtol=1e-4, atol=1e-5)
        assert encoders.network_of(network) == ("net.keras", "imagenet", 3)
    card = (exports["saved_model"] / "README.md").read_text()
    assert "# net.keras" in card
    assert "stem" not in card.partition("##")[0]


def test_onnx_computes_what_the_backbone_computes(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed")
    out = tmp_path / "backbone.onnx"
    in_process.run("export/onnx_file.py", f"--out={out}", workdir=run[0])
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    [features] = session.run(["features"], {"images": images()})
    expected = load_backbone(str(run[0]))(images())
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", ["pytorch", "detectron2_pickle", "keras_hub_preset"])
def test_formats_for_resnets_are_refused(run, module, tmp_path):
    pytest.importorskip("torch" if module == "pytorch" else "keras_hub")
    out = tmp_path / "out"
    line = in_process.run_mistake(f"export/{module}.py", f"--out={out}", workdir=run[0])
    assert "supports this project's ResNets only" in line
    assert "net.keras" in line
    assert not out.exists()


def test_evaluation_of_the_run_and_of_its_export(run, exports, tmp_path):
    results = {}
    for flag in (f"--workdir={run[0]}", f"--saved_model={exports['saved_model']}"):
        data = run_directory.read_config(str(run[0])).data.source
        in_process.run(
            "evaluate.py",
            "--protocol=knn",
            flag,
            f"--data={data}",
            "--image_size=32",
            f"--output_dir={tmp_path}",
        )
        results[flag] = json.loads((tmp_path / "eval" / "knn.json").read_text())["top1"]
    assert len(set(results.values())) == 1


def test_view_that_is_too_small_is_refused(run, exports):
    data = run_directory.read_config(str(run[0])).data.source
    for flag in (f"--workdir={run[0]}", f"--saved_model={exports['saved_model']}"):
        line = in_process.run_mistake(
            "evaluate.py", "--protocol=knn", flag, f"--data={data}", "--image_size=2"
        )
        assert "--image_size=2 does not fit" in line


@pytest.mark.parametrize("batch_norm", ["tuned", "frozen"])
def test_fine_tuning_trains_what_it_should(run, batch_norm):
    backbone = load_backbone(str(run[0]))
    source = sources.load(run_directory.read_config(str(run[0])).data.source)
    settings = FinetuneSettings(batch_size=16, epochs=1, batch_norm=batch_norm)
    tuned, _, result = finetune.fit(backbone, source, 32, settings)
    assert 0 <= result["top1"] <= 1
    changed = {
        after.path.rpartition("/")[2] if "bn" not in after.path else "bn"
        for before, after in zip(backbone.weights, tuned.weights, strict=True)
        if (before.numpy() != after.numpy()).any()
    }
    if batch_norm == "tuned":
        # The bias before a BatchNormalization that uses the batch has no gradient but rounding.
        assert changed - {"bias"} == {"kernel", "bn"}
    else:
        assert changed == {"kernel", "bias"}


def started(encoder, init="", **settings):
    """Return a new model that starts from weights, and the line about them."""
    config = default_config()
    config.data.source = "photos"
    config.update(encoder=str(encoder), image_size=32, batch_size=16, bn_groups=2, queue_size=100)
    config.update(init=init, **settings)
    config = warm_start.resolve(config, "none")
    model = build_model(config, steps_per_epoch=6)
    return model, warm_start.start(model, config)


@pytest.fixture
def file(run, tmp_path):
    """The file of another network of the same architecture."""
    small_network(seed=1).save(tmp_path / "net.keras")
    return tmp_path / "net.keras"


@pytest.mark.parametrize("form", ["run", "saved_model", "keras", "own_file"])
def test_encoder_starts_from_weights_in_any_form(run, exports, file, form):
    other = file.with_name("other.keras")
    small_network(seed=2).save(other)
    init = {
        "run": f"run:{run[0]}",
        "saved_model": f"saved_model:{exports['saved_model']}",
        "keras": f"keras:{exports['keras_v3']}",
        "own_file": f"keras:{other}",
    }[form]
    model, line = started(file, init, head="linear")
    if form == "own_file":
        expected = means(keras.saving.load_model(other)(images()))
    else:
        expected = load_backbone(str(run[0]))(images()).numpy()
    assert line.startswith(f"starting from {init}: the backbone")
    for encoder in (model.query_encoder, model.key_encoder):
        actual = encoders.with_normalization(encoder.backbone)(images())
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_head_is_that_of_a_run_if_it_fits(run, file):
    config = run_directory.read_config(str(run[0]))
    _, line = started(file, f"run:{run[0]}", head=config.head, dim=config.dim)
    assert line.endswith("the backbone and the head")
    _, line = started(file, f"run:{run[0]}", head=config.head, dim=config.dim + 1)
    assert line.endswith("the head is new")


def test_weights_of_another_network_are_refused(run, trained_run, file, tmp_path):
    wide = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(9, 3)])
    wide.save(tmp_path / "wide.keras")
    with pytest.raises(UserError) as error:
        started(file, f"keras:{tmp_path}/wide.keras")
    for part in ("wide.keras does not fit", f"encoder={file}", "weight 1 is", "(3, 3, 3, 9)"):
        assert part in str(error.value)
    with pytest.raises(UserError, match="does not fit config.encoder"):
        started(file, f"run:{trained_run}")
    with pytest.raises(UserError, match="the weights are those of net.keras"):
        started("resnet8", f"run:{run[0]}", stem="small")
    small = small_network()
    keras.Model(small.inputs, small.get_layer("first_bn").output).save(tmp_path / "part.keras")
    with pytest.raises(UserError, match="there are 5 weights there, but the encoder has 10"):
        started(file, f"keras:{tmp_path}/part.keras")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--config.encoder=keras:VGG61"], ["keras:VGG61", "did you mean", "keras:VGG16"]),
        (
            ["--config.encoder=keras:VGG16", "--config.stem=small"],
            ["stem=small", "keras:VGG16"],
        ),
        (
            ["--config.encoder=keras:VGG16", "--config.init=checkpoint:a.pth"],
            ["config.init=checkpoint:a.pth", "ResNets only"],
        ),
        (
            ["--config.encoder=resnet8", "--config.init=keras_hub:preset"],
            ["config.init=keras_hub:preset", "set config.encoder to keras_hub:preset"],
        ),
        (["--config.encoder=none.keras"], ["config.encoder=none.keras", "cannot be read"]),
        (["--config.encoder=keras:VGG16", "--config.image_size=16"], ["config.image_size=16"]),
    ],
)
def test_mistakes_are_one_line_before_the_run_begins(flags, parts, image_folder, tmp_path):
    line = in_process.run_mistake(
        "train.py", *SMALL_RUN, source_flag(image_folder), *flags, workdir=tmp_path / "run"
    )
    for part in parts:
        assert part in line
    assert not (tmp_path / "run").exists()


def test_encoder_without_batch_normalization_is_not_shuffled(file, tmp_path):
    plain = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(9, 3)])
    plain.save(tmp_path / "plain.keras")
    config = default_config()
    config.update(encoder=str(tmp_path / "plain.keras"), batch_size=16, queue_size=16)
    assert config.shuffle_bn
    assert not build_model(config, steps_per_epoch=6).shuffle_bn
    config.update(encoder=str(file))
    assert build_model(config, steps_per_epoch=6).shuffle_bn


def test_card_states_the_only_size(tmp_path):
    from moco_tf.export.saved_model import _format

    small_network(size=40).save(tmp_path / "fixed.keras")
    backbone = encoders.with_normalization(encoders.build(str(tmp_path / "fixed.keras")))
    card = model_card(backbone, _format(3, 40))
    assert "40x40 pixels only" in card
    assert "any size" not in card
