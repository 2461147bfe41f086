"""The study of transfer: its plan, its images, its resuming, and one real run of tiny sizes."""

import dataclasses
import gzip
import json
import os
import pathlib
import shutil
import signal
import sys

import numpy as np
import pytest

pytest.importorskip("keras_hub")
pytest.importorskip("pycocotools")

from docs import garments
from moco_tf.config_checks import check
from moco_tf.data import boxes, sources
from moco_tf.data.sources import idx
from moco_tf.errors import UserError
from moco_tf.evaluation.settings import DetectionSettings, SegmentationSettings
from studies.transfer import design as designs
from studies.transfer import images, study, trainings
from studies.transfer.__main__ import main
from tests.scenes import FASHION_MNIST, needs_fashion_mnist

TINY = designs.Design(
    num_train=8,
    num_test=4,
    batch_size=4,
    detection_steps=2,
    segmentation_steps=2,
    warmup_steps=1,
    pretrain_images=32,
    pretrain_test_images=8,
    pretrain_epochs=1,
    pretrain_batch_size=16,
    queue_size=16,
    view_size=32,
)


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    monkeypatch.setattr(designs, "Design", lambda: TINY)
    return ["--seeds=0,1", f"--out={tmp_path}/out", f"--workdir={tmp_path}/runs"]


@pytest.fixture
def started(monkeypatch):
    """Replace every training by a record, and return the names and seeds of the trainings."""
    started = []

    def make_record(training, design, workdir, out, signals):
        started.append((training.name, training.seed))
        initialization = training.settings["initialization"]
        if "task" not in training.settings:
            os.makedirs(workdir, exist_ok=True)
            pathlib.Path(trainings.weights_path(workdir, initialization)).touch()
            return {"checksum": initialization, "seconds": 60.0, "top1": 0.8}
        # Pictures are those of the first seed and the shortest schedule.
        first = training.seed == 0 and training.settings["schedule"] == 1
        assert bool(out) == first
        score = 0.1 * list(designs.INITIALIZATIONS).index(initialization)
        return {"ap": score, "mean_iou": score, "seconds": 1.0}

    monkeypatch.setattr(study, "run_in_process", make_record)
    monkeypatch.setattr(images, "write", lambda *_: None)
    return started


def read_results(tmp_path):
    return json.loads((tmp_path / "out" / "results.json").read_text())


def test_every_trial_is_planned_once_and_seed_by_seed():
    design = designs.Design()
    trials = designs.trials(design, [0, 1, 2, 3, 4])
    assert len({(trial.name, trial.seed) for trial in trials}) == len(trials) == 2 * 3 * 2 * 5
    assert [trial.seed for trial in trials] == sorted(trial.seed for trial in trials)
    for trial in trials:
        settings = trainings.trial_settings(trial.settings, trial.seed, design)
        is_detection = trial.settings["task"] == "detection"
        assert type(settings) is (DetectionSettings if is_detection else SegmentationSettings)
        base = design.detection_steps if is_detection else design.segmentation_steps
        assert settings.steps == trial.settings["schedule"] * base
        assert settings.seed == trial.seed
        assert len(settings.milestones) == 2
        assert settings.warmup_steps < settings.milestones[0]


def test_both_pretrainings_see_the_same_number_of_images():
    design = designs.Design()
    config = trainings.moco_config(design, "runs")
    check(config)
    assert design.pretrain_images % design.pretrain_batch_size == 0  # Neither drops images.
    assert config.epochs * design.pretrain_images == design.pretrain_steps * config.batch_size


@needs_fashion_mnist
def test_images_that_were_made_from_others_are_not_used(tmp_path):
    folder = tmp_path / "fashion-mnist"
    shutil.copytree(FASHION_MNIST, folder)
    images.write(TINY, str(tmp_path / "runs"), str(folder))
    images.write(TINY, str(tmp_path / "runs"), FASHION_MNIST)
    larger = dataclasses.replace(TINY, pretrain_images=48)
    with pytest.raises(UserError, match="has images that differ in pretrain_images: choose"):
        images.write(larger, str(tmp_path / "runs"), FASHION_MNIST)
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    contents = gzip.decompress(labels.read_bytes())
    labels.write_bytes(gzip.compress(contents[:-1] + bytes([9 - contents[-1]])))
    with pytest.raises(UserError, match="has images that differ in fashion_mnist: choose"):
        images.write(TINY, str(tmp_path / "runs"), str(folder))
    (tmp_path / "runs" / "images.json").unlink()  # As in earlier versions.
    images.write(TINY, str(tmp_path / "runs"), str(folder))
    assert not (tmp_path / "runs" / "images.json").exists()


@needs_fashion_mnist
def test_images_for_training_and_testing_are_of_different_garments(tmp_path):
    images.write(TINY, str(tmp_path), FASHION_MNIST)
    scenes = boxes.load(f"coco:{tmp_path}/scenes", masks=True)
    assert (len(scenes.train), len(scenes.test)) == (8, 4)
    unlabeled = np.load(tmp_path / "unlabeled.npy")
    assert unlabeled.shape == (32, 96, 96)
    single = sources.load(f"idx:{tmp_path}/single")
    assert (len(single.train), len(single.test)) == (32, 8)
    # A garment of the same keys, found by its definition.
    part, _ = idx.load_parts(FASHION_MNIST)
    kinds = {kind: part.images[part.labels == kind - 1] for kind in range(1, 11)}
    photographs = [garments.read_photograph(name) for name in garments.TRAIN_PHOTOGRAPHS]
    for number in range(3):
        generator = np.random.default_rng([0, 3, 0, number])
        image, [kind], _ = garments.make_scene(generator, photographs, kinds, (96, 96), 1)
        np.testing.assert_array_equal(single.read(number), image)
        assert single.labels[number] == kind - 1
    before = (tmp_path / "unlabeled.npy").stat().st_mtime_ns
    images.write(TINY, str(tmp_path), FASHION_MNIST)
    assert (tmp_path / "unlabeled.npy").stat().st_mtime_ns == before


def test_finished_trainings_are_not_run_again(arguments, started, tmp_path, capsys):
    assert main(arguments) == 0
    assert len(started) == 2 + 2 * 12
    assert started[:2] == [("pre-training, supervised", 0), ("pre-training, moco", 0)]
    assert "26/26: segmentation, moco, 2x, seed 1: ap 0.200" in capsys.readouterr().out
    assert (tmp_path / "out" / "transfer.png").exists()
    results = read_results(tmp_path)
    assert [(run["name"], run["seed"]) for run in results["runs"]] == started
    del results["runs"][5]
    (tmp_path / "out" / "results.json").write_text(json.dumps(results))
    assert main(arguments) == 0
    assert started[26:] == [started[5]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_the_study(arguments, started, tmp_path, monkeypatch, capsys, number):
    make_record = study.run_in_process

    def stopped(training, design, workdir, out, signals):
        if len(started) == 4:
            signal.raise_signal(number)
            return None
        return make_record(training, design, workdir, out, signals)

    monkeypatch.setattr(study, "run_in_process", stopped)
    assert main(arguments) == 128 + number
    assert "stopped; run the same command again" in capsys.readouterr().out
    assert len(read_results(tmp_path)["runs"]) == 4
    monkeypatch.setattr(study, "run_in_process", make_record)
    assert main(arguments) == 0
    assert len(started) == len(set(started)) == 26


def test_other_weights_are_not_mixed_with_finished_trials(arguments, started, tmp_path, capsys):
    assert main(arguments) == 0
    os.remove(tmp_path / "runs" / "moco.npz")
    assert main(arguments) == 0  # The same weights again.
    results = read_results(tmp_path)
    results["runs"][1]["checksum"] = "other"
    (tmp_path / "out" / "results.json").write_text(json.dumps(results))
    os.remove(tmp_path / "runs" / "moco.npz")
    assert main(arguments) == 2
    assert "holds trials from other weights of 'pre-training, moco'" in capsys.readouterr().err


@needs_fashion_mnist
@pytest.mark.nightly
def test_real_study_of_tiny_sizes(arguments, tmp_path, monkeypatch):
    design = dataclasses.replace(TINY, schedules=(1,))
    monkeypatch.setattr(designs, "Design", lambda: design)
    arguments = [*arguments, "--seeds=0"]
    # Stopped when the pre-training with MoCo has ended.
    run_in_process, started = study.run_in_process, []

    def interrupted(training, design, workdir, out, signals):
        started.append(training.name)
        if len(started) == 3:
            signal.raise_signal(signal.SIGINT)
        return run_in_process(training, design, workdir, out, signals)

    monkeypatch.setattr(study, "run_in_process", interrupted)
    assert main(arguments) == 128 + signal.SIGINT
    assert len(read_results(tmp_path)["runs"]) == 2
    assert main(arguments) == 0
    assert len(started) == 3 + 6
    supervised, moco, *trials = read_results(tmp_path)["runs"]
    assert 0 <= supervised["top1"] <= 1
    assert moco["chance"] == pytest.approx(np.log(17), abs=1e-4)
    assert len(trials) == 6
    for trial in trials:
        assert 0 <= trial.get("ap", trial.get("mean_iou")) <= 1
        assert trial["curve"]["step"] == [1, 2]
    # The first losses differ, so the trials start from different weights.
    assert len({trial["curve"]["loss"][0] for trial in trials[:3]}) == 3
    for name in ("transfer", "detection_moco", "segmentation_random"):
        assert (tmp_path / "out" / f"{name}.png").exists()


def test_mistakes_are_one_line(arguments, started, tmp_path, capsys, monkeypatch):
    assert main([*arguments, "--seeds=a"]) == 2
    assert "--seeds=a: use integers" in capsys.readouterr().err
    assert main([*arguments, "--figures_only"]) == 2
    assert "holds no results" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*arguments, "--fashion_mnist=/nowhere"]) == 2
    assert "there is no folder /nowhere" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "keras_hub", None)  # As if it were not installed.
    assert main(arguments) == 2
    assert "the study of transfer needs KerasHub" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
