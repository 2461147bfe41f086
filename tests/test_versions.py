"""Run directories of released versions can still be evaluated, and their trainings continued."""

import pathlib
import shutil

import numpy as np
import pytest

import moco_tf
from moco_tf import run_metrics
from moco_tf.backbones.loading import load_encoder
from tests import in_process
from tests.images import crops

VERSIONS = pathlib.Path(__file__).parent / "versions"


@pytest.mark.parametrize("version", ["0.1"])
def test_features_are_those_of_the_version(version):
    workdir = VERSIONS / version / "run"
    images = np.stack(crops(4, 32))
    with np.load(VERSIONS / version / "features.npz") as expected:
        for name, load in {"backbone": moco_tf.load_backbone, "encoder": load_encoder}.items():
            features = load(workdir).predict(images, verbose=0)
            np.testing.assert_allclose(features, expected[name], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_run_of_version_0_1_continues(tmp_path):
    workdir = shutil.copytree(VERSIONS / "0.1" / "run", tmp_path / "run")
    lines = run_metrics.read_metrics(str(workdir))
    printed = in_process.run(
        "train.py",
        "--config=photos",
        # What the changelog says about the recipe of version 0.1.
        *("--config.image_size=16", "--config.evaluation_size=0", "--config.epochs=32"),
        *("--config.queue_size=64", "--config.batch_size=16", "--config.bn_groups=2"),
        *("--config.steps=6", "--config.checkpoint_every=3", "--config.log_every=2"),
        "--config.knn_every=0",
        workdir=workdir,
    )
    assert f"resuming from step 3 in {workdir}" in printed
    run = moco_tf.load_run(workdir)
    assert (run.step, run.finished) == (6, True)
    continued = run_metrics.read_metrics(str(workdir))
    assert continued[: len(lines)] == lines
    assert [line["step"] for line in continued[len(lines) :]] == [4, 6]
