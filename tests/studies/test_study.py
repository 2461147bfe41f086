"""The study: a miniature of it through its command, stopped and gone on with."""

import contextlib
import json
import os
import pathlib
import signal
import threading

import numpy as np
import PIL.Image
import pytest

from studies import experiments
from tests import in_process
from tests.command import TINY, logged_steps
from tests.images import write_folder

SMALL = [a for a in TINY if not a.startswith(("--config.epochs", "--config.knn"))]
MINIATURE = ("--only=width", "--seeds=0", "--epochs=1")  # four runs, of which two train
STEPS = 6  # of 16 images of 96
WIDE = "encoder=resnet8w2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "photos", each=48)


@pytest.fixture(scope="module")
def arguments(folder, tmp_path_factory):
    directory = tmp_path_factory.mktemp("study")
    return [
        *SMALL,
        *MINIATURE,
        f"--config.data.source=folder:{folder}",
        f"--workdir={directory / 'runs'}",
        f"--out={directory / 'out'}",
    ]


@pytest.fixture(scope="module")
def directory(arguments):
    """Of the miniature, stopped by Ctrl-C in its first training, then finished."""
    out = pathlib.Path(arguments[-1].removeprefix("--out="))
    workdir = out.parent / "runs"
    with _ctrl_c_once(lambda: logged_steps(workdir / "base" / "seed0") >= 1):
        output = in_process.run("study.py", *arguments, status=128 + signal.SIGINT)
    assert "stopped in run 2; the same command goes on from there" in output
    results = read(out)
    assert [run["name"] for run in results["runs"]] == ["epochs=0"]
    # As if the widest had been finished: it would take the longest.
    results["runs"].append({**results["runs"][0], "name": WIDE, "settings": {}, "seconds": 1234})
    (out / "results.json").write_text(json.dumps(results))
    (out / "stopped_at").write_text(str(logged_steps(workdir / "base" / "seed0")))
    (out / "output").write_text(in_process.run("study.py", *arguments))
    return out


@contextlib.contextmanager
def _ctrl_c_once(condition):
    """Sends this process SIGINT as soon as the condition holds."""

    def wait():
        while not condition() and not over.wait(0.001):
            pass
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    over = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def read(directory):
    return json.loads((directory / "results.json").read_text())


def test_a_study_that_was_stopped_goes_on_with_what_is_not_finished(directory):
    step, output = (directory / "stopped_at").read_text(), (directory / "output").read_text()
    if int(step) < STEPS:  # it is stopped after its step, and this may have been the last
        assert f"going on from step {step}," in output
    assert "run 2/2" in output and "run 3" not in output
    results = read(directory)
    names = [run["name"] for run in results["runs"]]
    assert names == ["epochs=0", WIDE, "base", f"{WIDE},epochs=0"]
    assert results["runs"][1]["seconds"] == 1234  # untouched
    assert results["runs"][3]["settings"] == {"encoder": "resnet8w2", "epochs": 0}
    [command] = results["commands"]  # twice the same
    assert command.startswith("python study.py --config=configs/photos.py")
    assert set(results["versions"]) == {"tensorflow", "keras", "numpy"}
    assert results["seconds"] > sum(run["seconds"] for run in results["runs"][2:]) > 0
    assert not list(directory.parent.glob("runs/*/*/checkpoints"))


def test_a_record_is_what_the_run_was(directory):
    untrained, _, base, wide = read(directory)["runs"]
    lines = (directory.parent / "runs/base/seed0/metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    steps = [line for line in lines if "loss" in line]  # each step has its line
    for key in ("loss", "contrastive_top1"):
        expected = [line[key] for line in steps]
        np.testing.assert_allclose(base["curves"][key], expected, atol=5.1e-5)
        assert base[f"final_{key}"] == pytest.approx(np.mean(expected), abs=5.1e-5)
    assert base["curves"]["step"] == list(range(1, STEPS + 1))
    assert base["chance"] == pytest.approx(np.log(101), abs=5e-5)
    looks = [line["knn_top1"] for line in lines if "knn_top1" in line]
    assert base["knn_curve"]["step"] == [0, STEPS]
    np.testing.assert_allclose(base["knn_curve"]["top1"], looks, atol=5.1e-5)
    # The monitor and the protocol classify the same images by the same features.
    assert base["knn_top1"] == pytest.approx(looks[-1])
    assert untrained["knn_top1"] == pytest.approx(looks[0])
    assert "curves" not in untrained
    for channels, run in ((16, base), (16, untrained), (32, wide)):
        # Of the stem; in 3x3 convolutions, in 1x1 ones; in BatchNormalization.
        squares = 9 * (2 + 2 + 4 + 8 + 16) + (2 + 8)
        norms = 2 * (1 + 2 + 3 * 2 + 3 * 4)
        assert run["parameters"] == (9 * 3 + norms) * channels + squares * channels**2


def test_it_draws_what_it_has_and_says_what_is_missing(directory):
    for name in ("width", "momentum", "epochs"):  # what ran for the first is of the others too
        with PIL.Image.open(directory / f"{name}.png") as image:
            assert image.format == "PNG" and min(image.size) > 300
    assert not (directory / "v2.png").exists()
    text = (directory / "README.md").read_text()
    assert "(width.png)" in text and "(v2.png)" not in text
    planned = len(experiments.plan(read(directory)["config"], experiments.NAMES))
    assert f"Not finished: {planned - 4} of {planned} runs are missing." in " ".join(text.split())
    assert "| A wider network is better. |" in text and "| **not judged** |" in text  # one seed


def test_a_finished_run_is_not_run_again(directory, arguments):
    before = read(directory)["runs"]
    output = in_process.run("study.py", *arguments)
    assert read(directory)["runs"] == before
    assert "run 1" not in output and "README.md" in output
    (directory / "width.png").unlink()
    output = in_process.run("study.py", "--draw", f"--out={directory}")
    assert (directory / "width.png").exists() and read(directory)["runs"] == before


@pytest.mark.parametrize(
    "given, words",
    [
        (["--only=speed"], "--only=speed: choose among mechanisms, momentum"),
        (["--seeds=0,-1"], "--seeds=-1: give whole numbers"),
        (["--config.epochs=3"], "--config.epochs is not for the study: give --epochs"),
        (["--config.seed=3"], "--config.seed is not for the study: give --seeds"),
        (["--draw"], "--config means nothing to --draw"),
        (["--epochs=3"], "holds a study of another base (epochs is 1 there and 3 here)"),
        (["--only=mechanisms"], "--config.queue_size=100 makes runs of four times that"),
        (["--config.data.source=folder:/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_are_one_line(directory, arguments, given, words):
    before = read(directory)
    assert words in in_process.run_mistake("study.py", *arguments, *given)
    assert read(directory) == before


def test_results_that_are_none_are_named(tmp_path):
    assert "run the study first" in in_process.run_mistake(
        "study.py", "--draw", f"--out={tmp_path}"
    )
    (tmp_path / "results.json").write_text("[]")
    line = in_process.run_mistake("study.py", "--draw", f"--out={tmp_path}")
    assert f"{tmp_path}/results.json is not the results of a study" in line
