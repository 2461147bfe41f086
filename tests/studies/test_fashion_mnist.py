"""The study of Fashion-MNIST: its runs, its tables, and a real run that is stopped and resumed."""

import importlib
import json
import signal

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.evaluation.settings import FinetuneSettings
from studies import fashion_mnist, labels, study
from tests import command
from tests.command import ROOT
from tests.data.sources.test_idx import write_idx
from tests.studies.made_up import make_record

NAMES = ["pixels", "resnet8-moco", "resnet8-random"]


@pytest.fixture
def folder(tmp_path):
    """A folder of IDX files with 400 training and 50 test images."""
    folder = tmp_path / "idx"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, count in (("train", 400), ("t10k", 50)):
        classes = (np.arange(count) % 10).astype(np.uint8)
        images = generator.integers(0, 25 * classes[:, None, None] + 6, [count, 28, 28])
        write_idx(folder, f"{name}-images-idx3-ubyte", images.astype(np.uint8))
        write_idx(folder, f"{name}-labels-idx1-ubyte", classes)
    return folder


@pytest.fixture
def arguments(folder, tmp_path):
    return [
        *(f"--data={folder}", "--seeds=0", "--steps=4"),
        *(f"--out={tmp_path}/out", f"--workdir={tmp_path}/runs"),
    ]


@pytest.fixture
def started(monkeypatch):
    """Replace every run by a record, and return the configs and the evaluations of the runs."""
    started = []

    def make_run(config, workdir, signals, on_poll, evaluations):
        started.append((config, evaluations))
        accuracy = 0.5 + 0.01 * len(started)
        record = make_record(accuracy, [9.0, 8.0] if config.epochs else None)
        record["few_shot_top1"] = {"1": 0.25, "5": 0.5, "10": accuracy}
        record["finetune"] = {
            name: {"top1": accuracy, "num_train": 4, **FinetuneSettings(**settings).used()}
            for name, settings in evaluations.finetunings.items()
        }
        return record

    monkeypatch.setattr(study, "run_in_process", make_run)
    return started


@pytest.fixture
def tables(monkeypatch, tmp_path):
    """Import docs/fashion_mnist_tables.py, and let it read the results in `tmp_path/out`."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    module = importlib.import_module("fashion_mnist_tables")
    monkeypatch.setattr(module, "PATH", tmp_path / "out" / "results.json")
    return module


def read_results(tmp_path):
    return json.loads((tmp_path / "out" / "results.json").read_text())


def test_runs_of_a_seed(arguments, started, tmp_path, capsys):
    assert fashion_mnist.main(arguments) == 0
    assert "hours for each of 1 seeds" in capsys.readouterr().out
    results = read_results(tmp_path)
    assert [run["name"] for run in results["runs"]] == NAMES
    assert [config.epochs for config, _ in started] == [0, 60, 0]
    assert [config.steps for config, _ in started] == [0, 4, 0]
    assert [evaluations.is_pixels for _, evaluations in started] == [True, False, False]
    # The test images are those of the data set, and no image is trained on and tested.
    assert results["data"]["num_train"] == results["data"]["num_images"] == 400
    assert results["data"]["num_test"] == 50
    assert fashion_mnist.main(arguments) == 0
    assert len(started) == 3  # They are not run again.


def test_rival_has_the_same_schedules_and_longer_ones(arguments, started):
    fashion_mnist.main([*arguments, "--encoders=resnet8,resnet18"])
    assert [config.encoder for config, _ in started[1:]] == ["resnet8"] * 2 + ["resnet18"] * 2
    assert [config.epochs for config, _ in started[1:]] == [60, 0, 10, 0]
    fractions = {"resnet8": [0.01, 0.1, 1.0], "resnet18": [0.01]}
    for (config, pretrained), (_, random) in (started[1:3], started[3:5]):
        same = {k: v for k, v in random.finetunings.items() if not k.endswith("longer")}
        assert same == pretrained.finetunings
        used = [settings["label_fraction"] for settings in same.values()]
        assert used == fractions[config.encoder]
        for name, settings in same.items():
            epochs = 4 * settings["epochs"]
            longer = {**settings, "epochs": epochs, "evaluate_every": epochs}
            assert random.finetunings[f"{name} longer"] == longer
    for _, evaluations in started:
        # They travel to the process of the run as JSON.
        sent = labels.Labels(**json.loads(json.dumps(evaluations._asdict())))
        assert sent == evaluations


@pytest.mark.parametrize(("encoder", "epochs"), [("resnet8", 60), ("resnet18", 10)])
def test_estimate_is_the_sum_of_the_images(encoder, epochs):
    runs = fashion_mnist.plan([encoder], fashion_mnist.base_config("idx"))
    speed = fashion_mnist.ENCODERS[encoder].speed
    finetuned = [600 * 40, 6000 * 20, 60000 * 10]
    if encoder == "resnet18":
        del finetuned[1:]
    extracted = 10000 * len(finetuned)
    trained = epochs * (60000 // 128) * 128 / speed
    # Three and one of the four forward passes of pre-training, on views that take longer.
    same, longer = (
        2.3 * (3 * factor * sum(finetuned) + extracted) / (4 * speed) for factor in (1, 4)
    )
    fixed = fashion_mnist.FIXED_SECONDS + 2.3 * 70000 / (4 * speed)
    assert runs[f"{encoder}-moco"].cost == pytest.approx(fixed + same + trained)
    assert runs[f"{encoder}-random"].cost == pytest.approx(fixed + same + longer)


def test_pixels_are_the_mean_of_the_channels():
    images = np.random.default_rng(0).integers(0, 256, [3, 4, 4, 3]).astype(np.uint8)
    expected = images.astype(np.float64).mean(-1).reshape(3, 16)
    np.testing.assert_allclose(labels.pixels(tf.constant(images)), expected, rtol=1e-6)


def test_tables_show_complete_rows_only(arguments, started, tables, tmp_path):
    assert tables.frozen() == tables.finetuning() == tables.recipe() == tables.UNFINISHED
    fashion_mnist.main([*arguments, "--seeds=0,1", "--encoders=resnet8,resnet18"])
    results = read_results(tmp_path)
    results["runs"] = [
        run for run in results["runs"] if (run["name"], run["seed"]) != ("resnet18-random", 1)
    ]
    (tmp_path / "out" / "results.json").write_text(json.dumps(results))
    header, _, *rows, _, note = tables.frozen().splitlines()
    assert header.startswith("| features | kNN | linear probe | 1 label per class |")
    assert [row.split(" | ")[0] for row in rows] == [
        "| raw pixels",
        "| resnet8, random initialization",
        "| **resnet8, MoCo**",
        "| resnet18, random initialization",
        "| **resnet18, MoCo for 10 epochs**",
    ]
    # Runs 2 and 7 of the ten, and run 4, whose second seed is left out with its rival's.
    accuracies = np.array([52.0, 57.0])
    expected = f"**{accuracies.mean():.1f} ± {accuracies.std(ddof=1):.1f}**"
    assert expected in rows[2]
    assert "| **54.0** |" in rows[4]
    assert note == "Top-1 accuracy in percent, resnet8 with 2 seeds, resnet18 with 1 seed."
    header, _, *rows, _, _ = tables.finetuning().splitlines()
    assert header == "| training | 1 % of the labels | 10 % | 100 % |"
    assert rows[1].startswith("| resnet8, supervised only, 4 times the epochs | ")
    assert rows[5] == (
        "| **resnet18, MoCo for 10 epochs, then fine-tuned** | **54.0** | **–** | **–** |"
    )
    assert "| 1 %, longer | 4 | 160 | 64 | " in tables.schedules()
    assert "| `queue_size` | `8192` |" in tables.recipe()


def test_mistakes_are_one_line(arguments, started, tmp_path, capsys):
    for flag, message in (
        ("--seeds=a", "--seeds=a: use integers"),
        ("--encoders=resnet50", "--encoders=resnet50: choose from resnet8, resnet18"),
        (f"--data={tmp_path}/none", f"there is no folder '{tmp_path}/none'"),
    ):
        assert fashion_mnist.main([*arguments, flag]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert message in line
    assert not started
    assert not (tmp_path / "out").exists()


@pytest.mark.nightly
def test_real_study_is_stopped_and_resumed(arguments, tmp_path):
    finished = tmp_path / "runs" / "resnet8-moco" / "seed0" / "eval" / f"{labels.PROTOCOL}.json"
    process = command.start("-m", "studies.fashion_mnist", *arguments)
    command.wait_for((tmp_path / "runs" / "resnet8-moco").exists, process)
    command.wait_for(finished.exists, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped in run 2; run the same command again" in output
    assert [run["name"] for run in read_results(tmp_path)["runs"]] == ["pixels"]
    first = json.loads(finished.read_text())["finetunings"][0]

    command.run("-m", "studies.fashion_mnist", *arguments)
    pixels, pretrained, random = read_results(tmp_path)["runs"]
    assert pretrained["curves"]["step"][-1] == 4
    # It is the one from before, to the millisecond.
    assert pretrained["finetune"]["0.01"]["seconds"] == first["seconds"]
    assert list(pretrained["finetune"]) == ["0.01", "0.1", "1"]
    assert pretrained["finetune"]["0.1"]["num_train"] == 40
    assert random["finetune"]["1 longer"]["epochs"] == 40
    assert "finetune" not in pixels
    for record in (pixels, pretrained, random):
        assert set(record["few_shot_top1"]) == {"1", "5", "10"}
    assert (tmp_path / "out" / "curves-resnet8.png").exists()
