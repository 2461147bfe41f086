"""evaluate.py --protocol=detection and segmentation, end to end on a few scenes; its mistakes."""

import json
import sys

import PIL.Image
import pytest

pytest.importorskip("keras_hub")
pytest.importorskip("pycocotools")

from moco_tf.config import default_config
from moco_tf.training.run import start_from
from tests import in_process
from tests.scenes import needs_fashion_mnist, write

SHORT = ("--image_size=96", "--steps=2", "--batch_size=2", "--warmup_steps=0", "--milestones=1")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "scenes", 4, 2)


def run_of(scenes, folder, **settings):
    """A run of no step."""
    config = default_config()
    settings = {"encoder": "resnet18", "image_size": 32, "dim": 7, "head": "mlp", **settings}
    settings |= {
        "data.source": f"folder:{scenes}/train",
        "batch_size": 4,
        "bn_groups": 2,
        "seed": 7,
    }
    config.update_from_flattened_dict(settings | {"queue_size": 8})
    start_from(lambda model: None, config, str(folder))
    return folder


@pytest.fixture(scope="module")
def workdir(scenes, tmp_path_factory):
    return run_of(scenes, tmp_path_factory.mktemp("runs") / "mine")


def is_picture(path):
    with PIL.Image.open(path) as image:
        return image.format == "PNG" and min(image.size) > 200


@needs_fashion_mnist
def test_segmentation_of_a_run(scenes, workdir):
    arguments = ("--protocol=segmentation", f"--workdir={workdir}", f"--data=coco:{scenes}", *SHORT)
    output = in_process.run("evaluate.py", *arguments, "--trials=2", "--seed=3")
    line = output.strip().splitlines()[-1]
    result = json.loads((workdir / "eval" / "segmentation.json").read_text())
    expected = {
        "protocol": "segmentation",
        "backbone": str(workdir),
        "data": f"coco:{scenes}",
        "image_size": 96,
        "num_train": 4,
        "num_test": 2,
        "learning_rate": 0.003,
        "steps": 2,
        "milestones": [1],
        "warmup_steps": 0,
        "batch_size": 2,
        "sgd_momentum": 0.9,
        "weight_decay": 1e-4,
        "seed": 3,
    }
    assert {key: result[key] for key in expected} == expected
    assert [trial["seed"] for trial in result["trials"]] == [3, 4]
    one, two = (trial["mean_iou"] for trial in result["trials"])
    assert result["mean_iou"] == pytest.approx((one + two) / 2)
    assert result["mean_iou_std"] == pytest.approx(abs(one - two) / 2**0.5)
    assert f"mean IoU {result['mean_iou']:.4f} ± {result['mean_iou_std']:.4f}" in line
    assert result["seconds"] > 0 and len(result["trials"][0]["curve"]) == 2
    assert is_picture(workdir / "eval" / "segmentation.png")


@needs_fashion_mnist
def test_detection_compared_goes_on_where_it_was_stopped(scenes, workdir):
    arguments = ("--protocol=detection", "--compare", f"--workdir={workdir}", *SHORT)
    arguments += (f"--data=coco:{scenes}",)
    output = in_process.run("evaluate.py", *arguments)
    path = workdir / "eval" / "detection_comparison.json"
    result = json.loads(path.read_text())
    names = ["random initialisation, resnet18", "pre-trained, mine"]
    assert [row["initialisation"] for row in result["rows"]] == names
    assert len({row["weights"] for row in result["rows"]}) == 2
    table = [line for line in output.splitlines() if line.startswith("|")]
    assert table[0] == "| initialisation | AP, % | AP50, % | AP75, % |"
    for line, row in zip(table[2:], result["rows"], strict=True):
        cells = [f"{100 * row[key]:.1f}" for key in ("ap", "ap50", "ap75")]
        assert line == f"| {row['initialisation']} | {' | '.join(cells)} |"
    in_process.run("evaluate.py", *arguments)  # there is nothing to do
    assert json.loads(path.read_text()) == result


@needs_fashion_mnist
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--protocol=detection",), "--data is missing"),
        (("--protocol=detection", "--data=photos"), "--data=photos is no source of images with"),
        (("--protocol=detection", "--data=coco:no"), "'coco:no' needs one file no/annotations/ins"),
        (("--protocol=detection", "--data=x", "--image_size=90"), "--image_size=90: .* such as 96"),
        (("--protocol=detection", "--data=x", "--epochs=3"), "--epochs means nothing to --protoco"),
        (("--protocol=knn", "--trials=3"), "--trials means nothing to --protocol=knn"),
        (
            ("--protocol=segmentation", "--data=x", "--milestones=a"),
            "--milestones=a: give epochs, o",
        ),
    ],
)
def test_mistakes_are_named(workdir, arguments, words):
    import re

    line = in_process.run_mistake("evaluate.py", f"--workdir={workdir}", *arguments)
    assert re.search(words, line), line


@needs_fashion_mnist
def test_networks_that_kerashub_has_not_are_named(scenes, tmp_path):
    arguments = ("--protocol=detection", f"--data=coco:{scenes}")
    small = run_of(scenes, tmp_path / "small", stem="small")
    line = in_process.run_mistake("evaluate.py", *arguments, f"--workdir={small}")
    assert "stem=small" in line


@pytest.mark.parametrize("missing", ["keras_hub", "pycocotools"])
def test_without_the_extra_one_line_says_how_to_install_it(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    line = in_process.run_mistake(
        "evaluate.py", "--protocol=detection", "--workdir=none", "--data=coco:none"
    )
    assert "pip install '.[detection]'" in line
