"""Reports on runs: one of two classes that leaks, and one of five channels without labels."""

import base64
import dataclasses
import io
import json
import re
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from moco_tf import run_directory
from moco_tf.backbones.loading import load_backbone
from moco_tf.config import default_config
from moco_tf.data import sources
from moco_tf.errors import UserError
from moco_tf.evaluation import knn
from moco_tf.evaluation.features import extract
from moco_tf.report import _baselines, write_report
from moco_tf.training.build import build_model
from moco_tf.training.checkpoints import Checkpoints
from tests.images import crops, write_folder
from tests.plots.test_thumbnails import central_view_by_pillow
from tests.report import browser
from tests.report.made import metrics
from tests.report.test_page import LOOK, SECTIONS
from tests.training.test_channels import write_records


def make_run(workdir, source, **settings):
    """A run directory of an untrained encoder, and a log."""
    config = default_config()
    config.data.source = source.name
    config.update(encoder="resnet8", stem="small", image_size=32, batch_size=4, bn_groups=1)
    config.update(shuffle_bn=False, epochs=10, queue_size=1000, **settings)
    count = len(source.pretrain)
    run_directory.open_for_training(str(workdir), config, count, source.channels)
    model = build_model(config, count // 4, source.channels, count)
    checkpoints = Checkpoints(model, str(workdir), 1)
    checkpoints.step = 40
    checkpoints.save()
    lines = metrics(loss=0.2, top1=0.99, steps=40)
    lines.append({**lines[-1], "step": 60, "loss": 9.0})  # logged, and not saved
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of 40 images, one of which cannot be read."""
    folder = write_folder(tmp_path_factory.mktemp("images") / "photos")
    source = sources.load(f"folder:{folder}")
    with open(source.describe(source.test[3]), "wb") as file:
        file.write(b"no image")
    return folder


@pytest.fixture(scope="module")
def leaking(folder, tmp_path_factory):
    """The run, its model, and what was returned."""
    workdir = tmp_path_factory.mktemp("leaking")
    model = make_run(workdir, sources.load(f"folder:{folder}"))
    return workdir, model, write_report(str(workdir))


def classified(train, test):
    return knn.classify(train.features, train.labels, test.features, test.labels, 2)


def test_the_figures_are_those_of_the_protocols(folder, leaking):
    workdir, _, result = leaking
    source = sources.load(f"folder:{folder}")

    def pixels(images):
        return tf.reshape(images, [len(images), -1])

    for name, backbone in (("trained", load_backbone(str(workdir))), ("raw pixels", pixels)):
        train, test = (extract(backbone, source, part, 32) for part in (source.train, source.test))
        found = result["backbones"][name]["knn"]
        assert {key: found[key] for key in ("top1", "top5")} == classified(train, test)
    assert list(result["backbones"]) == ["trained", "random initialisation", "raw pixels"]
    assert result["num_train"] == len(source.train)
    assert result["num_test"] == len(source.test) - 1  # one cannot be read
    assert json.loads((workdir / "eval" / "report.json").read_text()) == result


def test_raw_pixels_of_larger_views_are_reduced(folder):
    source = sources.load(f"folder:{folder}")
    config = default_config()
    config.encoder = "resnet8"
    images = np.stack(crops(3, 64))
    found = _baselines(config, source, 64)["raw pixels"](tf.constant(images, tf.float32))
    small = [PIL.Image.fromarray(i).resize((32, 32), PIL.Image.Resampling.BILINEAR) for i in images]
    assert np.abs(np.reshape(small, [3, -1]) - found.numpy()).max() < 1.01


def test_what_is_wrong_is_found(leaking):
    _, _, result = leaking
    assert set(result["warnings"]) >= {
        "not_finished",
        "leaking_normalization",
        "queue_larger_than_data",
        "few_images",
    }
    assert not set(result["warnings"]) & {"not_finite", "loss_at_chance"}
    assert result["step"] == 40 and result["data"].startswith("folder:")


@browser.needed
def test_the_page_of_a_run_as_it_is_seen(leaking, tmp_path):
    workdir, _, result = leaking
    page = (workdir / "report.html").read_text()
    found, console = browser.look(page, LOOK, tmp_path)
    assert not console
    assert tuple(found["sections"]) == SECTIONS
    assert found["warnings"] == result["warnings"]
    assert set(found["warnings"] + found["looked"]) == set(result["looked_at"])
    assert found["points"] == result["num_test"] and found["hues"] == 2
    assert found["rows"] == [9] * 8 and found["loaded"] and not found["wide"]
    assert len(found["charts"]) == 3  # nothing was monitored up to this checkpoint
    assert all(readout.startswith("step 40 ") for readout in found["readouts"])  # not 60


def test_without_labels_and_of_five_channels(tmp_path):
    name = write_records(tmp_path / "records", channels=5)
    source = sources.load(name, label_feature="")
    settings = {"rgb_operations": False, "mechanism": "memory_bank"}
    workdir = tmp_path / "run"
    workdir.mkdir()
    make_run(workdir, source, **settings)
    out = tmp_path / "elsewhere"
    result = write_report(str(workdir), source, image_size=40, output_dir=str(out))
    assert result["backbones"] is None and result["image_size"] == 40
    assert not (workdir / "report.html").exists()
    page = (out / "report.html").read_text()
    assert "Of 5 channels the first 3 are shown, as red, green and blue." in page
    data = shown_data(page)
    assert data["map"]["labels"] is None and len(data["map"]["places"]) == len(source.test)
    # What is on the sheet is what was written into the records.
    images = np.stack([source.read(tf.constant(i)).numpy() for i in source.test])[..., :3]
    encoded = re.search(r'url\("data:image/jpeg;base64,([^"]*)"\)', page)[1]
    sheet = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(encoded))), float)
    for i, image in enumerate(images):
        row, column = divmod(i, data["map"]["columns"])
        tile = sheet[64 * row : 64 * row + 64, 64 * column : 64 * column + 64]
        view = central_view_by_pillow(PIL.Image.fromarray(image), 40)
        assert np.abs(tile - view.resize((64, 64), PIL.Image.Resampling.BILINEAR)).mean() < 4


def shown_data(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_nothing_held_out_leaves_a_map_of_what_was_trained_on(leaking, folder, tmp_path):
    workdir, _, _ = leaking
    source = sources.load(f"folder:{folder}")
    source = dataclasses.replace(source, test=np.array([], np.int64))
    result = write_report(str(workdir), source, output_dir=str(tmp_path))
    assert result["backbones"] is None
    assert result["num_test"] == result["num_train"] == len(source.pretrain) - 1
    page = (tmp_path / "report.html").read_text()
    assert "79 images of training (none are held out)" in page
    near = shown_data(page)["map"]["near"]
    assert all(i not in row for i, row in enumerate(near))


def test_features_that_are_not_finite_leave_the_curves_and_a_warning(leaking, tmp_path):
    made, model, _ = leaking
    workdir = tmp_path / "run"
    shutil.copytree(made, workdir)
    offset = model.query_encoder.backbone.trainable_variables[-1]  # before the last ReLU
    offset.assign(np.full(offset.shape, np.inf))
    checkpoints = Checkpoints(model, str(workdir), 1)
    checkpoints.step = 41
    checkpoints.save()
    result = write_report(str(workdir))
    assert "not_finite" in result["warnings"] and result["backbones"] is None
    assert shown_data((workdir / "report.html").read_text())["map"] is None


def test_mistakes(tmp_path, leaking):
    with pytest.raises(UserError, match="holds no run"):
        write_report(str(tmp_path))
    workdir = tmp_path / "run"
    workdir.mkdir()
    shutil.copy(leaking[0] / "config.json", workdir)
    with pytest.raises(UserError, match="no checkpoint yet"):
        write_report(str(workdir))
