"""evaluate.py on PyTorch checkpoints and with --compare, end to end on a small folder."""

import copy
import dataclasses
import json
import re
import shutil
import sys

import PIL.Image
import pytest
import tensorflow as tf

from moco_tf.backbones import loading
from moco_tf.data import sources
from moco_tf.evaluation import knn
from moco_tf.evaluation.extraction import extract
from moco_tf.evaluation.settings import KNNSettings
from moco_tf.export.saved_model import export_saved_model
from tests import in_process


@pytest.fixture(scope="module")
def workdir(trained_run, tmp_path_factory):
    return str(shutil.copytree(trained_run, tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Return a PyTorch network, and the flags that select the file of its weights."""
    from tests.export.checkpoints import randomize
    from tests.pytorch import torch
    from tests.reference import ResNet8

    torch.manual_seed(0)
    network = ResNet8("linear", 9)
    randomize(network)
    path = tmp_path_factory.mktemp("pytorch") / "theirs.pth"
    torch.save(network.state_dict(), path)
    return network, (f"--checkpoint={path}", "--encoder=resnet8", "--stem=small")


PROTOCOLS = {
    "knn": ("--k=3",),
    "linear": ("--batch_size=16", "--epochs=1", "--milestones="),
    "linear_cached": (),
    "few-shot": ("--shots=2", "--draws=2"),
    "finetune": ("--batch_size=16", "--epochs=1"),
}


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("name", PROTOCOLS)
def test_pytorch_checkpoint_is_evaluated_by_every_protocol(image_folder, imported, tmp_path, name):
    network, flags = imported
    protocol = f"--protocol={name.removesuffix('_cached')}"
    cached = ("--cached",) if name == "linear_cached" else ()
    data = (f"--data=folder:{image_folder}", "--image_size=32", f"--output_dir={tmp_path}")
    in_process.run("evaluate.py", protocol, *cached, *flags, *data, *PROTOCOLS[name])
    result = json.loads((tmp_path / "eval" / f"{name}.json").read_text())
    assert result["protocol"] == name
    assert result["backbone"].endswith("theirs.pth")
    assert result["num_train"] + result["num_test"] == 100
    if name == "knn":
        top1 = knn_in_pytorch(network, sources.load(f"folder:{image_folder}"))
        assert result["top1"] == pytest.approx(top1)


def knn_in_pytorch(network, source):
    """Return top-1 accuracy with the three nearest neighbors, by PyTorch's features."""
    from tests.export.checkpoints import normalized
    from tests.pytorch import torch

    body, features = copy.deepcopy(network).eval(), []
    body.fc = torch.nn.Identity()
    for part in (source.train, source.test):
        pixels = extract(lambda images: tf.reshape(images, [-1, 32 * 32 * 3]), source, part, 32)
        images = normalized(pixels.features.reshape(-1, 32, 32, 3))
        with torch.no_grad():
            features.append(dataclasses.replace(pixels, features=body(images).numpy()))
    return knn.classify(*features, KNNSettings(k=3))["top1"]


@pytest.mark.parametrize(
    ("changed", "pattern"),
    [
        ({"--encoder": None}, "--checkpoint requires --encoder"),
        ({"--encoder": "resnet99"}, "resnet99"),
        ({"--encoder": "resnet14"}, "theirs.pth.*resnet14.*the key "),
        ({"--stem": None}, "theirs.pth.*resnet8.*imagenet.*shape"),
        ({"--data": None}, "--checkpoint requires --data and --image_size"),
        ({"--image_size": None}, "--checkpoint requires --data and --image_size"),
        ({"--checkpoint": "nowhere.pth"}, "nowhere.pth cannot be read"),
        ({"--workdir": "runs/x"}, "exactly one of --workdir, --saved_model, --checkpoint"),
    ],
)
@pytest.mark.torch
def test_checkpoint_that_cannot_be_evaluated_is_one_line(image_folder, imported, changed, pattern):
    given = dict(flag.split("=") for flag in imported[1])
    given |= {"--data": f"folder:{image_folder}", "--image_size": 32, **changed}
    flags = [f"{name}={value}" for name, value in given.items() if value is not None]
    line = in_process.run_mistake("evaluate.py", "--protocol=knn", *flags)
    assert re.search(pattern, line), line


@pytest.mark.torch
def test_missing_pytorch_is_one_line(image_folder, imported, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # As Python marks what it has not found.
    data = (f"--data=folder:{image_folder}", "--image_size=32")
    line = in_process.run_mistake("evaluate.py", "--protocol=knn", *imported[1], *data)
    assert "PyTorch" in line
    assert "pip install" in line


def test_finetune_of_the_head_with_few_labels(workdir):
    arguments = ("--protocol=finetune", "--layers=head", "--label_fraction=0.1", "--epochs=1")
    in_process.run("evaluate.py", *arguments, f"--workdir={workdir}")
    with open(f"{workdir}/eval/finetune.json") as file:
        result = json.load(file)
    assert result["num_train"] == 8  # A tenth of about 40 images of each class.
    assert result["layers"] == "head"
    assert "learning_rate" not in result  # It has no effect on the head.


@pytest.fixture(scope="module")
def compared(image_folder, workdir, imported):
    """Return the arguments of a comparison, its output and its result."""
    arguments = ("--protocol=finetune", "--compare", f"--workdir={workdir}", *imported[1])
    arguments = ("evaluate.py", *arguments, "--epochs=1", "--batch_size=16", "--seed=3")
    line = in_process.run(*arguments)
    return arguments, line, read_comparison(workdir)


def read_comparison(workdir):
    with open(f"{workdir}/eval/finetune_comparison.json") as file:
        return json.load(file)


@pytest.mark.slow
@pytest.mark.torch
def test_comparison_has_a_curve_for_each_initialization(workdir, compared):
    _, line, result = compared
    ours = f"pre-trained, {workdir.rpartition('/')[2]}"
    names = ["random initialization, resnet8", ours, "imported, theirs.pth"]
    pairs = [(curve["initialisation"], curve["layers"]) for curve in result["curves"]]
    assert pairs == [(name, layers) for name in names for layers in ("head", "all")]
    assert len({curve["weights"] for curve in result["curves"]}) == 3
    for curve in result["curves"]:
        assert (curve["epochs"], curve["batch_size"], len(curve["curve"])) == (1, 16, 1)
        assert curve["num_train"] + curve["num_test"] == 100
        assert ("batch_norm" in curve) == (curve["layers"] == "all")
        label = "all layers" if curve["layers"] == "all" else "only the new layer"
        low, high = curve["top1_interval"]
        accuracy = f"{curve['top1']:.4f} ({low:.4f} to {high:.4f})"
        assert f"{curve['initialisation']}, {label} {accuracy}" in line
    picture = f"{workdir}/eval/finetune_comparison.png"
    assert picture in line
    with PIL.Image.open(picture) as image:
        assert image.format == "PNG"
        assert min(image.size) > 500


@pytest.mark.slow
@pytest.mark.torch
def test_comparison_keeps_finished_curves(workdir, compared):
    arguments, _, result = compared
    path = f"{workdir}/eval/finetune_comparison.json"
    curves = [*result["curves"][:-1]]  # As after a kill during the last one.
    curves[1] = {**curves[1], "learning_rate": 0.02}  # Of other settings.
    with open(path, "w") as file:
        json.dump({**result, "curves": curves}, file)
    in_process.run(*arguments)
    again = read_comparison(workdir)["curves"]
    assert read_comparison(workdir)["earlier"] == [curves[1]]
    for number, (curve, before) in enumerate(zip(again, result["curves"], strict=True)):
        is_repeated = number in (1, 5)
        assert (curve["seconds"] != before["seconds"]) == is_repeated
        assert {**curve, "seconds": 0} == {**before, "seconds": 0}
    with open(path, "w") as file:
        file.write("nothing")
    line = in_process.run_mistake(*arguments)
    assert path in line
    assert "delete it" in line


@pytest.mark.nightly
@pytest.mark.torch
def test_comparison_of_a_saved_model_uses_its_own_curves_again(
    image_folder, workdir, compared, tmp_path
):
    path = tmp_path / workdir.rpartition("/")[2]  # The same name, and the same weights.
    export_saved_model(loading.load_backbone(workdir), str(path))
    data = (f"--saved_model={path}", f"--data=folder:{image_folder}", "--image_size=32")
    flags = ("--protocol=finetune", "--compare", *data, "--epochs=1", "--batch_size=16", "--seed=3")
    line = in_process.run_mistake("evaluate.py", *flags, "--encoder=resnet14", "--stem=small")
    assert "--encoder=resnet14" in line
    (path / "eval").mkdir()
    (path / "eval" / "finetune_comparison.json").write_text(json.dumps(compared[2]))
    in_process.run("evaluate.py", *flags)
    curves = read_comparison(path)["curves"]
    of_run = compared[2]["curves"]
    assert curves[:2] == of_run[:2]  # The random initialization has the same network.
    for curve, before in zip(curves[2:], of_run[2:4], strict=True):
        assert curve["weights"] == before["weights"]
        assert curve["network"] != before["network"]
    (path / "network.json").unlink()  # As written before version 0.1.
    assert "encoder" in in_process.run_mistake("evaluate.py", *flags)
    in_process.run("evaluate.py", *flags, "--encoder=resnet8", "--stem=small")
    assert read_comparison(path)["curves"] == curves  # Nothing is repeated.
