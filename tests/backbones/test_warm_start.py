"""A run that starts from weights that exist: from a run, an export or a file of PyTorch."""

import hashlib
import importlib.util
import shutil

import numpy as np
import pytest

from moco_tf import load_backbone, run_directory, run_metrics
from moco_tf.backbones import loading, warm_start
from moco_tf.config import default_config
from moco_tf.encoders import state_dict
from moco_tf.errors import UserError
from moco_tf.training.build import build_model
from tests import in_process
from tests.command import TINY, state
from tests.conftest import source_flag
from tests.images import crops

MECHANISMS = {
    "moco": {},
    "memory_bank": {"queue_size": 50},
    "end_to_end": {"queue_size": 0, "shuffle_bn": False},
}


def config_of(init, **settings):
    config = default_config()
    config.data.source = "photos"
    config.update(encoder="resnet8", stem="small", image_size=32, batch_size=16, bn_groups=2)
    config.update(head="linear", queue_size=100, init=init)
    config.update_from_flattened_dict(settings)
    return config


def started(init, **settings):
    """Return a new model that starts from weights, and the line about them."""
    config = config_of(init, **settings)
    model = build_model(config, steps_per_epoch=6, num_images=100)
    return model, warm_start.start(model, config)


@pytest.fixture(scope="module")
def sources(trained_run, tmp_path_factory):
    """The weights of `trained_run` in every form."""
    folder = tmp_path_factory.mktemp("weights")
    in_process.run("export/saved_model.py", f"--out={folder}/saved_model", workdir=trained_run)
    in_process.run("export/keras_v3.py", f"--out={folder}/backbone.keras", workdir=trained_run)
    found = {
        "run": f"run:{trained_run}",
        "saved_model": f"saved_model:{folder}/saved_model",
        "keras": f"keras:{folder}/backbone.keras",
    }
    if importlib.util.find_spec("torch"):
        in_process.run("export/pytorch.py", f"--out={folder}/run.pth.tar", workdir=trained_run)
        found["checkpoint"] = f"checkpoint:{folder}/run.pth.tar"
    return found


def init_of(sources, name):
    return sources.get(name) or pytest.skip("needs PyTorch")


FORMS = ["run", "saved_model", "keras", pytest.param("checkpoint", marks=pytest.mark.torch)]


@pytest.mark.parametrize("form", FORMS)
def test_backbone_is_that_of_the_weights_and_so_is_the_key_encoder(sources, trained_run, form):
    model, line = started(init_of(sources, form))
    expected = state_dict.read(loading.load_query_encoder(str(trained_run)))
    actual = state_dict.read(model.query_encoder)
    has_head = form in ("run", "checkpoint")
    for key, array in actual.items():
        if not key.endswith("num_batches_tracked") and (has_head or not key.startswith("fc.")):
            np.testing.assert_array_equal(array, expected[key], err_msg=key)
    for query, key in zip(model.query_encoder.weights, model.key_encoder.weights, strict=True):
        np.testing.assert_array_equal(query.numpy(), key.numpy())
    if has_head:
        assert line.endswith(": the backbone and the head")
    else:
        assert line.endswith(": the backbone; the head is new")
        assert (actual["fc.weight"] != expected["fc.weight"]).any()


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_every_mechanism_starts_from_weights(trained_run, mechanism):
    model, _ = started(f"run:{trained_run}", mechanism=mechanism, **MECHANISMS[mechanism])
    images = np.stack(crops(4, 32)).astype(np.float32)
    expected = load_backbone(str(trained_run))(images).numpy()
    normalized = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    actual = model.query_encoder.backbone(normalized.astype(np.float32), training=False).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{"head": "mlp"}, {"dim": 64}])
def test_head_of_another_shape_is_new(trained_run, settings):
    _, line = started(f"run:{trained_run}", **settings)
    assert line.endswith(": the backbone; the head is new")


@pytest.mark.parametrize("form", FORMS)
def test_inputs_that_are_scaled_in_another_way_are_warned_of(sources, form):
    init = init_of(sources, form)
    settings = {"data.value_range": "10,200", "data.mean": "0.5", "data.std": "0.25"}
    _, output = started(init, **settings)
    if form == "checkpoint":  # It says nothing about pixel values.
        assert "warning" not in output
        return
    line, warning = output.splitlines()
    assert line == started(init)[1]
    theirs = ("value_range=0,255", "mean=0.485,0.456,0.406", "std=0.229,0.224,0.225")
    own = ("value_range=10,200", "mean=0.5,0.5,0.5", "std=0.25,0.25,0.25")
    there, here = (" ".join(f"config.data.{text}" for text in texts) for texts in (theirs, own))
    remedies = " ".join(f"--config.data.{text}" for text in theirs)
    assert warning == (
        f"warning: {init} was trained with {there}, but this run has {here}: unless that is "
        f"intended, set {remedies}"
    )
    remedy = dict(part.removeprefix("--config.").split("=") for part in warning.split()[-3:])
    assert started(init, **remedy)[1] == line


@pytest.mark.parametrize("settings", [{"encoder": "resnet14"}, {"stem": "imagenet"}])
def test_weights_of_another_network_are_refused(trained_run, settings):
    with pytest.raises(UserError) as error:
        started(f"run:{trained_run}", **settings)
    [(name, value)] = settings.items()
    assert f"does not fit config.encoder={settings.get('encoder', 'resnet8')}" in str(error.value)
    assert f"{name}={value}" in str(error.value)
    assert "the key '" in str(error.value)


@pytest.mark.parametrize("init", ["resnet50", "folder:images", "run:", ":path", "checkpoint"])
def test_other_strings_are_refused(init, image_folder, tmp_path):
    line = in_process.run_mistake(
        "train.py", *TINY, source_flag(image_folder), f"--config.init={init}", workdir=tmp_path
    )
    assert f"config.init='{init}'" in line
    assert "run:DIR, saved_model:DIR, keras:FILE, keras_hub:PRESET or checkpoint:FILE" in line


@pytest.mark.parametrize("init", ["run:{}/none", "saved_model:{}/none", "keras:{}/none.keras"])
def test_missing_weights_are_refused(init, image_folder, tmp_path):
    init = init.format(tmp_path)
    line = in_process.run_mistake(
        "train.py",
        *TINY,
        source_flag(image_folder),
        f"--config.init={init}",
        workdir=tmp_path / "a",
    )
    assert f"{tmp_path}/none" in line
    assert not (tmp_path / "a" / "config.json").exists()


def test_checksum_is_that_of_the_file(tmp_path):
    contents = np.random.default_rng(0).bytes(100_000)
    (tmp_path / "file").write_bytes(contents)
    assert (
        warm_start.checksum(f"checkpoint:{tmp_path}/file") == hashlib.sha256(contents).hexdigest()
    )


def test_checksum_does_not_depend_on_the_path(trained_run, tmp_path):
    copies = [shutil.copytree(trained_run, tmp_path / name) for name in ("run", "a run")]
    first, second = (warm_start.checksum(f"run:{copy}") for copy in copies)
    assert first == second != hashlib.sha256(b"").hexdigest()


@pytest.fixture
def weights(trained_run, tmp_path):
    """A copy of `trained_run`, to start from."""
    return shutil.copytree(trained_run, tmp_path / "weights")


def train(weights, folder, workdir, *arguments, status=0):
    return in_process.run(
        "train.py",
        *TINY,
        source_flag(folder),
        f"--config.init=run:{weights}",
        "--config.knn_every=0",
        *arguments,
        workdir=workdir,
        status=status,
    )


def test_run_records_the_checksum_and_resumes_without_the_weights(weights, image_folder, tmp_path):
    workdir = tmp_path / "run"
    # Weights that are refused leave the directory to the corrected command.
    output = train(weights, image_folder, workdir, "--config.encoder=resnet14", status=2)
    assert "does not fit config.encoder=resnet14" in output
    assert not list(workdir.iterdir())
    output = train(weights, image_folder, workdir, "--config.epochs=1")
    assert f"starting from run:{weights}: the backbone and the head" in output
    config = run_directory.read_config(str(workdir))
    assert config.init_checksum == warm_start.checksum(f"run:{weights}")
    expected = state(workdir)
    for path in (workdir / "checkpoints").glob("step-6.*"):
        path.unlink()
    shutil.rmtree(weights)
    output = train(weights, image_folder, workdir, "--config.epochs=1")
    assert "resuming from step 4" in output
    assert "starting from" not in output
    for name, value in state(workdir).items():
        assert (value == expected[name]).all(), name


@pytest.mark.nightly
def test_other_weights_at_the_same_path_are_refused(weights, image_folder, tmp_path):
    workdir = tmp_path / "run"
    train(weights, image_folder, workdir, "--config.epochs=1")
    # As if the run had been killed before its first checkpoint.
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "metrics.jsonl").unlink()
    for path in (weights / "checkpoints").glob("step-12.*"):
        path.unlink()
    output = train(weights, image_folder, workdir, "--config.epochs=1", status=2)
    assert "restore the weights that the run was started with" in output


def test_checksum_can_be_required(weights, image_folder, tmp_path):
    arguments = ("--config.init_checksum=" + 64 * "0",)
    output = train(weights, image_folder, tmp_path / "run", *arguments, status=2)
    assert "has the checksum" in output
    assert not (tmp_path / "run").exists()


def knn_of_training(workdir, *arguments):
    in_process.run(
        "train.py",
        "--config=configs/photos.py",
        "--config.encoder=resnet8",
        "--config.batch_size=32",
        "--config.bn_groups=2",
        "--config.queue_size=1024",
        "--config.steps=200",
        "--config.knn_every=1",
        *arguments,
        workdir=workdir,
    )
    lines = run_metrics.read_metrics(str(workdir))
    return [line["knn_top1"] for line in lines if "knn_top1" in line]


@pytest.mark.nightly
def test_warm_start_is_better_than_a_start_from_nothing_after_as_many_steps(tmp_path):
    first = knn_of_training(tmp_path / "first")
    init = f"--config.init=run:{tmp_path / 'first'}"
    warm = knn_of_training(tmp_path / "second", init, "--config.seed=1")
    assert warm[0] == first[-1]  # It begins where the first one ended.
    assert warm[-1] > first[-1] > first[0]
