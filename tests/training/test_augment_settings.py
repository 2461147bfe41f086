"""Runs with settings of the augmentation train, and runs from before these settings resume."""

import json

import numpy as np
import pytest

from moco_tf import run_metrics
from moco_tf.config import default_config
from moco_tf.errors import UserError
from moco_tf.training.run import train
from tests.command import state
from tests.images import write_folder
from tests.training.test_run import interrupt_at


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "photos", images_per_class=10)


def losses_of(workdir):
    metrics = run_metrics.read_metrics(str(workdir))
    return [line["loss"] for line in metrics if "loss" in line]


def config_of(folder, preset, **changes):
    config = default_config()
    config.data.source = f"folder:{folder}"
    config.update(encoder="resnet8", stem="small", image_size=8, queue_size=8, dim=8)
    config.update(batch_size=4, bn_groups=2, knn_every=0, steps=2, log_every=1)
    config.update(augmentation=preset, checkpoint_every=2)
    config.augment.update(changes)
    return config


@pytest.mark.nightly
# It compiles the training step and the augmentation.
def test_preset_without_an_up_direction_trains_with_all_operations(folder, tmp_path):
    changes = dict(solarize_probability=0.5, noise_probability=0.5)
    train(config_of(folder, "any_orientation", **changes), str(tmp_path))
    losses = losses_of(tmp_path)
    assert len(losses) == 2
    assert np.isfinite(losses).all()


@pytest.mark.nightly
@pytest.mark.slow  # As above, three times.
def test_run_from_before_these_settings_resumes_exactly(folder, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = config_of(folder, "cifar10")
    train(config, str(whole))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        assert train(config, str(parts)).step == 1
    saved = json.loads((parts / "config.json").read_text())
    del saved["augment"]
    (parts / "config.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match="augment.vertical_flip"):
        train(config_of(folder, "cifar10", vertical_flip=0.5), str(parts))
    assert train(config, str(parts)).step == 2
    assert losses_of(parts) == losses_of(whole)
    expected, actual = state(whole), state(parts)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
