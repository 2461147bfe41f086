"""The card beside an export, against the files that it is about."""

import json

import pytest

import moco_tf
from moco_tf import encoders, load_backbone
from moco_tf.backbones.model_card import Format, Origin, model_card
from moco_tf.errors import UserError
from moco_tf.export.saved_model import export_saved_model
from tests.export.backbones import make_run

FORM = Format("a format", "`[N, {channels}]`", "`[N, {features}]`", "load(PATH)")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with one line of metrics, and results of three kinds."""
    workdir = make_run(tmp_path_factory.mktemp("runs") / "run", "resnet8", "small")
    line = {"step": 7, "epoch": 0.5, "loss": 3.14159, "images_per_second": 64.0}
    (workdir / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    common = {"data": "folder:cats", "image_size": 32, "num_train": 30, "num_test": 10}
    shots = [{"shots": 5, "top1": 0.41, "top1_std": 0.02}]
    results = {
        "knn": {"top1": 0.625, "top5": 0.875},
        "few-shot": {"few_shot": shots},
        "detection": {"ap": 0.123456, "ap_std": None, "scales": [480, 800]},  # of another kind
        "detection_comparison": {"rows": [{"initialisation": "random", "ap": 0.25}]},
        "report": {"backbones": {}},
    }
    (workdir / "eval").mkdir()
    for name, result in results.items():
        text = json.dumps({"protocol": name, **result, **common})
        (workdir / "eval" / f"{name}.json").write_text(text)
    return workdir


def sections(card):
    title, *rest = card.split("\n## ")
    return {"": title} | dict(text.split("\n", 1) for text in rest)


@pytest.fixture(scope="module")
def of_run(workdir):
    return sections(model_card(load_backbone(str(workdir)), FORM, Origin("workdir", str(workdir))))


def test_the_network_and_what_goes_in_and_out(of_run):
    text = of_run[""]
    # Kernels, and scale and shift of each channel: the first has 3 x 3 x 3 x 16 + 2 x 16.
    shapes = [(3, 3, 16), (3, 16, 16), (3, 16, 16), (3, 16, 32), (3, 32, 32), (1, 16, 32)]
    shapes += [(3, 32, 64), (3, 64, 64), (1, 32, 64)]
    parameters = sum(k * k * i * o + 2 * o for k, i, o in shapes)
    assert f"resnet8, `small` stem, {parameters:,} parameters" in text
    assert "| input | `[N, 3]` |" in text and "| output | `[N, 64]` |" in text
    assert "0.485, 0.456, 0.406" in text and "load(PATH)" in text
    assert f"moco-tf {moco_tf.__version__}" in text


def test_the_recipe_beside_the_papers(of_run, workdir):
    text = of_run["Training"]
    assert f"`{workdir}`, at its checkpoint `step-0`" in text
    assert "8,116 of photos, views of 32 px" in text
    rows = {row.split(" | ")[0]: row for row in text.splitlines() if row.startswith("| `")}
    assert rows["| `encoder`"] == '| `encoder` | "resnet8" | "resnet50" |'
    assert rows["| `queue_size`"] == "| `queue_size` | 64 | 65536 |"
    # What is the paper's own is left out, and so is what the paper says nothing of.
    assert not {"| `momentum`", "| `seed`", "| `data.source`"} & rows.keys()


def test_the_results(of_run):
    text = of_run["Evaluation"]
    assert "- `knn` on `folder:cats`: top-1 0.6250, top-5 0.8750 (30 training and 10" in text
    assert "- `few-shot` on `folder:cats`: top-1 0.4100 ± 0.0200 with 5 of each class" in text
    assert "- `detection` on `folder:cats`: ap 0.1235, image_size 32" in text
    assert "; random: ap 0.25\n" in text
    assert "`report`" not in text
    assert "step 7, epoch 0.5, loss 3.142, images_per_second 64" in text


def test_the_licence_is_left_open(of_run):
    assert "for you to fill" in of_run["Licence"]


def test_a_saved_model_hands_on_what_its_card_says(workdir, of_run, tmp_path):
    backbone, path = load_backbone(str(workdir)), str(tmp_path / "saved_model")
    export_saved_model(backbone, path, Origin("workdir", str(workdir)))
    found = sections(model_card(backbone, FORM, Origin("saved_model", path)))
    assert f"Taken over from `{path}`" in found["Training"]
    assert of_run["Training"].strip() in found["Training"]
    assert of_run["Evaluation"].strip() in found["Evaluation"]
    (tmp_path / "saved_model" / "README.md").unlink()
    found = sections(model_card(backbone, FORM, Origin("saved_model", path)))
    assert "without a model card" in found["Training"] and "not known" in found["Training"]


@pytest.mark.parametrize("origin", [None, Origin("checkpoint", "resnet8.pth")])
def test_what_is_not_known_is_said(origin):
    found = sections(model_card(encoders.build("resnet8", stem="small"), FORM, origin))
    assert "not known" in found["Training"] and "No results" in found["Evaluation"]
    assert (origin is None) == ("resnet8.pth" not in found["Training"])


def test_a_result_that_somebody_changed_is_named(workdir):
    path = workdir / "eval" / "other.json"
    for text in ("half of {", "[]", "{}"):
        path.write_text(text)
        with pytest.raises(UserError, match="other.json is not what evaluate.py wrote"):
            model_card(load_backbone(str(workdir)), FORM, Origin("workdir", str(workdir)))
    path.unlink()
