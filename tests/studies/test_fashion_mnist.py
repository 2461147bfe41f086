"""The study of Fashion-MNIST: its commands, its results, and one real run on a few images."""

import json

import numpy as np
import pytest

from studies import fashion_mnist
from tests.data.sources.test_idx import write_idx


@pytest.fixture
def folder(tmp_path):
    """A folder of IDX files with 400 training and 60 test images, which brightness classifies."""
    folder = tmp_path / "idx"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, count in (("train", 400), ("t10k", 60)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = generator.integers(0, 25 * labels[:, None, None] + 6, [count, 28, 28])
        write_idx(folder, f"{name}-images-idx3-ubyte", images.astype(np.uint8))
        write_idx(folder, f"{name}-labels-idx1-ubyte", labels)
    return folder


@pytest.fixture
def arguments(folder, tmp_path):
    return [
        *(f"--data={folder}", "--seeds=0", f"--out={tmp_path}/out", f"--workdir={tmp_path}/runs"),
        *("--epochs=1", "--share=0.01"),
    ]


def test_study_stops_at_a_command_that_fails(monkeypatch, arguments):
    called = []
    monkeypatch.setattr(fashion_mnist, "_call", lambda command: called.append(command) or 7)
    monkeypatch.setattr(fashion_mnist, "_evaluate_pixels", lambda *_: {"name": "x", "seed": 0})
    assert fashion_mnist.main(arguments) == 7
    assert [command[1] for command in called] == ["train.py"]


def test_seeds_must_be_integers(capsys):
    assert fashion_mnist.main(["--seeds=0,x"]) == 2
    assert "--seeds=x: use integers" in capsys.readouterr().err


def test_accuracies_of_each_protocol():
    accuracies = fashion_mnist.accuracies
    assert accuracies("MoCo", {"protocol": "knn", "top1": 0.5}) == [("MoCo", "knn", 0.5)]
    shots = [{"shots": 1, "top1": 0.2}, {"shots": 5, "top1": 0.3}]
    assert accuracies("raw pixels", {"protocol": "few-shot", "few_shot": shots}) == [
        ("raw pixels", "1-shot", 0.2),
        ("raw pixels", "5-shot", 0.3),
    ]
    curves = [
        {"initialisation": name, "layers": layers, "label_fraction": 0.1, "top1": top1}
        for name, layers, top1 in (
            ("pre-trained", "head", 0.1),
            ("pre-trained", "all", 0.9),
            ("random initialization, resnet8", "all", 0.8),
        )
    ]
    assert accuracies("", {"protocol": "finetune_comparison", "curves": curves}) == [
        ("MoCo", "finetune 0.1", 0.9),
        ("random initialization", "finetune 0.1", 0.8),
    ]


@pytest.mark.nightly
def test_study_measures_every_cell_of_its_table(arguments, tmp_path):
    assert fashion_mnist.main(arguments) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    measured = {tuple(entry[:2]) for run in results["runs"] for entry in run.get("accuracies", [])}
    cached = {"knn", "linear_cached", "1-shot", "5-shot", "10-shot"}
    tuned = {"finetune 0.01", "finetune 0.1", "finetune 1"}
    assert measured == {
        *(("raw pixels", column) for column in cached),
        *(("random initialization", column) for column in cached | tuned),
        *(("MoCo", column) for column in cached | tuned),
        (fashion_mnist.LONGER_SUPERVISED, "finetune 1"),
    }
    num_runs = len(results["runs"])
    # A finished study does nothing more.
    assert fashion_mnist.main(arguments) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results["runs"]) == num_runs
