"""Runs of the end-to-end and memory-bank mechanisms through the scripts, and their settings."""

import json
import math
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import encoders, load_backbone, run_directory
from moco_tf.backbones import loading
from moco_tf.config import chance_loss, check, default_config
from moco_tf.errors import UserError
from moco_tf.training.build import build_model
from moco_tf.training.run import start_from
from tests import in_process
from tests.command import TINY, state
from tests.images import crops, write_folder

MECHANISMS = {"end_to_end": 0, "memory_bank": 40}  # and their queue_size
IMAGES, BATCH, STEPS = 48, 16, 6  # three steps an epoch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "photos", each=IMAGES // 2)


@pytest.fixture(scope="module", params=MECHANISMS)
def mechanism(request):
    return request.param


def train(mechanism, folder, workdir):
    return in_process.run(
        "train.py",
        *TINY,
        f"--config.data.source=folder:{folder}",
        f"--config.mechanism={mechanism}",
        f"--config.queue_size={MECHANISMS[mechanism]}",
        "--config.epochs=2",
        "--config.knn_every=2",
        f"--workdir={workdir}",
    )


@pytest.fixture(scope="module")
def run(mechanism, folder, tmp_path_factory):
    """The directory of a finished run, and what it said."""
    workdir = tmp_path_factory.mktemp(mechanism)
    return workdir, train(mechanism, folder, workdir)


def test_it_says_what_it_is_and_logs_loss_accuracy_and_knn(run, mechanism):
    workdir, output = run
    chance = {"end_to_end": "ln(N) = 2.77", "memory_bank": "ln(K+1) = 3.71"}  # of 16 and of 41
    assert output.startswith(f"{mechanism}: resnet8, {IMAGES} images")
    assert chance[mechanism] in output
    bank = "the memory bank takes 48 x 128 x 4 bytes = 0.0 MB on each device"
    assert (bank in output) == (mechanism == "memory_bank")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == STEPS and np.isfinite(losses).all()
    assert [line["step"] for line in lines if "knn_top1" in line] == [0, STEPS]


def test_a_run_that_goes_on_ends_bit_identical(run, mechanism, folder, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    checkpoints = workdir / "checkpoints"
    # As if it had been killed after the second step, in the midst of an epoch.
    tf.compat.v1.train.update_checkpoint_state(str(checkpoints), str(checkpoints / "step-2"))
    assert "going on from step 2" in train(mechanism, folder, workdir)
    expected, found = state(run[0]), state(workdir)
    assert expected.keys() == found.keys() and len(expected) > 50
    for name, value in expected.items():
        if name == "_CHECKPOINTABLE_OBJECT_GRAPH":
            continue  # Keras numbers the models of a process
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert ("bank" in " ".join(expected)) == (mechanism == "memory_bank")


def test_its_backbone_is_evaluated_and_exported(run, tmp_path):
    workdir, _ = run
    output = in_process.run("evaluate.py", "--protocol=knn", f"--workdir={workdir}")
    result = json.loads((workdir / "eval" / "knn.json").read_text())
    assert f"top-1 {result['top1']:.4f}" in output
    assert result["num_train"] + result["num_test"] == IMAGES

    in_process.run("export/saved_model.py", f"--workdir={workdir}", f"--out={tmp_path / 'out'}")
    exported = keras.layers.TFSMLayer(str(tmp_path / "out"), call_endpoint="serve")
    images = np.stack(crops(4, 32)).astype(np.float32)
    features = load_backbone(str(workdir))(images, training=False).numpy()
    np.testing.assert_allclose(exported(images).numpy(), features, rtol=1e-4, atol=1e-5)
    config = run_directory.read_config(str(workdir))
    model = build_model(config, steps_per_epoch=3, num_images=IMAGES)
    backbone = encoders.with_normalization(model.query_encoder.backbone)
    assert np.abs(backbone(images, training=False) - features).max() > 1e-3  # not trained yet
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    checkpoint.restore(run_directory.latest_checkpoint(str(workdir))).assert_consumed()
    np.testing.assert_allclose(backbone(images, training=False), features, rtol=1e-4, atol=1e-5)


def config(folder, **settings):
    config = default_config()
    small = dict(encoder="resnet8", stem="small", image_size=32, batch_size=16, bn_groups=2)
    config.update({**small, **settings})
    config.data.source = f"folder:{folder}"
    return config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"mechanism": "end_to_end", "queue_size": 64},
            ["config.queue_size=64", "end_to_end has no queue", "15 others", "queue_size to 0"],
        ),
        (
            {"mechanism": "end_to_end", "queue_size": 0, "batch_size": 1, "bn_groups": 1},
            ["config.batch_size=1", "2 or more"],
        ),
        ({"mechanism": "moco", "queue_size": 0}, ["config.queue_size=0", "above 0"]),
        ({"mechanism": "memory_bank", "queue_size": 0}, ["config.queue_size=0", "above 0"]),
        (
            {"mechanism": "memory_bank", "queue_size": 9, "symmetric_loss": True},
            ["config.symmetric_loss=True", "memory_bank", "False"],
        ),
        ({"mechanism": "memory_bank", "bank_momentum": 1.5}, ["bank_momentum=1.5", "from 0 to 1"]),
        (
            {"mechanism": "memory_bank", "queue_size": 48},
            ["config.queue_size=48", "47 other images", "47 or less"],
        ),
    ],
)
def test_settings_that_cannot_work(folder, tmp_path, settings, words):
    with pytest.raises(UserError) as error:
        train(config(folder, **settings), str(tmp_path / "run"))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_memory_bank_needs_no_groups_to_shuffle_among(folder):
    check(config(folder, mechanism="memory_bank", queue_size=9, bn_groups=1))


@pytest.mark.parametrize(
    ("settings", "ways"),
    [
        ({"queue_size": 100}, 101),
        ({"mechanism": "memory_bank", "queue_size": 40}, 41),
        ({"mechanism": "end_to_end", "queue_size": 0}, 16),
    ],
)
def test_chance_is_one_of_all_keys(folder, settings, ways):
    assert chance_loss(config(folder, **settings)) == pytest.approx(math.log(ways))


def test_the_bank_s_momentum_is_the_config_s(folder):
    settings = config(folder, mechanism="memory_bank", queue_size=9, bank_momentum=0.25)
    model = build_model(settings, 3, num_images=IMAGES)
    assert (model.bank.momentum, model.bank.size, model.num_negatives) == (0.25, IMAGES, 9)


def test_pytorchs_checkpoints_are_of_moco_alone(run, folder, mechanism, tmp_path):
    words = re.escape(f"config.mechanism='{mechanism}' has no momentum encoder and queue")
    with pytest.raises(UserError, match=words):
        loading.load_model(str(run[0]))
    settings = config(folder, mechanism=mechanism, queue_size=MECHANISMS[mechanism])
    with pytest.raises(UserError, match=words):
        start_from(None, settings, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
