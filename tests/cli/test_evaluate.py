"""evaluate.py by every protocol, end to end on a small folder, and its mistakes."""

import json
import re

import numpy as np
import PIL.Image
import pytest

from moco_tf.backbones import loading
from moco_tf.config import default_config
from moco_tf.data import sources
from moco_tf.evaluation import knn
from moco_tf.evaluation.features import extract
from moco_tf.training.run import start_from
from tests import in_process
from tests.command import TINY
from tests.images import write_folder

RANDOM = ("evaluate.py", "--random_init", *TINY)
SHORT = ("--epochs=3", "--milestones=1,2", "--batch_size=16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "photos", each=30)


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    """A run of no step."""
    workdir = str(tmp_path_factory.mktemp("runs") / "run")
    config = default_config()
    settings = {"encoder": "resnet8", "stem": "small", "image_size": 32, "dim": 7, "head": "mlp"}
    settings |= {"data.source": f"folder:{folder}", "batch_size": 16, "bn_groups": 2}
    config.update_from_flattened_dict(settings | {"queue_size": 64})
    start_from(lambda model: None, config, workdir)
    return workdir


def evaluate(folder, out, *arguments):
    """The one line printed, and the result."""
    source = f"--config.data.source=folder:{folder}"
    output = in_process.run(*RANDOM, source, f"--output_dir={out}", *arguments)
    [line] = output.strip().splitlines()
    path = line.rpartition("wrote ")[2].partition(" and ")[0]
    with open(path) as file:
        result = json.load(file)
    assert path == f"{out}/eval/{result['protocol']}.json"
    assert result["backbone"] == "random resnet8" and result["image_size"] == 32
    assert result["num_train"] + result["num_test"] == 60 and result["seconds"] > 0
    return line, result


def test_linear(folder, tmp_path):
    line, result = evaluate(
        folder,
        tmp_path,
        "--protocol=linear",
        *SHORT,
        "--learning_rate=3.5",
        "--sgd_momentum=0.8",
        "--weight_decay=0.001",
        "--crop_scale=0.3,0.9",
        "--seed=5",
    )
    expected = {
        "protocol": "linear",
        "learning_rate": 3.5,
        "batch_size": 16,
        "epochs": 3,
        "milestones": [1, 2],
        "sgd_momentum": 0.8,
        "weight_decay": 0.001,
        "crop_scale": [0.3, 0.9],
        "seed": 5,
        "top5": 1.0,
    }
    assert {key: result[key] for key in expected} == expected
    assert f"top-1 {result['top1']:.4f}, top-5 1.0000" in line and line.startswith("linear of ")
    again = evaluate(folder, tmp_path, "--protocol=linear", "--epochs=1", "--milestones=")[1]
    assert again["milestones"] == [] and again["learning_rate"] == 30


def test_linear_cached(folder, tmp_path):
    arguments = ("--protocol=linear", "--cached", "--l2=0.1", "--iterations=50")
    line, result = evaluate(folder, tmp_path, *arguments)
    assert (result["protocol"], result["l2"], result["iterations"]) == ("linear_cached", 0.1, 50)
    assert line.startswith("linear_cached of ") and result["feature_seconds"] > 0
    assert f"top-1 {result['top1']:.4f}, top-5 1.0000" in line


def test_few_shot(folder, tmp_path):
    arguments = ("--protocol=few-shot", "--shots=2,5", "--draws=3", "--seed=4", "--l2=0.01")
    line, result = evaluate(folder, tmp_path, *arguments)
    expected = {"shots": [2, 5], "draws": 3, "seed": 4, "l2": 0.01, "iterations": 200}
    assert {key: result[key] for key in expected} == expected
    assert [row["shots"] for row in result["few_shot"]] == [2, 5]
    for row in result["few_shot"]:
        assert len(row["top1_of_draws"]) == 3
        assert row["top1"] == pytest.approx(np.mean(row["top1_of_draws"]))
        words = f"{row['top1']:.4f} ± {row['top1_std']:.4f} with {row['shots']} of each class"
        assert words in line


def test_finetune(folder, tmp_path):
    line, result = evaluate(
        folder,
        tmp_path,
        "--protocol=finetune",
        "--batch_norm=frozen",
        "--learning_rate=0.002",
        "--head_learning_rate=0.3",
        "--batch_size=16",
        "--epochs=2",
        "--sgd_momentum=0.8",
        "--weight_decay=0.001",
        "--crop_scale=0.3,0.9",
        "--seed=5",
    )
    expected = {
        "protocol": "finetune",
        "layers": "all",
        "label_fraction": 1.0,
        "batch_norm": "frozen",
        "learning_rate": 0.002,
        "head_learning_rate": 0.3,
        "batch_size": 16,
        "epochs": 2,
        "sgd_momentum": 0.8,
        "weight_decay": 0.001,
        "crop_scale": [0.3, 0.9],
        "seed": 5,
        "top5": 1.0,
    }
    assert {key: result[key] for key in expected} == expected
    assert f"top-1 {result['top1']:.4f}, top-5 1.0000" in line and line.startswith("finetune of ")
    assert [point["epoch"] for point in result["curve"]] == [1, 2]
    assert result["curve"][-1]["top1"] == result["top1"]


def test_knn_of_backbone_and_head(folder, workdir):
    source = sources.load(f"folder:{folder}")
    images = source.read(np.int64(0)).numpy()[np.newaxis].astype(np.float32)
    model, _ = loading.load_model(workdir)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = model.query_encoder(((images / 255 - mean) / std).astype(np.float32))
    head = loading.load_encoder(workdir)
    np.testing.assert_allclose(head(images), expected, rtol=1e-4, atol=1e-5)
    assert expected.shape == (1, 7)

    for name, flag, load in (
        ("knn", (), loading.load_backbone),
        ("knn_head", ("--features=head",), loading.load_encoder),
    ):
        output = in_process.run(
            "evaluate.py", "--protocol=knn", f"--workdir={workdir}", "--k=3", *flag
        )
        assert output.startswith(f"{name} of ")
        with open(f"{workdir}/eval/{name}.json") as file:
            result = json.load(file)
        train, test = (extract(load(workdir), source, p, 32) for p in (source.train, source.test))
        found = knn.classify(train.features, train.labels, test.features, test.labels, 2, k=3)
        assert result["top1"] == found["top1"] and result["k"] == 3
        picture = f"{workdir}/{name.replace('knn', 'neighbours')}.png"
        with PIL.Image.open(picture) as image:
            assert min(image.size) > 300


def test_report(workdir, tmp_path):
    arguments = ("evaluate.py", "--protocol=report", f"--workdir={workdir}")
    output = in_process.run(*arguments, f"--output_dir={tmp_path}")
    with open(tmp_path / "eval" / "report.json") as file:
        result = json.load(file)
    assert "not_finished" in result["warnings"]  # of no step
    warned = ", ".join(result["warnings"])
    assert output.endswith(f"warnings: {warned}; wrote {tmp_path}/report.html\n")
    assert "<html" in (tmp_path / "report.html").read_text()
    line = in_process.run_mistake(*arguments, "--k=3")
    assert "--k means nothing to --protocol=report: leave it out" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--protocol=report"], "--protocol=report needs --workdir"),
        (["--protocol=knn", "--cached"], "--cached is for --protocol=linear"),
        (["--protocol=linear", "--features=head"], "--features is for --protocol=knn"),
        (["--protocol=knn", "--features=head"], "--features=head needs --workdir"),
        (["--protocol=knn", "--l2=1"], "--l2 means nothing to --protocol=knn: leave it out"),
        (["--protocol=linear", "--l2=1"], "--l2 means nothing to --protocol=linear: "),
        (
            ["--protocol=linear", "--cached", "--epochs=9"],
            "--epochs means .*linear --cached: .*--l2",
        ),
        (["--protocol=few-shot", "--k=9"], "--k means nothing to --protocol=few-shot"),
        (["--protocol=knn", "--seed=1"], "--seed means nothing to --protocol=knn"),
        (["--protocol=few-shot", "--shots=0"], "--shots=0: give whole numbers of 1 or more"),
        (["--protocol=few-shot", "--shots=1,two"], "--shots=1,two: give whole numbers"),
        (["--protocol=few-shot", "--shots="], "--shots=: give whole numbers"),
        (["--protocol=few-shot", "--shots=5,40"], "--shots=5,40: class '.*' has 2. training"),
        (["--protocol=few-shot", "--draws=1"], "--draws"),
        (["--protocol=linear", "--milestones=a"], "--milestones=a: give epochs"),
        (["--protocol=linear", "--epochs=70"], "--milestones: epoch 80 .* --epochs=70"),
        (["--protocol=linear", "--crop_scale=0.1"], "--crop_scale=0.1: give two shares"),
        (["--protocol=linear", "--crop_scale=0.5,0.1"], "--crop_scale=0.5,0.1: "),
        (["--protocol=linear", "--learning_rate=-1"], "--learning_rate"),
        (["--protocol=linear", "--layers=all"], "--layers means nothing to --protocol=linear: "),
        (["--protocol=finetune", "--milestones=1"], "--milestones means nothing .*finetune: "),
        (
            ["--protocol=finetune", "--layers=head", "--batch_norm=frozen"],
            "--batch_norm means nothing to --protocol=finetune --layers=head: .*--epochs",
        ),
        (["--protocol=finetune", "--layers=last"], "--layers"),
        (["--protocol=finetune", "--label_fraction=0"], "--label_fraction"),
        (["--protocol=finetune", "--label_fraction=1.5"], "--label_fraction"),
        (["--protocol=finetune", "--crop_scale=0.5,0.1"], "--crop_scale=0.5,0.1: "),
        (["--protocol=linear", "--compare"], "--compare is for --protocol=finetune"),
        (["--protocol=finetune", "--compare"], "--compare .*instead of --random_init"),
        (["--protocol=knn", "--encoder=resnet8"], "--encoder says what network --checkpoint"),
        (["--protocol=knn", "--stem=small"], "--stem says what network --checkpoint"),
        (["--protocol=knn", "--checkpoint=x"], "give one of .*--checkpoint and --random_init"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, arguments, words):
    source = f"--config.data.source=folder:{folder}"
    line = in_process.run_mistake(*RANDOM, source, f"--output_dir={tmp_path}", *arguments)
    assert re.search(words, line), line
    assert not list(tmp_path.iterdir())
