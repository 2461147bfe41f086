"""Reports on a run whose BatchNormalization leaks, and on a run on images with five channels."""

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
from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError
from moco_tf.evaluation import knn
from moco_tf.evaluation.extraction import extract
from moco_tf.report import page, report
from moco_tf.report.baselines import baselines
from moco_tf.report.findings import PIXELS, RANDOM, TRAINED
from moco_tf.report.report import write_report
from moco_tf.run_data import RunData
from moco_tf.training.build import build_model
from moco_tf.training.checkpoints import Checkpoints
from tests.images import crops, write_folder
from tests.plots.test_thumbnails import central_view_by_pillow
from tests.report import browser
from tests.report.examples import metrics
from tests.report.test_page import READ, SECTIONS


def make_run(workdir, source, **settings):
    """Write a run directory with an untrained encoder and made-up metrics; return the model."""
    config = default_config()
    config.data.source = source.name
    config.update(encoder="resnet8", stem="small", image_size=32, batch_size=4, bn_groups=1)
    config.update(shuffle_bn=False, epochs=10, queue_size=1000, **settings)
    num_images = len(source.pretrain)
    run_directory.open_for_training(str(workdir), config, RunData(num_images, source.channels))
    model = build_model(config, num_images // 4, source.channels, num_images)
    save(model, workdir, step=40)
    lines = metrics(loss=0.2, top1=0.99, steps=40)
    lines.append({**lines[-1], "step": 60, "loss": 9.0})  # Logged after the last checkpoint.
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return model


def save(model, workdir, step):
    checkpoints = Checkpoints(model, str(workdir), 1)
    checkpoints.step = step
    checkpoints.save()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes with 40 images each, one of which cannot be read."""
    folder = write_folder(tmp_path_factory.mktemp("images") / "photos")
    source = sources.load(f"folder:{folder}")
    with open(source.describe(source.test[3]), "wb") as file:
        file.write(b"no image")
    return folder


@pytest.fixture(scope="module")
def leaking_run(folder, tmp_path_factory):
    """The run directory, its model, and the result of `write_report`."""
    workdir = tmp_path_factory.mktemp("leaking")
    model = make_run(workdir, sources.load(f"folder:{folder}"))
    return workdir, model, write_report(str(workdir))


def page_data(page):
    """Return the data that the page has for its script."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


@pytest.mark.nightly
def test_accuracies_are_those_of_the_protocols(folder, leaking_run):
    workdir, _, result = leaking_run
    source = sources.load(f"folder:{folder}")

    def pixels(images):
        return tf.reshape(images, [len(images), -1])

    for name, backbone in ((TRAINED, load_backbone(str(workdir))), (PIXELS, pixels)):
        train, test = (extract(backbone, source, part, 32) for part in (source.train, source.test))
        expected = knn.classify(train, test)
        assert result["backbones"][name]["knn"].items() >= expected.items()
    assert list(result["backbones"]) == [TRAINED, RANDOM, PIXELS]
    assert result["num_train"] == len(source.train)
    assert result["num_test"] == len(source.test) - 1  # One cannot be read.
    # A file has lists for tuples.
    written = json.loads((workdir / "eval" / "report.json").read_text())
    assert written == json.loads(json.dumps(result))
    damaged = source.describe(source.test[3])
    assert result["unreadable"] == [damaged]
    assert (result["num_unreadable_train"], result["num_unreadable_test"]) == (0, 1)
    assert (workdir / "eval" / "report_unreadable.txt").read_text() == f"{damaged}\n"
    assert "unreadable_images" in result["warnings"]


def test_raw_pixels_of_larger_views_are_resized(folder):
    source = sources.load(f"folder:{folder}")
    config = default_config()
    config.encoder = "resnet8"
    images = np.stack(crops(3, 64))
    pixels = baselines(str(folder), config, source, 64)[PIXELS](tf.constant(images, tf.float32))
    expected = [
        PIL.Image.fromarray(image).resize((32, 32), PIL.Image.Resampling.BILINEAR)
        for image in images
    ]
    assert np.abs(np.reshape(expected, [3, -1]) - pixels.numpy()).max() < 1.01


def test_report_warns_of_the_problems_of_the_run(leaking_run):
    _, _, result = leaking_run
    assert set(result["warnings"]) >= {
        "not_finished",
        "leaking_normalization",
        "queue_larger_than_data",
        "few_images",
    }
    assert not set(result["warnings"]) & {"not_finite", "loss_at_chance"}
    assert result["step"] == 40
    assert result["data"].startswith("folder:")


@browser.needs_browser
def test_page_of_a_run_in_a_browser(leaking_run, tmp_path):
    workdir, _, result = leaking_run
    html = (workdir / "report.html").read_text()
    shown, console = browser.run_script(html, READ, tmp_path)
    assert not console
    assert shown["sections"] == SECTIONS
    assert shown["warnings"] == result["warnings"]
    assert set(shown["warnings"] + shown["passed"]) == set(result["looked_at"])
    assert shown["points"] == result["num_test"]
    assert shown["colors"] == 2
    assert shown["rows"] == [9] * 8
    assert shown["loaded"]
    assert not shown["wide"]
    assert len(shown["charts"]) == 3  # There are no kNN accuracies up to this checkpoint.
    # The lines of metrics.jsonl after the checkpoint are left out.
    assert all(readout.startswith("step 40 ") for readout in shown["readouts"])


@pytest.mark.slow
def test_report_on_five_channels_without_labels_has_no_comparison(tmp_path):
    rgb = np.stack(crops(20, 56))
    images = np.concatenate([rgb, 255 - rgb[..., :2]], axis=-1)
    indices = np.arange(20)
    source = Source(
        name="five channels",
        size=20,
        read=lambda index: tf.gather(images, index),
        describe=str,
        pretrain=indices,
        train=indices[:12],
        test=indices[12:],
        channels=5,
    )
    workdir = tmp_path / "run"
    workdir.mkdir()
    make_run(workdir, source, rgb_operations=False, mechanism="memory_bank")
    output_dir = tmp_path / "elsewhere"
    result = write_report(str(workdir), source, image_size=40, output_dir=str(output_dir))
    assert result["backbones"] is None
    assert result["image_size"] == 40
    assert not (workdir / "report.html").exists()
    html = (output_dir / "report.html").read_text()
    assert "Only the first 3 of 5 channels are shown" in html
    data = page_data(html)
    assert data["map"]["labels"] is None
    assert len(data["map"]["positions"]) == len(source.test)
    # The sheet has the first three channels of the test images.
    encoded = re.search(r'url\("data:image/jpeg;base64,([^"]*)"\)', html)[1]
    sheet = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(encoded))), float)
    for i, image in enumerate(rgb[12:]):
        row, column = divmod(i, data["map"]["columns"])
        tile = sheet[64 * row : 64 * row + 64, 64 * column : 64 * column + 64]
        view = central_view_by_pillow(PIL.Image.fromarray(image), 40)
        assert np.abs(tile - view.resize((64, 64), PIL.Image.Resampling.BILINEAR)).mean() < 4


@pytest.mark.nightly
def test_without_held_out_images_the_map_shows_training_images(leaking_run, folder, tmp_path):
    workdir, _, _ = leaking_run
    source = sources.load(f"folder:{folder}")
    source = dataclasses.replace(source, test=np.array([], np.int64))
    result = write_report(str(workdir), source, output_dir=str(tmp_path))
    assert result["backbones"] is None
    assert result["num_test"] == result["num_train"] == len(source.pretrain) - 1
    html = (tmp_path / "report.html").read_text()
    assert "79 training images (no test images are held out)" in html
    # No image is its own neighbor.
    neighbors = page_data(html)["map"]["neighbors"]
    assert all(i not in row for i, row in enumerate(neighbors))


@pytest.mark.slow
def test_report_of_other_images_on_a_run_that_goes_on(leaking_run, tmp_path, monkeypatch):
    leaking_workdir, model, _ = leaking_run
    workdir = tmp_path / "run"
    shutil.copytree(leaking_workdir, workdir)
    extract_features = report.extract

    def extract_slowly(*arguments):
        save(model, workdir, step=50)
        return extract_features(*arguments)

    monkeypatch.setattr(report, "extract", extract_slowly)
    others = sources.load(f"folder:{write_folder(tmp_path / 'others')}")
    result = write_report(str(workdir), others)
    assert result["step"] == 40
    assert result["data"] == others.name
    html = (workdir / "report.html").read_text()
    trained_on = run_directory.read_config(str(workdir)).data.source
    assert f"80 images of {trained_on}, step 40 of" in html
    assert f"; this report uses the images of {others.name}" in html
    assert f"80 of {trained_on}" in html


@pytest.mark.slow
def test_report_warns_of_features_that_are_not_finite(leaking_run, tmp_path):
    leaking_workdir, model, _ = leaking_run
    workdir = tmp_path / "run"
    shutil.copytree(leaking_workdir, workdir)
    offset = model.query_encoder.backbone.trainable_variables[-1]  # Before the last ReLU.
    offset.assign(np.full(offset.shape, 1e38))  # The mean over an image overflows.
    save(model, workdir, step=41)
    result = write_report(str(workdir))
    assert "not_finite" in result["warnings"]
    assert result["backbones"] is None
    html = (workdir / "report.html").read_text()
    assert page_data(html)["map"] is None
    assert "No map: the features are not finite" in html


def test_directory_without_a_run_or_a_checkpoint_is_refused(tmp_path, leaking_run):
    with pytest.raises(UserError, match="holds no run"):
        write_report(str(tmp_path))
    workdir = tmp_path / "run"
    workdir.mkdir()
    shutil.copy(leaking_run[0] / "config.json", workdir)
    with pytest.raises(UserError, match="no checkpoint yet"):
        write_report(str(workdir))


@pytest.mark.slow
def test_report_on_images_of_which_few_have_labels_shows_no_classes(tmp_path):
    images = np.stack(crops(12, 40))
    labels = np.array([0, 1, *[-1] * 10])
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "images.labels.npy", labels)
    source = sources.load(f"npy:{tmp_path / 'images.npy'}")
    assert source.has_labels
    assert not len(source.test)
    workdir = tmp_path / "run"
    workdir.mkdir()
    make_run(workdir, source)
    write_report(str(workdir))
    html = (workdir / "report.html").read_text()
    assert page_data(html)["map"]["labels"] is None
    assert "the images have no labels" in html


@pytest.mark.slow
def test_report_has_the_numbers_and_the_neighbors_of_its_features(tmp_path, monkeypatch):
    """Six classes of different sizes, whose test images come before the training images."""
    counts = {"a": 9, "b": 5, "c": 4, "d": 4, "e": 4, "f": 4}
    for part in ("test", "train"):
        for number, (name, count) in enumerate(counts.items()):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            seed = 10 * number + (part == "train")
            for index, image in enumerate(crops(count + (part == "train"), 40, seed=seed)):
                PIL.Image.fromarray(image).save(folder / f"{index}.png")
    source = sources.load(f"folder:{tmp_path / 'images'}")
    workdir = tmp_path / "run"
    make_run(workdir, source)
    rendered = []
    monkeypatch.setattr(page, "render", lambda contents: rendered.append(contents) or "")
    result = write_report(str(workdir))

    [contents] = rendered
    train, test = (
        extract(load_backbone(str(workdir)), source, part, 32)
        for part in (source.train, source.test)
    )
    assert test.indices.max() < train.indices.min()
    assert contents.evidence.most_frequent == 9 / 30
    top1, top5 = (result["backbones"][TRAINED]["knn"][name] for name in ("top1", "top5"))
    assert top1 < top5
    for name, results in result["backbones"].items():
        expected = {protocol: results[protocol]["top1"] for protocol in ("knn", "linear_cached")}
        assert contents.evidence.accuracies[name] == expected
    unit = [
        values / np.linalg.norm(values, axis=1, keepdims=True)
        for values in (np.float64(train.features), np.float64(test.features))
    ]
    similarities = {
        source.describe(int(index)): dict(
            zip(map(source.describe, train.indices.tolist()), unit[0] @ row, strict=True)
        )
        for index, row in zip(test.indices, unit[1], strict=True)
    }
    shown = contents.neighbors
    columns = shown.cosines.shape[1]
    for row, query in enumerate(shown.queries.names):
        of_query = similarities[query]
        names = shown.images.names[row * columns : (row + 1) * columns]
        nearest = sorted(of_query.values(), reverse=True)[:columns]
        np.testing.assert_allclose([of_query[name] for name in names], nearest, atol=1e-5)
        np.testing.assert_allclose(shown.cosines[row], nearest, atol=1e-5)


def test_random_baseline_has_the_seed_of_the_run(folder):
    source = sources.load(f"folder:{folder}")
    config = default_config()
    config.update(encoder="resnet8", stem="small", image_size=32)

    def kernel(seed):
        config.seed = seed
        return baselines(str(folder), config, source, 32)[RANDOM].get_weights()

    first, again, other = kernel(0), kernel(0), kernel(1)
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert not all(np.array_equal(*pair) for pair in zip(first, other, strict=True))
