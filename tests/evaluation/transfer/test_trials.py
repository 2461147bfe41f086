"""Which stored trials of a comparison of initializations are used again."""

import dataclasses

import keras
import numpy as np
import pytest

pytest.importorskip("keras_hub")
pytest.importorskip("pycocotools")
from moco_tf.data.boxes.annotations import AnnotatedImages
from moco_tf.evaluation import training_state
from moco_tf.evaluation.settings import DetectionSettings
from moco_tf.evaluation.training_state import TrainingState
from moco_tf.evaluation.transfer import training, trials
from moco_tf.evaluation.transfer.detection import DETECTION


def network(scale=1.0):
    layers = [keras.Input((None, None, 3)), keras.layers.Rescaling(scale)]
    return keras.Sequential([*layers, keras.layers.Conv2D(2, 3, kernel_initializer="ones")])


def test_interrupted_comparison_keeps_the_other_trials(monkeypatch, tmp_path, capsys):
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
    # An initialization whose trials are finished does not name the state of another one.
    (tmp_path / "eval" / "detection_comparison.0123456789ab.state").touch()
    capsys.readouterr()
    assert compare(5) == [5, 5]
    assert "unfinished training" not in capsys.readouterr().out


def test_interrupted_trial_and_the_finished_ones_are_in_the_state(monkeypatch, tmp_path):
    monkeypatch.setattr(training_state, "SAVE_SECONDS", 0)
    variable = keras.Variable(0.0)
    trained = []

    def run_trial(task, initialize, images, image_size, settings, progress, state):
        curve = training.unfinished(state, settings.seed) or []
        if curve:
            state.restore([variable], "step 2")
        trained.append((settings.seed, len(curve), float(variable.value)))
        for step in range(len(curve), 3):
            curve.append({"step": step + 1})
            variable.assign(10 * settings.seed + step)
            state.save_if_due([variable], {"current": {"seed": settings.seed, "curve": curve}})
            if (settings.seed, step) == (1, 1) and len(trained) == 2:
                raise KeyboardInterrupt
        metrics = dict.fromkeys(DETECTION.metrics, 0.5)
        return {"seed": settings.seed, **metrics, "seconds": 1.0, "curve": curve}, {0: ()}

    monkeypatch.setattr(trials, "_run_trial", run_trial)
    indices = np.arange(3)
    images = AnnotatedImages("memory", ["a"], None, None, str, indices, indices, 1)
    path = str(tmp_path / "state")

    def run(number):
        settings = DetectionSettings(trials=number)
        return trials.run(DETECTION, None, images, 64, settings, state=TrainingState(path))

    with pytest.raises(KeyboardInterrupt):
        run(3)
    variable.assign(0)
    result, _ = run(3)
    assert trained == [(0, 0, 0), (1, 0, 2), (1, 2, 11), (2, 0, 12)]
    assert [trial["seed"] for trial in result["trials"]] == [0, 1, 2]
    assert all(len(trial["curve"]) == 3 for trial in result["trials"])
    [path_of_state] = tmp_path.iterdir()
    state = TrainingState(path)
    state.facts["current"] = {"seed": 2, "curve": []}
    trials.finish(state, DetectionSettings(trials=2))
    assert path_of_state.exists()  # It has a later trial.
    trials.finish(TrainingState(path), DetectionSettings(trials=2))
    assert path_of_state.exists()  # It has a later trial that is finished.
    fewer, predictions = run(2)
    assert (len(fewer["trials"]), predictions) == (2, {})
    assert len(trained) == 4
    trials.finish(TrainingState(path), DetectionSettings(trials=3))
    assert not path_of_state.exists()


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
