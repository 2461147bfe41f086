"""Runs of the end-to-end and memory-bank mechanisms through the commands, and their settings."""

import glob
import json
import math
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import encoders, load_backbone, run_directory, run_metrics
from moco_tf.config import chance_loss, default_config
from moco_tf.config_checks import check
from moco_tf.errors import UserError
from moco_tf.training.build import build_data, build_model
from moco_tf.training.run_model import load_model, start_from
from tests import in_process
from tests.command import TINY, state
from tests.images import crops

QUEUE_SIZES = {"end_to_end": 0, "memory_bank": 40}
NUM_IMAGES, STEPS = 100, 12  # Six steps an epoch.


@pytest.fixture(scope="module", params=QUEUE_SIZES)
def mechanism(request):
    return request.param


@pytest.fixture(scope="module")
def train(mechanism, image_folder):
    """Return a function that trains in a directory and returns what the command printed."""

    def train(workdir):
        return in_process.run(
            "train.py",
            *TINY,
            f"--config.data.source=folder:{image_folder}",
            f"--config.mechanism={mechanism}",
            f"--config.queue_size={QUEUE_SIZES[mechanism]}",
            "--config.epochs=2",
            "--config.knn_every=2",
            workdir=workdir,
        )

    return train


@pytest.fixture(scope="module")
def run(mechanism, train, tmp_path_factory):
    """Return the directory of a finished run, and what the command printed."""
    workdir = tmp_path_factory.mktemp(mechanism)
    return workdir, train(workdir)


@pytest.mark.slow
def test_run_announces_itself_and_logs_loss_and_knn(run, mechanism):
    workdir, output = run
    # The positive and 15 other images of the batch; the positive and 40 negatives.
    chance = {"end_to_end": "ln(N) = 2.77", "memory_bank": "ln(K+1) = 3.71"}
    assert f"pre-training uses {NUM_IMAGES} of them" in output
    assert f"\n{mechanism}: resnet8, " in output
    assert chance[mechanism] in output
    memory = f"the memory bank takes {NUM_IMAGES} x 128 x 4 bytes = 0.1 MB on each device"
    assert (memory in output) == (mechanism == "memory_bank")
    lines = run_metrics.read_metrics(str(workdir))
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == STEPS
    assert np.isfinite(losses).all()
    assert [line["step"] for line in lines if "knn_top1" in line] == [0, STEPS]


@pytest.mark.nightly
def test_resumed_run_ends_bit_identical(run, train, mechanism, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    # As if the run had been killed after step 8, in the middle of an epoch.
    for path in run_directory.checkpoints(str(workdir)):
        if int(path.rsplit("-", 1)[1]) > 8:
            for file in glob.glob(f"{path}.*"):
                os.remove(file)
    assert "resuming from step 8" in train(workdir)
    expected, actual = state(run[0]), state(workdir)
    assert expected.keys() == actual.keys()
    assert len(expected) > 50
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
    assert ("bank" in " ".join(expected)) == (mechanism == "memory_bank")


@pytest.mark.slow
def test_backbone_is_the_trained_one(run):
    workdir = str(run[0])
    images = np.stack(crops(4, 32)).astype(np.float32)
    features = load_backbone(workdir)(images, training=False).numpy()
    model = build_model(run_directory.read_config(workdir), 6, num_images=NUM_IMAGES)
    backbone = encoders.with_normalization(model.query_encoder.backbone)
    assert np.abs(backbone(images, training=False) - features).max() > 1e-3  # Not yet trained.
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    checkpoint.restore(run_directory.latest_checkpoint(workdir)).assert_consumed()
    np.testing.assert_allclose(backbone(images, training=False), features, rtol=1e-4, atol=1e-5)


@pytest.mark.nightly
def test_backbone_is_evaluated_and_exported(run, tmp_path):
    workdir, _ = run
    output = in_process.run("evaluate.py", "--protocol=knn", workdir=workdir)
    result = json.loads((workdir / "eval" / "knn.json").read_text())
    assert f"top-1 {result['top1']:.4f}" in output
    assert result["num_train"] + result["num_test"] == NUM_IMAGES

    in_process.run("export/saved_model.py", f"--out={tmp_path / 'out'}", workdir=workdir)
    exported = keras.layers.TFSMLayer(str(tmp_path / "out"), call_endpoint="serve")
    images = np.stack(crops(4, 32)).astype(np.float32)
    features = load_backbone(str(workdir))(images, training=False).numpy()
    np.testing.assert_allclose(exported(images).numpy(), features, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_model_is_not_that_of_moco(run, mechanism):
    with pytest.raises(UserError, match=f"config.mechanism='{mechanism}' has no momentum encoder"):
        load_model(str(run[0]))


def small_config(image_folder, **settings):
    config = default_config()
    config.update(encoder="resnet8", stem="small", image_size=32, batch_size=16, bn_groups=2)
    config.update(settings)
    config.data.source = f"folder:{image_folder}"
    return config


@pytest.mark.parametrize("mechanism", QUEUE_SIZES)
def test_checkpoint_of_moco_is_not_imported(image_folder, mechanism, tmp_path):
    settings = dict(mechanism=mechanism, queue_size=QUEUE_SIZES[mechanism])
    config = small_config(image_folder, **settings)
    with pytest.raises(UserError, match=f"config.mechanism='{mechanism}' has no momentum encoder"):
        start_from(None, config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (
            dict(mechanism="end_to_end", queue_size=64),
            ["config.queue_size=64", "has no queue", "15 other images", "queue_size to 0"],
        ),
        (
            dict(mechanism="end_to_end", queue_size=0, batch_size=1, bn_groups=1),
            ["config.batch_size=1", "2 or more"],
        ),
        (dict(mechanism="moco", queue_size=0), ["config.queue_size=0"]),
        (dict(mechanism="memory_bank", queue_size=0), ["config.queue_size=0"]),
        (
            dict(mechanism="memory_bank", queue_size=9, symmetric_loss=True),
            ["config.symmetric_loss=True", "memory_bank", "False"],
        ),
        (dict(mechanism="memory_bank", bank_momentum=1.5), ["config.bank_momentum=1.5"]),
    ],
)
def test_invalid_setting_is_refused(image_folder, settings, parts):
    with pytest.raises(UserError) as error:
        check(small_config(image_folder, **settings))
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_queue_larger_than_the_bank_is_refused(image_folder):
    config = small_config(image_folder, mechanism="memory_bank", queue_size=NUM_IMAGES)
    with pytest.raises(UserError, match="^config.queue_size=100 exceeds the 99 images .* 99 or"):
        build_data(config)


def test_memory_bank_needs_no_groups(image_folder):
    check(small_config(image_folder, mechanism="memory_bank", queue_size=9, bn_groups=1))


@pytest.mark.parametrize(
    ("settings", "num_keys"),
    [
        (dict(queue_size=100), 101),
        (dict(mechanism="memory_bank", queue_size=40), 41),
        (dict(mechanism="end_to_end", queue_size=0), 16),
    ],
)
def test_chance_loss_follows_from_the_number_of_keys(image_folder, settings, num_keys):
    loss = chance_loss(small_config(image_folder, **settings))
    assert loss == pytest.approx(math.log(num_keys))


def test_memory_bank_has_the_settings_of_the_config(image_folder):
    settings = dict(mechanism="memory_bank", queue_size=9, bank_momentum=0.25)
    model = build_model(small_config(image_folder, **settings), 3, num_images=NUM_IMAGES)
    assert (model.bank.momentum, model.bank.size, model.num_negatives) == (0.25, NUM_IMAGES, 9)
