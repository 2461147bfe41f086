"""The model card of an export, compared with the files that it describes."""

import html
import json
import os
import re
import shutil

import pytest
from markdown_it import MarkdownIt

import moco_tf
from moco_tf import encoders, load_backbone, run_data, run_directory
from moco_tf.backbones import history
from moco_tf.backbones.history import Origin
from moco_tf.backbones.model_card import Format, model_card
from moco_tf.errors import UserError
from moco_tf.export.saved_model import export_saved_model

FORMAT = Format("a format", "`[N, {channels}]`", "`[N, {features}]`", "load(PATH)")


@pytest.fixture(scope="module")
def workdir(trained_run, tmp_path_factory):
    """A run with one line of metrics, and with results of several kinds."""
    workdir = shutil.copytree(trained_run, tmp_path_factory.mktemp("runs") / "run")
    line = {"step": 7, "epoch": 0.5, "loss": 3.14159, "images_per_second": 64.0}
    (workdir / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    common = {"data": "folder:cats", "image_size": 32, "num_train": 30, "num_test": 10}
    shots = [{"shots": 5, "top1": 0.41, "top1_std": 0.02}]
    results = {
        "knn": {"top1": 0.625, "top5": 0.875},
        "few-shot": {"few_shot": shots},
        "linear": {"top1": 0.5, "top5": 0.75, "checkpoint": "step-1"},
        "detection": {"ap": 0.123456, "ap_std": None, "scales": [480, 800]},
        "detection_comparison": {"rows": [{"initialisation": "random", "ap": 0.25}]},
        "report": {"backbones": {}},
    }
    shutil.rmtree(workdir / "eval", ignore_errors=True)
    (workdir / "eval").mkdir()
    for name, result in results.items():
        text = json.dumps({"protocol": name, **result, **common})
        (workdir / "eval" / f"{name}.json").write_text(text)
    return workdir


def sections(card):
    title, *rest = card.split("\n## ")
    return {"": title} | dict(text.split("\n", 1) for text in rest)


@pytest.fixture(scope="module")
def card(workdir):
    """The sections of the card of the run."""
    origin = Origin("workdir", str(workdir))
    return sections(model_card(load_backbone(str(workdir)), FORMAT, origin))


def test_card_describes_the_network_its_inputs_and_its_outputs(card):
    text = card[""]
    # Kernels, and a scale and a shift for each channel: the first has 3 x 3 x 3 x 16 + 2 x 16.
    shapes = [(3, 3, 16), (3, 16, 16), (3, 16, 16), (3, 16, 32), (3, 32, 32), (1, 16, 32)]
    shapes += [(3, 32, 64), (3, 64, 64), (1, 32, 64)]
    parameters = sum(k * k * i * o + 2 * o for k, i, o in shapes)
    assert f"resnet8, `small` stem, {parameters:,} parameters" in text
    assert "| input | `[N, 3]` |" in text
    assert "| output | `[N, 64]` |" in text
    assert "0.485, 0.456, 0.406" in text
    assert "load(PATH)" in text
    assert f"moco-tf {moco_tf.__version__}" in text


def test_card_lists_the_settings_that_differ_from_the_paper(card, workdir):
    text = card["Training"]
    config = run_directory.read_config(str(workdir))
    assert f"`{workdir}` at the checkpoint `step-" in text
    num_images = run_data.read_num_images(str(workdir))
    assert f"{num_images:,} of `{config.data.source}`, views of {config.image_size} px" in text
    rows = {row.split(" | ")[0]: row for row in text.splitlines() if row.startswith("| `")}
    assert rows["| `encoder`"] == '| `encoder` | `"resnet8"` | `"resnet50"` |'
    assert rows["| `queue_size`"] == f"| `queue_size` | `{config.queue_size}` | `65536` |"
    # Settings with the paper's value, and settings that the paper does not state, are left out.
    assert not {"| `weight_decay`", "| `seed`", "| `data.source`"} & rows.keys()


def test_card_lists_the_results_of_the_evaluation(card):
    lines = {line.split("`")[1]: line for line in card["Evaluation"].splitlines() if "- `" in line}
    assert set(lines) == {"knn", "few-shot", "linear", "detection", "detection_comparison"}
    assert all("on `folder:cats`" in line for line in lines.values())
    assert "top-1 0.6250, top-5 0.8750 (30 training and 10" in lines["knn"]
    assert "0.4100 ± 0.0200 with 5" in lines["few-shot"]
    assert "another checkpoint" not in lines["knn"]
    assert "This is a result of another checkpoint, `step-1`" in lines["linear"]
    assert "ap 0.1235" in lines["detection"]
    assert "random: ap 0.25" in lines["detection_comparison"]
    assert "step 7, epoch 0.5, loss 3.142, images_per_second 64" in card["Evaluation"]


def test_card_says_which_results_are_of_another_backbone(tmp_path):
    (tmp_path / "eval").mkdir()
    common = {"data": "photos", "image_size": 32, "top1": 0.5, "top5": 0.9}
    common |= {"num_train": 30, "num_test": 10}
    for name, backbone in (("knn", f"elsewhere/{tmp_path.name}"), ("linear", "random resnet8")):
        text = json.dumps({"protocol": name, "backbone": backbone, **common})
        (tmp_path / "eval" / f"{name}.json").write_text(text)
    knn, linear = history._results(str(tmp_path), "step-1").splitlines()[2:]
    assert "another" not in knn
    assert linear.endswith("**This is a result of another backbone, `random resnet8`.**")


def test_card_is_about_the_checkpoint_that_was_loaded(workdir, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / "run")
    backbone = load_backbone(str(copy))
    step = int(backbone.checkpoint.removeprefix("step-"))
    # The run goes on.
    for file in (copy / "checkpoints").glob(f"step-{step}.*"):
        shutil.copy(file, file.with_name(file.name.replace(f"-{step}.", f"-{step + 5}.", 1)))
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step + 5, "epoch": 9.0, "loss": 1.0}) + "\n")
    assert run_directory.require_checkpoint(str(copy)).endswith(f"step-{step + 5}")
    text = model_card(backbone, FORMAT, Origin("workdir", str(copy)))
    assert f"at the checkpoint `step-{step}`" in text
    assert "up to this checkpoint: step 7, epoch 0.5" in text


def test_names_in_a_card_are_code_and_not_markdown(workdir, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / "a_b_`c`|d")
    config = json.loads((copy / "config.json").read_text())
    config["data"]["source"] = "folder:*x*|\udce9\n"
    (copy / "config.json").write_text(json.dumps(config))
    text = model_card(load_backbone(str(copy)), FORMAT, Origin("workdir", str(copy)))
    assert f"the run ``{copy}`` at" in text
    assert r"of `folder:*x*\|\xe9\n`, views" in text
    text.encode()


def test_card_leaves_the_license_to_the_user(card):
    assert "Not filled in yet" in card["License"]


@pytest.mark.slow
def test_card_of_a_saved_model_repeats_its_own_card(workdir, card, tmp_path):
    backbone, path = load_backbone(str(workdir)), str(tmp_path / "saved_model")
    export_saved_model(backbone, path, Origin("workdir", str(workdir)))
    second = sections(model_card(backbone, FORMAT, Origin("saved_model", path)))
    assert f"Loaded from `{path}`" in second["Training"]
    assert card["Training"].strip() in second["Training"]
    assert card["Evaluation"].strip() in second["Evaluation"]
    (tmp_path / "saved_model" / "README.md").unlink()
    third = sections(model_card(backbone, FORMAT, Origin("saved_model", path)))
    assert "without a model card" in third["Training"]
    assert "not known" in third["Training"]


@pytest.mark.parametrize("origin", [None, Origin("checkpoint", "resnet8.pth")])
def test_card_states_what_is_not_known(origin):
    card = sections(model_card(encoders.build("resnet8", stem="small"), FORMAT, origin))
    assert "not known" in card["Training"]
    assert "No results" in card["Evaluation"]
    assert ("resnet8.pth" in card["Training"]) == (origin is not None)


@pytest.mark.parametrize("text", ["half of {", "[]", "{}"])
def test_damaged_result_is_refused_with_its_path(workdir, text):
    path = workdir / "eval" / "other.json"
    path.write_text(text)
    backbone = encoders.build("resnet8", stem="small")
    with pytest.raises(UserError, match="eval/other.json .*: delete the file"):
        model_card(backbone, FORMAT, Origin("workdir", str(workdir)))
    path.unlink()


HOSTILE = "`|</td><script>alert(1)</script>\n## License\nMIT *[x](y)*"
ESCAPED = HOSTILE.replace("\n", r"\n")


def tags_and_headings(card):
    page = MarkdownIt("commonmark").enable("table").render(card)
    return set(re.findall(r"<(\w+)", page)), re.findall("<h2>(.*)</h2>", page), html.unescape(page)


def test_nothing_from_outside_is_markdown_or_html(workdir, tmp_path):
    hostile = shutil.copytree(workdir, tmp_path / HOSTILE.replace("/", "|"))
    config = json.loads((hostile / "config.json").read_text())
    config["data"]["source"] = f"folder:{HOSTILE}"
    (hostile / "config.json").write_text(json.dumps(config))
    result = {"protocol": HOSTILE, "data": HOSTILE, "rows": [{"initialisation": HOSTILE, "ap": 1}]}
    (hostile / "eval" / "hostile.json").write_text(json.dumps(result))
    (hostile / "metrics.jsonl").write_text(json.dumps({"step": 1, HOSTILE: 2}) + "\n")
    backbone = encoders.build("resnet8", stem="small")
    backbone.checkpoint = os.path.basename(run_directory.require_checkpoint(str(workdir)))

    plain = model_card(backbone, FORMAT, Origin("workdir", str(workdir)))
    expected_tags, expected_headings, _ = tags_and_headings(plain)
    assert expected_headings == ["Training", "Evaluation", "License"]
    card = model_card(backbone, FORMAT, Origin("workdir", str(hostile)))
    tags, headings, page = tags_and_headings(card)
    assert (tags, headings) == (expected_tags, expected_headings)
    # The data source, the protocol, its data, the initialization and the metric; and the path.
    assert page.count(ESCAPED) == 5
    assert page.count(ESCAPED.replace("/", "|")) == 1

    # A card is repeated in that of the SavedModel's export, and may be edited or hostile itself.
    hostile_model = tmp_path / "saved_model"
    hostile_model.mkdir()
    for added in ("", "\n<script>alert(1)</script>", "\n\\`<script>`"):
        text = card.replace("## Evaluation", f"{added}\n## Evaluation")
        (hostile_model / "README.md").write_text(text)
        repeated = model_card(backbone, FORMAT, Origin("saved_model", str(hostile_model)))
        tags, headings, _ = tags_and_headings(repeated)
        assert (tags, headings) == (expected_tags, expected_headings)


def test_card_states_the_mean_and_the_standard_deviation_of_imagenet(card):
    assert "mean 0.485, 0.456, 0.406; standard deviation 0.229, 0.224, 0.225" in card[""]
