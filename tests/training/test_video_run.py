"""A run on videos through the commands, with key frames and without neighbors as negatives."""

import glob
import json
import os
import shutil

import numpy as np
import pytest

from moco_tf import run_directory, run_metrics
from moco_tf.config import default_config
from moco_tf.config_checks import check
from moco_tf.errors import UserError
from moco_tf.run_summary import differing_settings
from tests import in_process, videos
from tests.command import TINY, state

SETTINGS = (
    *("--config.data.frame_seconds=0.2", "--config.data.key_frame_seconds=0.4"),
    *("--config.data.neighbor_seconds=0.6", "--config.epochs=2", "--config.knn_every=0"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of two classes with three videos of 12 sampled frames each."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("chelsea", "coffee"):
        (folder / name).mkdir()
        for number in range(3):
            frames = videos.pan(name, 60, step=1 + number)
            videos.encode(folder / name / f"{number}.mp4", frames)
    return folder


def train(folder, workdir, *more):
    source = f"--config.data.source=video:{folder}"
    return in_process.run("train.py", *TINY, source, *SETTINGS, *more, workdir=workdir)


@pytest.mark.nightly
def test_run_resumes_bit_identical_and_is_evaluated(folder, tmp_path):
    output = train(folder, tmp_path / "run")
    assert "72 images in 6 videos, in 2 classes: chelsea, coffee" in output
    losses = [line["loss"] for line in run_metrics.read_metrics(str(tmp_path / "run"))]
    assert np.isfinite(losses).all()

    workdir = shutil.copytree(tmp_path / "run", tmp_path / "resumed")
    # As if the run had been killed after step 6, in the middle of an epoch.
    for path in run_directory.checkpoints(str(workdir)):
        if int(path.rsplit("-", 1)[1]) > 6:
            for file in glob.glob(f"{path}.*"):
                os.remove(file)
    assert "resuming from step 6" in train(folder, workdir)
    expected, actual = state(tmp_path / "run"), state(workdir)
    assert any("frames" in name for name in expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)

    in_process.run("evaluate.py", "--protocol=knn", workdir=workdir)
    result = json.loads((workdir / "eval" / "knn.json").read_text())
    assert result["num_test"] in (12, 24, 36)
    assert result["num_train"] + result["num_test"] == 72


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mechanism": "memory_bank", "data.key_frame_seconds": 1.0}, "has no key views"),
        ({"mechanism": "memory_bank", "data.neighbor_seconds": 1.0}, "has no queue: set it to 0"),
        ({"mechanism": "end_to_end", "queue_size": 0, "data.neighbor_seconds": 1.0}, "no queue"),
        ({"data.frame_seconds": -1.0}, "config.data.frame_seconds=-1.0"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    config = default_config()
    config.data.source = "video:clips"
    config.update_from_flattened_dict(settings)
    with pytest.raises(UserError, match=message):
        check(config)


def test_deviations_from_the_paper_are_named():
    config = default_config()
    config.data.key_frame_seconds = 2.0
    config.data.frame_seconds = 0.5
    assert differing_settings(config) == {"data.key_frame_seconds": (2.0, 0.0)}
