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
