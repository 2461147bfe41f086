"""The scripts as the documentation calls them: train, resume, evaluate and export for real."""

import json
import runpy
import shutil
import sys

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from tests import in_process
from tests.command import TINY, run, state
from tests.conftest import TRAINED_RUN, source_flag
from tests.images import crops


def is_picture(path):
    with PIL.Image.open(path) as image:
        return image.format == "PNG" and min(image.size) > 300


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def test_run_is_trained_evaluated_and_exported(image_folder, trained_run, tmp_path):
    """The short version of everything, in processes as a person would start them."""
    workdir, out = tmp_path / "run", tmp_path / "saved_model"
    output = run("train.py", *TRAINED_RUN, source_flag(image_folder), f"--workdir={workdir}")
    assert "chance-level loss ln(K+1) = 4.62" in output
    # A process of its own computes what the session's run computed in this process.
    assert losses(workdir) == losses(trained_run)
    expected = state(trained_run)
    for name, value in state(workdir).items():
        np.testing.assert_array_equal(value, expected[name])

    output = run("evaluate.py", "--protocol=knn", f"--workdir={workdir}")
    assert len(output.strip().splitlines()) == 3  # Two lines on what was found, and the result.
    result = json.loads((workdir / "eval" / "knn.json").read_text())
    assert {"top1", "top5", "num_train", "num_test", "seconds"} <= result.keys()
    assert (result["k"], result["temperature"]) == (200, 0.07)
    assert f"top-1 {result['top1']:.4f}" in output
    assert is_picture(workdir / "neighbours.png")
    assert is_picture(workdir / "curves.png")

    run("export/saved_model.py", f"--workdir={workdir}", f"--out={out}")
    data = (f"--data=folder:{image_folder}", "--image_size=32")
    in_process.run("evaluate.py", "--protocol=knn", f"--saved_model={out}", *data)
    exported = json.loads((out / "eval" / "knn.json").read_text())
    assert (exported["top1"], exported["num_test"]) == (result["top1"], result["num_test"])
    keras.layers.TFSMLayer(str(out), call_endpoint="serve")  # The results beside it do no harm.


def test_resumed_run_ends_as_the_uninterrupted_one(image_folder, trained_run, tmp_path):
    workdir = shutil.copytree(trained_run, tmp_path / "run")
    checkpoints = workdir / "checkpoints"
    for path in checkpoints.glob("step-12*"):  # As if it had been killed after step 10.
        path.unlink()
    names = ["step-8", "step-10"]
    tf.compat.v1.train.update_checkpoint_state(str(checkpoints), names[-1], names)
    flags = (*TRAINED_RUN, source_flag(image_folder))
    output = in_process.run("train.py", *flags, workdir=workdir)
    assert "resuming from step 10" in output
    assert losses(workdir) == losses(trained_run)
    expected = state(trained_run)
    for name, value in state(workdir).items():
        np.testing.assert_array_equal(value, expected[name])
    output = in_process.run("train.py", *flags, workdir=workdir)
    assert "already finished at step 12" in output
    assert "wrote" not in output


@pytest.mark.slow
def test_flat_folder_trains_without_labels(tmp_path):
    (tmp_path / "flat").mkdir()
    for i, image in enumerate(crops(20, 40)):
        PIL.Image.fromarray(image).save(tmp_path / "flat" / f"{i}.png")
    flags = (*TRAINED_RUN, source_flag(tmp_path / "flat"))
    output = in_process.run("train.py", *flags, workdir=tmp_path / "run")
    assert "kNN" not in output
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


@pytest.mark.nightly
@pytest.mark.distributed
def test_two_devices_train_as_one_does(image_folder, trained_run, tmp_path):
    flags = (*TRAINED_RUN, source_flag(image_folder), "--strategy=mirrored", "--virtual_devices=2")
    run("train.py", *flags, f"--workdir={tmp_path}")
    one, two = losses(trained_run), losses(tmp_path)
    assert len(one) == 12
    np.testing.assert_allclose(one[:5], two[:5], rtol=1e-3)  # Later, float32 drifts apart.


@pytest.mark.slow
def test_demo_prints_its_table_and_paths(image_folder, tmp_path):
    flags = (*TINY, "--config.epochs=1", "--config.knn_every=0", source_flag(image_folder))
    output = run("-m", "moco_tf.cli.demo", *flags, f"--workdir={tmp_path}")
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    for name in ("raw pixels", "random initialization", "pre-trained"):
        assert f"{100 * results[0][name]['knn']:.1f} %" in output
        assert f"{100 * results[0][name]['linear']:.1f} %" in output
    run_directory = tmp_path / "seed0"
    assert is_picture(run_directory / "neighbours.png")
    assert is_picture(run_directory / "curves.png")
    assert (run_directory / "export" / "saved_model" / "saved_model.pb").exists()
    for name in ("saved_model", "neighbours.png", "curves.png", "report.html"):
        assert name in output
    report = json.loads((run_directory / "eval" / "report.json").read_text())
    for name, column in (("trained", "pre-trained"), ("raw pixels", "raw pixels")):
        assert report["backbones"][name]["knn"]["top1"] == results[0][column]["knn"]
    in_process.run("evaluate.py", "--protocol=report", workdir=run_directory)
    again = json.loads((run_directory / "eval" / "report.json").read_text())
    for name, by_protocol in again["backbones"].items():
        for protocol, result in by_protocol.items():
            assert result["top1"] == report["backbones"][name][protocol]["top1"]


@pytest.mark.parametrize("name", ["demo", "embed", "evaluate", "export", "prepare", "train"])
def test_commands_are_modules_as_well(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"moco_tf.cli.{name}", raising=False)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(f"moco_tf.cli.{name}", run_name="__main__")
    assert not stopped.value.code
    assert f"moco-{name}" in capsys.readouterr().out
