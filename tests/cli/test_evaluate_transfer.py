"""evaluate.py --protocol=detection and segmentation, end to end on a few scenes."""

import json
import re
import shutil
import sys

import PIL.Image
import pytest

pytest.importorskip("keras_hub")
pytest.importorskip("pycocotools")

from moco_tf.config import default_config
from moco_tf.evaluation.settings import SegmentationSettings
from moco_tf.training.run_model import start_from
from tests import in_process
from tests.scenes import needs_fashion_mnist, write

SHORT = ("--image_size=96", "--steps=2", "--batch_size=2", "--warmup_steps=0", "--milestones=1")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "scenes", 4, 2)


def run_of(scenes, folder, **settings):
    """Create a run at step 0."""
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


@pytest.fixture(scope="module")
def invalid_scenes(scenes, tmp_path_factory):
    """The scenes with an invalid annotation and a test image that cannot be read."""
    folder = shutil.copytree(scenes, tmp_path_factory.mktemp("data") / "invalid")
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] = -1
    path.write_text(json.dumps(content))
    (folder / "val" / "000000.png").write_text("no image")
    return folder


def is_picture(path):
    with PIL.Image.open(path) as image:
        return image.format == "PNG" and min(image.size) > 200


@pytest.mark.nightly
@needs_fashion_mnist
def test_segmentation_of_several_trials_without_invalid_annotations(invalid_scenes, workdir):
    arguments = ("--protocol=segmentation", f"--workdir={workdir}", "--skip_invalid", *SHORT)
    arguments += (f"--data=coco:{invalid_scenes}",)
    output = in_process.run("evaluate.py", *arguments, "--trials=2", "--seed=3")
    line = output.strip().splitlines()[-1]
    result = json.loads((workdir / "eval" / "segmentation.json").read_text())
    assert result["protocol"] == "segmentation"
    assert (result["num_train"], result["num_test"]) == (4, 1)
    assert (result["num_unreadable_train"], result["num_unreadable_test"]) == (0, 1)
    assert result["skipped"] == {"invalid annotations": 1}
    path = f"{invalid_scenes}/annotations/instances_train.json"
    fault = f"the first fault is in {path}: annotations[0]"
    assert f"coco:{invalid_scenes}: skipped invalid annotations (1); {fault}" in output
    names = f"{invalid_scenes}/val/000000.png; listed in {workdir}/eval/segmentation_unreadable.txt"
    assert f"skipped 1 of 6 images that cannot be read: {names}" in output
    assert (result["steps"], result["milestones"], result["seed"]) == (2, [1], 3)
    assert result["learning_rate"] == SegmentationSettings.learning_rate
    assert [trial["seed"] for trial in result["trials"]] == [3, 4]
    one, two = (trial["mean_iou"] for trial in result["trials"])
    assert result["mean_iou"] == pytest.approx((one + two) / 2)
    assert result["mean_iou_std"] == pytest.approx(abs(one - two) / 2**0.5)
    assert f"mean IoU {result['mean_iou']:.4f} ± {result['mean_iou_std']:.4f}" in line
    assert len(result["trials"][0]["curve"]) == 2
    assert is_picture(workdir / "eval" / "segmentation.png")


@pytest.mark.nightly
@needs_fashion_mnist
def test_detection_comparison_continues_where_it_was_stopped(scenes, workdir):
    arguments = ("--protocol=detection", "--compare", f"--workdir={workdir}", *SHORT)
    arguments += (f"--data=coco:{scenes}",)
    output = in_process.run("evaluate.py", *arguments)
    path = workdir / "eval" / "detection_comparison.json"
    result = json.loads(path.read_text())
    names = ["random initialization, resnet18", "pre-trained, mine"]
    assert [row["initialisation"] for row in result["rows"]] == names
    assert len({row["weights"] for row in result["rows"]}) == 2
    table = [line for line in output.splitlines() if line.startswith("|")]
    assert table[0] == "| initialization | AP, % | AP50, % | AP75, % |"
    for line, row in zip(table[2:], result["rows"], strict=True):
        cells = [f"{100 * row[key]:.1f}" for key in ("ap", "ap50", "ap75")]
        assert line == f"| {row['initialisation']} | {' | '.join(cells)} |"
    # Of another backbone.
    other = {**result["rows"][0], "weights": "other", "trials": [{"seed": 0, "ap": 0.5}]}
    path.write_text(json.dumps({**result, "rows": [*result["rows"], other]}))
    in_process.run("evaluate.py", *arguments)  # Nothing is left to do.
    assert json.loads(path.read_text()) == {**result, "earlier": [other]}


@needs_fashion_mnist
def test_invalid_annotation_is_one_line(invalid_scenes, workdir):
    flags = ("--protocol=detection", f"--data=coco:{invalid_scenes}", *SHORT)
    line = in_process.run_mistake("evaluate.py", *flags, workdir=workdir)
    assert f"{invalid_scenes}/annotations/instances_train.json: annotations[0] (id " in line
    assert "whose width or height is negative; correct it, or set skip_invalid to" in line


@needs_fashion_mnist
@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ("--protocol=detection", "--data is required"),
        ("--protocol=detection --data=photos", "'photos': use coco:PATH"),
        ("--protocol=detection --data=coco:no", "'coco:no'.*no/annotations/ins"),
        ("--protocol=detection --data=x --image_size=90", "image_size=90: .* such as 96"),
        ("--protocol=detection --data=x --epochs=3", "--epochs has no effect"),
        ("--protocol=detection --data=x --channels=1", "--channels=1 has no effect with --prot"),
        ("--protocol=detection --data=coco:x --tfds_dir=/x", "tfds_dir=/x has no effect on --da"),
        ("--protocol=knn --skip_invalid", "--skip_invalid requires --protocol=detection or seg"),
        ("--protocol=knn --trials=3", "--trials has no effect"),
        ("--protocol=segmentation --data=x --milestones=a", "--milestones=a: give numbers"),
        (
            "--protocol=detection --data=x --steps=5 --milestones=9",
            "milestones=9: step 9 .*steps=5",
        ),
    ],
)
def test_mistakes_are_one_line(workdir, arguments, pattern):
    line = in_process.run_mistake("evaluate.py", *arguments.split(), workdir=workdir)
    assert re.search(pattern, line), line


def test_seed_of_a_config_has_no_effect():
    flags = ("--random_init", "--config=configs/imagenet_v1.py", "--config.seed=3", "--data=coco:x")
    line = in_process.run_mistake("evaluate.py", "--protocol=detection", *flags)
    assert "--config.seed=3 has no effect with --protocol=detection: give the seed" in line


@needs_fashion_mnist
def test_network_that_kerashub_lacks_is_named(scenes, tmp_path):
    arguments = ("--protocol=detection", f"--data=coco:{scenes}")
    small = run_of(scenes, tmp_path / "small", stem="small")
    line = in_process.run_mistake("evaluate.py", *arguments, f"--workdir={small}")
    assert "stem=small" in line


@pytest.mark.parametrize("missing", ["keras_hub", "pycocotools"])
def test_missing_extra_is_one_line_with_the_command_to_install_it(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    line = in_process.run_mistake(
        "evaluate.py", "--protocol=detection", "--workdir=none", "--data=coco:none"
    )
    assert "pip install '.[detection]' in a checkout" in line
