"""Which stored curves of a comparison of fine-tunings are used again."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from moco_tf.errors import UserError
from moco_tf.evaluation import comparison, protocols
from moco_tf.evaluation.settings import FinetuneSettings
from studies import labels as study
from tests.memory import source_of

SETTINGS = FinetuneSettings(epochs=1)
LABELS = np.arange(12) % 2


def example(labels=LABELS, **changes):
    source = source_of(np.zeros((12, 8, 8, 3), np.uint8), labels, range(8), range(8, 12))
    return dataclasses.replace(source, list_contents=lambda: [b"images"], **changes)


def build(scale=1 / 255):
    layers = [keras.Input((None, None, 3)), keras.layers.Rescaling(scale)]
    layers.append(keras.layers.Conv2D(2, 3, kernel_initializer="ones"))
    return keras.Sequential([*layers, keras.layers.GlobalAveragePooling2D()])


@pytest.fixture
def computed(monkeypatch):
    """Return the list of the fine-tunings that are computed, in place of which none is."""
    computed = []

    def evaluate(backbone, source, image_size, settings, progress, state=None):
        computed.append((progress, settings.layers))
        results = {"top1": len(computed), "top1_interval": [0, 1], "num_train": 8, "seconds": 1}
        curve = [{"epoch": epoch} for epoch in sorted(settings.evaluated_epochs())]
        return None, {**results, "curve": curve, **settings.used()}

    monkeypatch.setattr(protocols, "evaluate_finetune", evaluate)
    return computed


def compare(directory, source=None, backbone=None, image_size=8, settings=SETTINGS):
    """Return the accuracies of a comparison of one backbone: the number of each computation."""
    backbones = {"ours": backbone or build()}
    source = source or example()
    result = comparison.compare(backbones, source, image_size, str(directory), {}, settings)
    return [curve["top1"] for curve in result["curves"]]


def test_curve_with_too_few_points_is_computed_again(computed, tmp_path):
    every, seldom = (
        dataclasses.replace(SETTINGS, epochs=4, evaluate_every=number) for number in (1, 3)
    )
    assert compare(tmp_path, settings=seldom) == [1, 2]
    assert compare(tmp_path, settings=every) == [3, 4]
    assert compare(tmp_path, settings=seldom) == [3, 4]


CHANGES = {
    "labels": {"source": lambda: example(1 - LABELS)},
    "class names": {"source": lambda: example(load_labels=lambda: (LABELS, ["a", "b"]))},
    "images": {"source": lambda: dataclasses.replace(example(), list_contents=lambda: [b"new"])},
    "options": {"source": lambda: example(options={"orientation": True})},
    "name": {"source": lambda: example(name="other")},
    "preprocessing": {"backbone": lambda: build(1 / 127.5)},
    "image size": {"image_size": lambda: 16},
    "settings": {"settings": lambda: FinetuneSettings(epochs=2)},
}


@pytest.mark.parametrize("name", CHANGES)
def test_curves_of_something_else_are_not_used(computed, tmp_path, name):
    assert compare(tmp_path) == [1, 2]
    assert compare(tmp_path) == [1, 2]
    changes = {key: value() for key, value in CHANGES[name].items()}
    assert compare(tmp_path, **changes) == [3, 4]
    assert compare(tmp_path, **changes) == [3, 4]


def forget(path, key, names):
    """Remove entries from the records of a file, as if an earlier version had written it."""
    content = json.loads(path.read_text())
    for record in content[key]:
        for name in names:
            del record[name]
    path.write_text(json.dumps(content))


NEW = ("network", "data_checksum", "labels_checksum", "data_options")


def test_interrupted_comparison_keeps_the_other_curves(computed, tmp_path, monkeypatch):
    source = example()

    def run(**backbones):
        result = comparison.compare(backbones, source, 8, str(tmp_path), {}, SETTINGS)
        return [curve["top1"] for curve in result["curves"]]

    assert run(ours=build(), other=build(1.0)) == [1, 2, 3, 4]
    evaluate = protocols.evaluate_finetune

    def stop(backbone, source, image_size, settings, progress, state=None):
        if settings.layers == "all":
            raise KeyboardInterrupt
        return evaluate(backbone, source, image_size, settings, progress, state)

    monkeypatch.setattr(protocols, "evaluate_finetune", stop)
    with pytest.raises(KeyboardInterrupt):
        run(ours=build(2.0), other=build(1.0))
    monkeypatch.setattr(protocols, "evaluate_finetune", evaluate)
    assert run(ours=build(2.0), other=build(1.0)) == [5, 6, 3, 4]
    # The curves of the first weights are still there.
    assert run(ours=build()) == [1, 2]
    assert run(ours=build(), other=build(1.0)) == [1, 2, 3, 4]


def test_curves_of_earlier_versions_are_computed_again(computed, tmp_path):
    compare(tmp_path)
    forget(tmp_path / "eval" / "finetune_comparison.json", "curves", NEW)
    assert compare(tmp_path) == [3, 4]


def test_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "finetune_comparison.json").write_text('{"curves": [1]}')
    with pytest.raises(UserError, match="is not the result of a comparison: delete it"):
        compare(tmp_path)


def tune(directory, source, backbone):
    finetunings = {"all": {"epochs": 1}}
    return study.finetune(backbone, source, 8, 0, finetunings, str(directory))["all"]["top1"]


def test_study_uses_results_of_the_same_images_labels_and_network_alone(computed, tmp_path):
    assert tune(tmp_path, example(), build()) == 1
    assert tune(tmp_path, example(), build()) == 1
    assert tune(tmp_path, example(1 - LABELS), build()) == 2
    assert tune(tmp_path, example(options={"orientation": True}), build()) == 3
    assert tune(tmp_path, example(), build(1 / 127.5)) == 4
    assert tune(tmp_path, example(), build()) == 1
    forget(tmp_path / "eval" / f"{study.PROTOCOL}.json", "finetunings", (*NEW, "data_images"))
    assert tune(tmp_path, example(), build()) == 5
