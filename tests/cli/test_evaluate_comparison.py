"""evaluate.py on checkpoints of PyTorch, and --compare, end to end on a small folder."""

import copy
import json
import re
import sys

import PIL.Image
import pytest
import tensorflow as tf

from moco_tf.backbones import loading
from moco_tf.config import default_config
from moco_tf.data import sources
from moco_tf.evaluation import knn
from moco_tf.evaluation.features import extract
from moco_tf.export.saved_model import export_saved_model
from moco_tf.training.run import start_from
from tests import in_process
from tests.images import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "photos", each=20)


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


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A network of PyTorch's, and the flags that name the file of its numbers."""
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


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_checkpoint_of_pytorch_by_every_protocol(folder, imported, tmp_path, name):
    network, flags = imported
    protocol = f"--protocol={name.removesuffix('_cached')}"
    cached = ("--cached",) if name == "linear_cached" else ()
    data = (f"--data=folder:{folder}", "--image_size=32", f"--output_dir={tmp_path}")
    in_process.run("evaluate.py", protocol, *cached, *flags, *data, *PROTOCOLS[name])
    result = json.loads((tmp_path / "eval" / f"{name}.json").read_text())
    assert result["protocol"] == name and result["backbone"].endswith("theirs.pth")
    assert result["num_train"] + result["num_test"] == 40
    if name == "knn":
        top1 = knn_in_pytorch(network, sources.load(f"folder:{folder}"))
        assert result["top1"] == pytest.approx(top1)


def knn_in_pytorch(network, source):
    """Top-1 by the three nearest neighbours of a network without its classifier."""
    from tests.export.checkpoints import normalized
    from tests.pytorch import torch

    body, features = copy.deepcopy(network).eval(), []
    body.fc = torch.nn.Identity()
    for part in (source.train, source.test):
        pixels = extract(lambda images: tf.reshape(images, [64, -1]), source, part, 32)
        images = normalized(pixels.features.reshape(-1, 32, 32, 3))
        with torch.no_grad():
            features += [body(images).numpy(), pixels.labels]
    return knn.classify(*features, 2, k=3)["top1"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"--encoder": None}, "--checkpoint needs --encoder"),
        ({"--encoder": "resnet99"}, "resnet99"),
        (
            {"--encoder": "resnet14"},
            "theirs.pth as --encoder=resnet14 --stem=small: the key ",
        ),
        ({"--stem": None}, "theirs.pth as --encoder=resnet8 --stem=imagenet: .*shape"),
        ({"--data": None}, "--checkpoint needs --data and --image_size as well"),
        ({"--image_size": None}, "--checkpoint needs --data and --image_size as well"),
        ({"--checkpoint": "nowhere.pth"}, "nowhere.pth cannot be read"),
        ({"--workdir": "runs/x"}, "give one of --workdir, --saved_model, --checkpoint"),
    ],
)
def test_checkpoints_that_cannot_be_evaluated(folder, imported, changed, words):
    given = dict(flag.split("=") for flag in imported[1])
    given |= {"--data": f"folder:{folder}", "--image_size": 32, **changed}
    flags = [f"{name}={value}" for name, value in given.items() if value is not None]
    line = in_process.run_mistake("evaluate.py", "--protocol=knn", *flags)
    assert re.search(words, line), line


def test_without_pytorch_a_checkpoint_is_one_line(folder, imported, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as Python itself marks what it has not found
    data = (f"--data=folder:{folder}", "--image_size=32")
    line = in_process.run_mistake("evaluate.py", "--protocol=knn", *imported[1], *data)
    assert "PyTorch is not installed: pip install torch" in line


def test_finetune_of_a_run_with_few_labels(workdir):
    arguments = ("--protocol=finetune", "--layers=head", "--label_fraction=0.1", "--epochs=1")
    in_process.run("evaluate.py", *arguments, f"--workdir={workdir}")
    with open(f"{workdir}/eval/finetune.json") as file:
        result = json.load(file)
    assert result["num_train"] == 4  # a tenth of 16 or so, two of each class
    assert result["layers"] == "head" and "learning_rate" not in result
    assert result["head_learning_rate"] == 0.2 and result["batch_size"] == 256


@pytest.fixture(scope="module")
def compared(folder, workdir, imported):
    """The arguments of a comparison, and what it wrote."""
    arguments = ("--protocol=finetune", "--compare", f"--workdir={workdir}", *imported[1])
    arguments = ("evaluate.py", *arguments, "--epochs=1", "--batch_size=16", "--seed=3")
    line = in_process.run(*arguments)
    return arguments, line, read_comparison(workdir)


def read_comparison(workdir):
    with open(f"{workdir}/eval/finetune_comparison.json") as file:
        return json.load(file)


def test_a_comparison(workdir, compared):
    _, line, result = compared
    ours = f"pre-trained, {workdir.rpartition('/')[2]}"
    names = ["random initialisation, resnet8", ours, "imported, theirs.pth"]
    found = [(curve["initialisation"], curve["layers"]) for curve in result["curves"]]
    assert found == [(name, layers) for name in names for layers in ("head", "all")]
    assert len({curve["weights"] for curve in result["curves"]}) == 3
    for curve in result["curves"]:
        assert (curve["epochs"], curve["batch_size"], len(curve["curve"])) == (1, 16, 1)
        assert curve["num_train"] + curve["num_test"] == 40
        assert ("batch_norm" in curve) == (curve["layers"] == "all")
        words = "all layers" if curve["layers"] == "all" else "only the new layer"
        assert f"{curve['initialisation']}, {words} {curve['top1']:.4f}" in line
    picture = f"{workdir}/eval/finetune_comparison.png"
    assert picture in line
    with PIL.Image.open(picture) as image:
        assert image.format == "PNG" and min(image.size) > 500


def test_a_comparison_keeps_what_is_finished(workdir, compared):
    arguments, _, result = compared
    path = f"{workdir}/eval/finetune_comparison.json"
    curves = [*result["curves"][:-1]]  # as after a kill in the midst of the last
    curves[1] = {**curves[1], "learning_rate": 0.02}  # and with another rate before
    with open(path, "w") as file:
        json.dump({**result, "curves": curves}, file)
    in_process.run(*arguments)
    again = read_comparison(workdir)["curves"]
    for number, (curve, before) in enumerate(zip(again, result["curves"], strict=True)):
        made_again = number in (1, 5)
        assert (curve["seconds"] != before["seconds"]) == made_again
        assert {**curve, "seconds": 0} == {**before, "seconds": 0}
    with open(path, "w") as file:
        file.write("nothing")
    line = in_process.run_mistake(*arguments)
    assert f"{path} is not what --compare wrote: delete it" in line


def test_a_comparison_of_a_saved_model(folder, workdir, compared, tmp_path):
    path = tmp_path / workdir.rpartition("/")[2]  # of the same name, and of the same weights
    export_saved_model(loading.load_backbone(workdir), str(path))
    data = (f"--saved_model={path}", f"--data=folder:{folder}", "--image_size=32")
    flags = ("--protocol=finetune", "--compare", *data, "--epochs=1", "--batch_size=16", "--seed=3")
    line = in_process.run_mistake("evaluate.py", *flags, "--encoder=resnet14", "--stem=small")
    assert "--encoder=resnet14 --stem=small is not the network of --saved_model=" in line
    (path / "eval").mkdir()
    (path / "eval" / "finetune_comparison.json").write_text(json.dumps(compared[2]))
    in_process.run("evaluate.py", *flags)
    assert read_comparison(path)["curves"] == compared[2]["curves"][:4]  # nothing to do again
    (path / "network.json").unlink()  # as in those of before
    assert "give --encoder" in in_process.run_mistake("evaluate.py", *flags)
    in_process.run("evaluate.py", *flags, "--encoder=resnet8", "--stem=small")
    assert read_comparison(path)["curves"] == compared[2]["curves"][:4]
