"""Which stored trials of a comparison of initializations are used again."""

import dataclasses

import keras
import numpy as np
import pytest

pytest.importorskip("keras_hub")
pytest.importorskip("pycocotools")
from moco_tf.data.boxes.annotations import AnnotatedImages
from moco_tf.evaluation.settings import DetectionSettings
from moco_tf.evaluation.transfer import trials
from moco_tf.evaluation.transfer.detection import DETECTION


def network(scale=1.0):
    layers = [keras.Input((None, None, 3)), keras.layers.Rescaling(scale)]
    return keras.Sequential([*layers, keras.layers.Conv2D(2, 3, kernel_initializer="ones")])


def test_interrupted_comparison_keeps_the_other_trials(monkeypatch, tmp_path):
    computed = []

    def run_trial(task, initialize, images, image_size, settings, progress, state):
        if progress in stops:
            raise KeyboardInterrupt
        computed.append(progress)
        metrics = dict.fromkeys(DETECTION.metrics, len(computed) / 100)
        return {"seed": settings.seed, **metrics, "seconds": 1.0, "curve": []}, {}

    monkeypatch.setattr(trials, "_run_trial", run_trial)
    indices = np.arange(3)
    images = AnnotatedImages("memory", ["a"], None, None, str, indices, indices, 1, checksum="old")

    def compare(number):
        initializations = {"random": lambda _: network(), "ours": lambda _: network(2.0)}
        settings = DetectionSettings(trials=number)
        arguments = (DETECTION, initializations, images, 64, str(tmp_path), {}, settings)
        rows = trials.compare(*arguments)["rows"]
        return [len(row["trials"]) for row in rows]

    stops = []
    assert compare(3) == [3, 3]
    stops = ["random, trial 4 of 5"]
    with pytest.raises(KeyboardInterrupt):
        compare(5)
    stops = []
    assert compare(1) == [1, 1]
    assert len(computed) == 6
    assert compare(5) == [5, 5]
    assert len(computed) == 10


def test_trials_of_other_annotations_or_layers_are_not_used(monkeypatch, tmp_path):
    count = 0

    def run_trial(*arguments):
        nonlocal count
        count += 1
        metrics = dict.fromkeys(DETECTION.metrics, count / 100)
        return {"seed": 0, **metrics, "seconds": 1.0, "curve": []}, {}

    monkeypatch.setattr(trials, "_run_trial", run_trial)
    indices = np.arange(3)
    images = AnnotatedImages("memory", ["a"], None, None, str, indices, indices, 1, checksum="old")
    settings = DetectionSettings(trials=1)

    def compare(images=images, scale=1.0):
        initializations = {"ours": lambda _: network(scale)}
        arguments = (DETECTION, initializations, images, 64, str(tmp_path), {}, settings)
        [row] = trials.compare(*arguments)["rows"]
        return row["ap"]

    assert compare() == compare() == 0.01
    assert compare(dataclasses.replace(images, checksum="new")) == 0.02
    assert compare(dataclasses.replace(images, checksum="new"), scale=2.0) == 0.03
