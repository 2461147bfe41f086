"""evaluate.py with the protocols that classify images, end to end on a small folder."""

import json
import pathlib
import re
import shutil
import signal

import keras
import numpy as np
import PIL.Image
import pytest

from moco_tf.backbones import loading
from moco_tf.data import sources
from moco_tf.evaluation import knn
from moco_tf.evaluation.extraction import extract
from moco_tf.evaluation.settings import SETTINGS, KNNSettings
from moco_tf.report.findings import TITLES
from tests import command, in_process
from tests.command import TINY
from tests.conftest import source_flag

RANDOM = ("evaluate.py", "--random_init", *TINY)
# For each protocol, flags that all differ from the defaults.
FLAGS = {
    "linear": "learning_rate=3.5 batch_size=16 epochs=2 milestones=1 sgd_momentum=0.8 "
    "weight_decay=0.001 crop_scale=0.3,0.9 seed=5",
    "linear_cached": "l2=0.1 iterations=50",
    "few-shot": "shots=2,5 draws=3 seed=4 l2=0.01 iterations=100",
    "retrieval": "gallery=train ranks=1,3",
    "anomaly": "normal=left k=2",
    "cluster": "clusters=3 starts=2 seed=4",
    "finetune": "batch_norm=frozen learning_rate=0.002 head_learning_rate=0.3 batch_size=16 "
    "epochs=2 sgd_momentum=0.8 weight_decay=0.001 crop_scale=0.3,0.9 seed=5",
}


def evaluate(folder, out, *arguments):
    """Evaluate a random encoder; return the printed line and the result."""
    output = in_process.run(*RANDOM, source_flag(folder), f"--output_dir={out}", *arguments)
    *found, line = output.strip().splitlines()
    assert len(found) == 2  # The lines on what was found in the folder.
    assert found[1].startswith("an evaluation trains on ")
    path = line.rpartition("wrote ")[2].partition(" and ")[0]
    with open(path) as file:
        result = json.load(file)
    assert path == f"{out}/eval/{result['protocol']}.json"
    assert result["backbone"] == "random resnet8"
    assert result["image_size"] == 32
    # The normal images are half of the training images.
    num_parts = 2 if result["protocol"] == "anomaly" else 1
    assert num_parts * result["num_train"] + result["num_test"] == 100
    assert result["seconds"] > 0
    return line, result


@pytest.mark.slow
@pytest.mark.parametrize("protocol", FLAGS)
def test_result_records_the_settings_of_the_flags(image_folder, tmp_path, protocol):
    flags = [f"--{flag}" for flag in FLAGS[protocol].split()]
    mode = ["--cached"] if protocol == "linear_cached" else []
    name = protocol.removesuffix("_cached")
    line, result = evaluate(image_folder, tmp_path, f"--protocol={name}", *mode, *flags)
    assert result["protocol"] == protocol
    assert line.startswith(f"{protocol} of random resnet8 on ")
    assert result["random_init"] == {"encoder": "resnet8", "stem": "small", "seed": 0}
    defaults = SETTINGS[protocol]()
    for flag in FLAGS[protocol].split():
        key, value = flag.split("=")
        recorded = result[key]
        shown = ",".join(map(str, recorded)) if isinstance(recorded, list) else str(recorded)
        assert shown == value
        assert recorded != getattr(defaults, key)
    if protocol == "few-shot":
        assert [row["shots"] for row in result["few_shot"]] == [2, 5]
        for row in result["few_shot"]:
            assert row["top1"] == pytest.approx(np.mean(row["top1_of_draws"]))
            assert f"{row['top1']:.4f} ± {row['top1_std']:.4f} with {row['shots']} per" in line
    elif protocol == "retrieval":
        assert [row["rank"] for row in result["recall"]] == [1, 3]
        assert f"mAP {result['map']:.4f}" in line
        assert f"recall at 3 {result['recall'][1]['recall']:.4f}" in line
    elif protocol == "cluster":
        assert sum(result["cluster_sizes"]) == result["num_test"]
        assert result["ari_interval"] is None  # There are fewer than 20 test images.
        assert f"ARI {result['ari']:.4f}, " in line
    elif protocol == "anomaly":
        assert f"AUROC {result['auroc']:.4f} (" in line
    else:
        low, high = result["top1_interval"]
        interval = f"({low:.4f} to {high:.4f})"
        # There are two classes.
        assert f"top-1 {result['top1']:.4f} {interval}, top-5 1.0000" in line
        assert [row["class"] for row in result["per_class"]] == ["left", "right"]
    if protocol == "finetune":
        assert [point["epoch"] for point in result["curve"]] == [1, 2]
        assert result["curve"][-1]["top1"] == result["top1"]


@pytest.mark.slow
def test_empty_milestones_mean_none(image_folder, tmp_path):
    flags = ("--protocol=linear", "--epochs=1", "--milestones=")
    _, result = evaluate(image_folder, tmp_path, *flags)
    assert result["milestones"] == []


@pytest.fixture(scope="module")
def workdir(trained_run, tmp_path_factory):
    return shutil.copytree(trained_run, tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["knn", "knn_head"])
def test_knn_of_backbone_and_head(image_folder, workdir, name):
    flags = ["--features=head"] if name == "knn_head" else []
    load = loading.load_encoder if flags else loading.load_backbone
    output = in_process.run("evaluate.py", "--protocol=knn", "--k=3", *flags, workdir=workdir)
    lines = output.splitlines()
    assert lines[0] == f"folder:{image_folder}: 100 images in 2 classes: left, right"
    assert lines[1].startswith("pre-training uses 100 of them; an evaluation trains on ")
    assert lines[2].startswith(f"{name} of ")
    result = json.loads((workdir / "eval" / f"{name}.json").read_text())

    source = sources.load(f"folder:{image_folder}")
    model = load(str(workdir))
    train, test = (extract(model, source, part, 32) for part in (source.train, source.test))
    assert result["top1"] == knn.classify(train, test, KNNSettings(k=3))["top1"]
    assert result["k"] == 3
    with PIL.Image.open(workdir / f"{name.replace('knn', 'neighbours')}.png") as image:
        assert min(image.size) > 300


@pytest.mark.slow
def test_images_that_cannot_be_read_are_counted_and_named(image_folder, tmp_path):
    folder = shutil.copytree(image_folder, tmp_path / "images")
    source = sources.load(f"folder:{folder}")
    damaged = [int(index) for index in source.test if source.labels[index] == 0]
    damaged.append(int(source.train[0]))
    names = [source.describe(index) for index in damaged]
    for name in names:
        pathlib.Path(name).write_text("no image")
    flags = (source_flag(folder), f"--output_dir={tmp_path}", "--protocol=knn")
    output = in_process.run(*RANDOM, *flags)
    result = json.loads((tmp_path / "eval" / "knn.json").read_text())
    assert sorted(result["unreadable"]) == sorted(names)
    assert result["num_unreadable_train"] == 1
    assert result["num_unreadable_test"] == len(names) - 1
    assert result["num_train"] + result["num_test"] == 100 - len(names)
    path = tmp_path / "eval" / "knn_unreadable.txt"
    assert path.read_text().splitlines() == sorted(names)
    assert f"skipped {len(names)} of 100 images that cannot be read: {min(names)}" in output
    assert f"; listed in {path}\n" in output
    assert "the result says nothing about the class 'left': none of the test images" in output


@pytest.mark.slow
def test_training_images_that_a_protocol_does_not_use_are_counted_too(image_folder, tmp_path):
    folder = shutil.copytree(image_folder, tmp_path / "images")
    source = sources.load(f"folder:{folder}")
    name = source.describe(int(source.train[0]))
    pathlib.Path(name).write_text("no image")
    flags = (source_flag(folder), f"--output_dir={tmp_path}", "--protocol=anomaly")
    output = in_process.run(*RANDOM, *flags, "--normal=right")
    assert f"skipped 1 of 100 images that cannot be read: {name}" in output


@pytest.mark.slow
def test_report_is_written_and_its_warnings_are_printed(workdir, tmp_path):
    arguments = ("evaluate.py", "--protocol=report", f"--workdir={workdir}")
    output = in_process.run(*arguments, f"--output_dir={tmp_path}")
    result = json.loads((tmp_path / "eval" / "report.json").read_text())
    assert set(result["warnings"]) >= {"few_images"}
    titles = "; ".join(TITLES[name][0] for name in result["warnings"])
    assert f"warnings: {titles}; wrote {tmp_path}/report.html, which" in output
    assert "<html" in (tmp_path / "report.html").read_text()
    line = in_process.run_mistake(*arguments, "--k=3")
    assert "--k has no effect with --protocol=report" in line


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ("--protocol=report", "--protocol=report requires --workdir"),
        ("--protocol=knn --cached", "--cached requires --protocol=linear"),
        ("--protocol=linear --features=head", "--features requires --protocol=knn"),
        ("--protocol=knn --features=head", "--features=head requires --workdir"),
        ("--protocol=linear --compare", "--compare requires --protocol=finetune"),
        ("--protocol=finetune --compare", "--compare .*instead of --random_init"),
        ("--protocol=knn --l2=1", "--l2 has no effect with --protocol=knn: .*--k"),
        ("--protocol=knn --seed=1", "--seed has no effect with --protocol=knn"),
        ("--protocol=linear --cached --epochs=9", "--epochs has no .*linear --cached: .*--l2"),
        ("--protocol=finetune --milestones=1", "--milestones has no effect .*finetune: "),
        ("--protocol=finetune --layers=head --batch_norm=frozen", "--batch_norm .*--layers=head"),
        ("--protocol=knn --k=0", "--k=0: must be 1 or greater"),
        ("--protocol=few-shot --shots=0", "--shots=0: must be 1 or greater"),
        ("--protocol=few-shot --shots=1,two", "--shots=1,two: give numbers"),
        ("--protocol=few-shot --shots=", "--shots=: give"),
        ("--protocol=few-shot --shots=5,90", "--shots=5,90: class '.*' has only .. training"),
        ("--protocol=few-shot --draws=1", "--draws=1: must be 2"),
        ("--protocol=linear --milestones=a", "--milestones=a: give numbers"),
        ("--protocol=linear --epochs=70", "milestones=60,80: epoch 80 .*epochs=70"),
        ("--protocol=linear --crop_scale=0.1", "--crop_scale=0.1: give"),
        ("--protocol=linear --crop_scale=0.5,0.1", "--crop_scale=0.5,0.1: give"),
        ("--protocol=linear --learning_rate=-1", "--learning_rate=-1.0: must be greater than 0"),
        ("--protocol=linear --learning_rate=fast", "learning_rate.*fast"),
        ("--protocol=finetune --layers=last", "--?layers"),
        (
            "--protocol=finetune --label_fraction=1.5",
            "--label_fraction=1.5: must be greater than 0 and at most 1",
        ),
        ("--protocol=knn --encoder=resnet8", "--encoder=resnet8 has no effect"),
        ("--protocol=knn --checkpoint=x", "exactly one of .*--checkpoint and --random_init"),
        ("--protocol=svm", "--protocol=svm: choose one of knn, linear"),
        ("--protocol=kmn", "--protocol=kmn: did you mean knn[?]"),
        ("", "--protocol is required: for example --protocol=knn"),
    ],
)
def test_mistakes_are_one_line(image_folder, tmp_path, arguments, pattern):
    line = in_process.run_mistake(
        *RANDOM, source_flag(image_folder), f"--output_dir={tmp_path}", *arguments.split()
    )
    assert re.search(pattern, line), line
    assert not list(tmp_path.iterdir())


def test_results_that_cannot_be_written_are_refused_before_they_are_computed(
    image_folder, tmp_path
):
    (tmp_path / "file").touch()
    arguments = (*RANDOM, "--protocol=linear", source_flag(image_folder))
    line = in_process.run_mistake(*arguments, f"--output_dir={tmp_path}/file/out")
    assert f"written to {tmp_path}/file/out/eval, because {tmp_path}/file is not a dir" in line
    assert "choose another output_dir" in line


def test_result_that_cannot_be_written_is_printed(image_folder, tmp_path):
    (tmp_path / "eval" / "knn.json").mkdir(parents=True)
    arguments = (*RANDOM, "--protocol=knn", source_flag(image_folder))
    output = in_process.run(*arguments, f"--output_dir={tmp_path}", status=2)
    *_, result, error = output.strip().splitlines()
    assert re.match("knn of random resnet8 on .*: top-1 0[.][0-9]+", result)
    assert f"{tmp_path}/eval/knn.json cannot be written" in error
    assert "move the directory that has the name of this file elsewhere" in error


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--protocol=knn", ["--workdir", "--saved_model", "--random_init"]),
        ("--protocol=knn --workdir=/no/run", ["there is no directory /no/run"]),
        ("--protocol=knn --saved_model=configs", ["--data", "--image_size"]),
        ("--protocol=knn --saved_model=configs --data=photos --image_size=32", ["configs"]),
        ("--protocol=knn --random_init", ["--config"]),
        (
            "--protocol=knn --workdir=run --config=configs/photos.py --config.image_size=64",
            ["--config has no effect with --workdir: leave it out"],
        ),
    ],
)
def test_missing_backbone_is_one_line(arguments, parts):
    line = in_process.run_mistake("evaluate.py", *arguments.split())
    for part in parts:
        assert part in line


def test_network_of_a_saved_model_that_names_it_is_refused(tmp_path):
    (tmp_path / "network.json").write_text('{"encoder": "resnet8", "stem": "small", "channels": 3}')
    flags = ("--protocol=knn", f"--saved_model={tmp_path}", "--data=photos", "--image_size=32")
    line = in_process.run_mistake("evaluate.py", *flags, "--encoder=resnet50")
    assert "names its network itself (resnet8): remove --encoder" in line
    (tmp_path / "network.json").unlink()
    line = in_process.run_mistake("evaluate.py", *flags, "--stem=small")
    assert "contains its network: remove --stem" in line


def test_images_without_labels_are_one_line(image_folder, trained_run):
    unlabeled = f"--data=folder:{image_folder / 'left'}"
    line = in_process.run_mistake("evaluate.py", "--protocol=knn", unlabeled, workdir=trained_run)
    assert "no labels" in line
    assert "because the images are not in class folders: put the images of each class" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "protocol", "flags"),
    [
        (in_process.run, "linear", "--milestones="),
        (in_process.run, "finetune", "--learning_rate=0.01"),
        # A second strategy does not fit into the process of the tests.
        (command.run, "finetune", "--learning_rate=0.01 --strategy=mirrored --virtual_devices=2"),
    ],
)
def test_saved_classifier_has_the_accuracy_of_the_result(
    image_folder, workdir, tmp_path, run, protocol, flags
):
    path = tmp_path / "classifier.keras"
    arguments = (f"--protocol={protocol}", f"--save_classifier={path}", f"--output_dir={tmp_path}")
    arguments += (f"--data=folder:{image_folder}", "--epochs=2", "--crop_scale=1,1")
    output = run("evaluate.py", *arguments, *flags.split(), f"--workdir={workdir}")
    assert output.endswith(f" and {path}\n")
    # The images of --data are those of the run.
    assert "\npre-training uses 100 of them; " in output
    result = json.loads((tmp_path / "eval" / f"{protocol}.json").read_text())
    model = keras.saving.load_model(path)
    source = sources.load(f"folder:{image_folder}")
    test = extract(model, source, source.test, 32)
    np.testing.assert_allclose(test.features.sum(axis=1), 1, rtol=1e-5)
    is_correct = test.features.argmax(axis=1) == test.labels
    assert result["top1"] == is_correct.mean()
    of_classes = [is_correct[test.labels == label].mean() for label in range(2)]
    assert [row["top1"] for row in result["per_class"]] == of_classes
    card = pathlib.Path(f"{path}.md").read_text()
    assert 'CLASSES = [\n    "left",\n    "right",\n]' in card
    assert "The query encoder of the run " in card


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--protocol=knn",
            "--save_classifier requires --protocol=linear or finetune, not --protocol=knn",
        ),
        (
            "--protocol=linear --cached",
            "--save_classifier has no effect with --cached: leave one of them out",
        ),
        (
            "--protocol=finetune --compare",
            "--save_classifier has no effect with --compare: leave one of them out",
        ),
    ],
)
def test_classifier_that_is_not_trained_cannot_be_saved(flags, message):
    arguments = ("--workdir=runs/mine", "--save_classifier=new.keras", *flags.split())
    output = in_process.run("evaluate.py", *arguments, status=2)
    assert output == f"error: {message}\n"


@pytest.mark.slow
def test_path_of_the_classifier_is_checked_before_the_training(image_folder, workdir, tmp_path):
    path = tmp_path / "classifier.keras"
    path.write_text("precious")
    flags = ("--protocol=finetune", f"--save_classifier={path}", f"--output_dir={tmp_path}")
    output = in_process.run("evaluate.py", *flags, workdir=workdir, status=2)
    assert output.endswith(f"error: the path {path} exists: use a path that does not exist\n")
    assert path.read_text() == "precious"
    assert not (tmp_path / "eval").exists()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_killed_training_continues(workdir, tmp_path, protocol):
    settings = [f"--protocol={protocol}", "--epochs=3", "--learning_rate=0.01"]
    settings += ["--milestones=1"] if protocol == "linear" else []

    def flags(name):
        return [*settings, f"--workdir={workdir}", f"--output_dir={tmp_path / name}"]

    in_process.run("evaluate.py", *flags("at once"))
    command.run("-m", "tests.killed_evaluation", 2, *flags("killed"), status=-signal.SIGKILL)
    [state] = (tmp_path / "killed" / "eval").iterdir()
    output = in_process.run("evaluate.py", *flags("killed"))
    assert f"the training continues after epoch 2 of 3, from {state}\n" in output
    results = [
        json.loads((tmp_path / name / "eval" / f"{protocol}.json").read_text())
        for name in ("at once", "killed")
    ]
    assert all(result.pop("seconds") > 0 for result in results)
    assert results[0] == results[1]
    assert len(results[0]["curve"]) == 3
    assert not state.exists()


SAVING = ("--protocol=finetune", "--epochs=1")


@pytest.fixture
def copied_run(trained_run, tmp_path):
    return shutil.copytree(trained_run, tmp_path / "run")


@pytest.mark.slow
def test_damaged_result_of_another_protocol_does_not_cost_the_classifier(copied_run, tmp_path):
    (copied_run / "eval").mkdir(exist_ok=True)
    (copied_run / "eval" / "knn.json").write_text('{"protocol": ')
    path = tmp_path / "classifier.keras"
    in_process.run("evaluate.py", *SAVING, f"--save_classifier={path}", workdir=copied_run)
    assert keras.saving.load_model(path).output_shape == (None, 2)


@pytest.mark.slow
def test_result_that_cannot_be_written_does_not_cost_the_classifier(copied_run, tmp_path):
    (copied_run / "eval" / "finetune.json" / "in_the_way").mkdir(parents=True)
    path = tmp_path / "classifier.keras"
    flags = (*SAVING, f"--save_classifier={path}")
    output = in_process.run("evaluate.py", *flags, workdir=copied_run, status=2)
    *_, summary, error = output.splitlines()
    assert summary.startswith("finetune of ")
    assert summary.endswith(f"; wrote {path}")
    assert "finetune.json cannot be written" in error
    assert keras.saving.load_model(path).output_shape == (None, 2)


@pytest.mark.slow
def test_damaged_metrics_are_reported_before_the_training(copied_run, tmp_path):
    (copied_run / "metrics.jsonl").write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    flags = (*SAVING, f"--save_classifier={tmp_path / 'classifier.keras'}")
    output = in_process.run("evaluate.py", *flags, workdir=copied_run, status=2)
    assert "metrics.jsonl" in output
    assert "fine-tuning" not in output
    assert not (copied_run / "eval" / "finetune.json").exists()


@pytest.mark.slow
def test_backbone_of_a_classifier_can_be_evaluated(image_folder, copied_run, tmp_path):
    path = tmp_path / "classifier.keras"
    in_process.run("evaluate.py", *SAVING, f"--save_classifier={path}", workdir=copied_run)
    flags = ("--protocol=knn", f"--checkpoint={path}", f"--data=folder:{image_folder}")
    output = in_process.run(
        "evaluate.py", *flags, "--image_size=32", f"--output_dir={tmp_path / 'out'}"
    )
    assert f"{path} is a classifier: only its backbone is used\n" in output
