"""The scripts as the README gives them, on a small folder: train, evaluate, export, demo."""

import json

import keras
import numpy as np
import PIL.Image
import pytest

from tests import in_process
from tests.command import TINY, run
from tests.images import crops, write_folder

SHORT = (*TINY, "--config.epochs=2", "--config.knn_every=1")  # 12 steps on 100 images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "photos", each=50)


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    run("train.py", *SHORT, f"--config.data.source=folder:{folder}", f"--workdir={workdir}")
    return workdir


def is_picture(path):
    with PIL.Image.open(path) as image:
        return image.format == "PNG" and min(image.size) > 300


@pytest.mark.parametrize("protocol, run", [("knn", run), ("linear", in_process.run)])
def test_evaluation_writes_its_result_and_prints_one_line(workdir, protocol, run):
    short = ("--epochs=2", "--milestones=1") if protocol == "linear" else ()
    output = run("evaluate.py", f"--protocol={protocol}", f"--workdir={workdir}", *short)
    assert len(output.strip().splitlines()) == 1
    result = json.loads((workdir / "eval" / f"{protocol}.json").read_text())
    assert {"top1", "top5", "num_train", "num_test", "seconds"} <= result.keys()
    assert result["num_train"] + result["num_test"] == 100
    assert 0 <= result["top1"] <= result["top5"] == 1  # two classes
    assert f"top-1 {result['top1']:.4f}" in output
    if protocol == "knn":
        assert (result["k"], result["temperature"]) == (200, 0.07)
        assert is_picture(workdir / "neighbours.png")


def test_an_exported_model_evaluates_to_the_same(workdir, folder, tmp_path):
    out = tmp_path / "saved_model"
    run("export/saved_model.py", f"--workdir={workdir}", f"--out={out}")
    evaluation = ("evaluate.py", "--protocol=knn")
    in_process.run(*evaluation, f"--workdir={workdir}", f"--output_dir={tmp_path}")
    in_process.run(
        *evaluation,
        f"--saved_model={out}",
        f"--data=folder:{folder}",
        "--image_size=32",
    )
    ours = json.loads((tmp_path / "eval" / "knn.json").read_text())
    theirs = json.loads((out / "eval" / "knn.json").read_text())
    assert (ours["top1"], ours["num_test"]) == (theirs["top1"], theirs["num_test"])
    keras.layers.TFSMLayer(str(out), call_endpoint="serve")  # the results beside it do no harm


def test_random_initialisation_is_evaluated_from_a_config(folder, tmp_path):
    source = f"--config.data.source=folder:{folder}"
    evaluation = ("evaluate.py", "--protocol=knn", "--random_init", *SHORT, source, "--k=5")
    in_process.run(*evaluation, f"--output_dir={tmp_path}")
    result = json.loads((tmp_path / "eval" / "knn.json").read_text())
    assert result["k"] == 5 and "random resnet8" in result["backbone"]


def test_a_flat_folder_trains_without_labels(tmp_path):
    (tmp_path / "flat").mkdir()
    for i, image in enumerate(crops(20, 40)):
        PIL.Image.fromarray(image).save(tmp_path / "flat" / f"{i}.png")
    output = in_process.run(
        "train.py",
        *SHORT,
        f"--config.data.source=folder:{tmp_path / 'flat'}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert "kNN" not in output
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_two_devices_train_as_one_does(workdir, folder, tmp_path):
    run(
        "train.py",
        *SHORT,
        f"--config.data.source=folder:{folder}",
        "--strategy=mirrored",
        "--virtual_devices=2",
        f"--workdir={tmp_path}",
    )
    losses = [
        [json.loads(line) for line in (d / "metrics.jsonl").read_text().splitlines()]
        for d in (workdir, tmp_path)
    ]
    one, two = ([line["loss"] for line in lines if "loss" in line] for lines in losses)
    assert len(one) == 12
    np.testing.assert_allclose(one[:5], two[:5], rtol=1e-3)  # float32 drifts apart from there


def test_demo_prints_its_table_and_paths(folder, tmp_path):
    output = run(
        "demo.py", *SHORT, f"--config.data.source=folder:{folder}", f"--workdir={tmp_path}"
    )
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    for name in ("raw pixels", "random initialisation", "pre-trained"):
        assert f"{100 * results[0][name]['knn']:.1f} %" in output
        assert f"{100 * results[0][name]['linear']:.1f} %" in output
    run_directory = tmp_path / "seed0"
    assert is_picture(run_directory / "neighbours.png")
    assert is_picture(run_directory / "curves.png")
    assert (run_directory / "export" / "saved_model" / "saved_model.pb").exists()
    for name in ("saved_model", "neighbours.png", "curves.png"):
        assert name in output
    result = json.loads((run_directory / "eval" / "knn.json").read_text())
    assert result["top1"] == results[0]["pre-trained"]["knn"]
    assert (result["k"], result["temperature"], result["image_size"]) == (200, 0.07, 32)
