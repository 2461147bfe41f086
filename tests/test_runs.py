"""`moco_tf.load_run`: what an existing run looks like in Python."""

import os
import pathlib
import shutil
import sys

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import moco_tf
from moco_tf import UserError, run_metrics
from moco_tf.backbones import classifier, loading
from moco_tf.data.pixels import Pixels
from moco_tf.export.saved_model import export_saved_model
from tests.images import crops


def test_run_has_the_state_of_its_directory(trained_run):
    run = moco_tf.load_run(trained_run)
    assert (run.workdir, run.step, run.total_steps, run.finished) == (
        str(trained_run),
        12,
        12,
        True,
    )
    assert repr(run) == f"<moco_tf.Run '{trained_run}': step 12 of 12, finished>"
    images = np.stack(crops(4, 32))
    expected = moco_tf.load_backbone(str(trained_run)).predict(images, verbose=0)
    np.testing.assert_array_equal(run.backbone.predict(images, verbose=0), expected)
    assert run.backbone is run.backbone


def test_evaluation_size_is_that_of_the_config(trained_run):
    run = moco_tf.load_run(trained_run)
    assert run.evaluation_size == run.config.image_size == 32
    run.config.evaluation_size = 48
    assert run.evaluation_size == 48


FEW = dict(batch_size=8, queue_size=16, bn_groups=2, steps=1, knn_every=0, rgb_operations=False)


@pytest.fixture(scope="module")
def gray_run(tmp_path_factory):
    """A run on 16-bit images of one channel, and its images."""
    images = np.random.default_rng(0).integers(0, 4000, [24, 16, 16, 1]).astype(np.uint16)
    data = {"pixels": "uint16", "value_range": "0,4000"}
    workdir = tmp_path_factory.mktemp("gray") / "run"
    return moco_tf.train(images, workdir, "photos", **FEW, data=data), images


@pytest.mark.slow
def test_source_has_the_options_of_the_run(gray_run, tmp_path):
    run, images = gray_run
    source = run.source
    assert (source.dtype, source.channels, source.value_range) == ("uint16", 1, (0, 4000))
    np.testing.assert_array_equal(source.read(tf.constant(3, tf.int64)), images[3])
    assert moco_tf.extract_features(run.backbone, source, "all", 16).features.shape == (24, 64)
    for value_range in ((0, 4000), "0,4000", source.options["value_range"]):
        again = moco_tf.load_source(source.name, pixels="uint16", value_range=value_range)
        assert again.value_range == source.value_range
    # The same file with other options is not what the backbone takes.
    other = moco_tf.load_source(source.name, pixels="uint16")
    message = r"values of 'npy:.*' are in \[0, 65535\], but the backbone takes \[0, 4000\]"
    with pytest.raises(UserError, match=message):
        moco_tf.extract_features(run.backbone, other, "all", 16)
    with pytest.raises(UserError, match=message):
        moco_tf.embed(run.backbone, other, tmp_path / "features", 16)
    with pytest.raises(UserError, match="have 1 channels, but the backbone takes 3"):
        moco_tf.extract_features(moco_tf.encoders.random_backbone("resnet8"), other, "all", 16)
    assert list(tmp_path.iterdir()) == []


def test_range_of_a_file_may_be_rounded(tmp_path):
    value_range = (-2.364314856529236, 2.3422594237327576)
    np.save(tmp_path / "images.npy", np.zeros([4, 16, 16, 1], np.float32))
    source = moco_tf.load_source(
        f"npy:{tmp_path / 'images.npy'}", pixels="float32", value_range=value_range
    )
    pixels = Pixels((0.5,), (0.25,), "float32", value_range)
    backbone = moco_tf.encoders.random_backbone("resnet8", "small", 1, pixels=pixels)
    backbone.save(tmp_path / "backbone.keras")
    loaded = moco_tf.load_backbone(tmp_path / "backbone.keras")
    assert loaded.pixels.value_range != value_range
    assert moco_tf.extract_features(loaded, source, "all", 16).features.shape == (4, 64)
    # A SavedModel knows its range, too.
    export_saved_model(backbone, str(tmp_path / "saved_model"))
    layer, _ = loading.load_saved_model(tmp_path / "saved_model")
    other = moco_tf.load_source(source.name, pixels="float32", value_range=(0, 1))
    message = r"are in \[0, 1\], but the backbone takes \[-2.36"
    with pytest.raises(UserError, match=message):
        moco_tf.extract_features(layer, other, "all", 16)
    # So does a model that Keras has loaded or built on it, such as a classifier.
    of_keras = keras.saving.load_model(tmp_path / "backbone.keras")
    for model in (of_keras, classifier.assemble(of_keras, np.zeros([64, 2]), np.zeros(2))):
        assert len(moco_tf.extract_features(model, source, "all", 16).features) == 4
        with pytest.raises(UserError, match=message):
            moco_tf.extract_features(model, other, "all", 16)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["run", "directory", "file"])
def test_run_starts_from_another_one(gray_run, tmp_path, form, monkeypatch):
    run, images = gray_run
    monkeypatch.setenv("HERE", str(tmp_path))
    path = tmp_path / "backbone.keras"
    run.backbone.save(path)
    init = {
        "run": run,
        "directory": pathlib.Path(run.workdir),
        "file": pathlib.Path("$HERE/backbone.keras"),
    }[form]
    data = {"pixels": "uint16", "value_range": "0,4000"}
    started = moco_tf.train(images, tmp_path / "next", "photos", init=init, **FEW, data=data)
    assert started.config.init == (f"keras:{path}" if form == "file" else f"run:{run.workdir}")


def test_metrics_have_a_row_for_each_step(trained_run):
    metrics = moco_tf.load_run(trained_run).metrics
    assert metrics.index.name == "step"
    assert metrics.index.tolist() == list(range(13))
    lines = run_metrics.read_metrics(str(trained_run))
    for line in lines:
        row = metrics.loc[line["step"]]
        assert all(row[key] == value for key, value in line.items() if key != "step")
    assert metrics["knn_top1"].dropna().index.tolist() == [0, 6, 12]
    assert pd.isna(metrics.loc[0, "loss"])


def test_metrics_need_pandas(trained_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="a data frame of pandas: pip install pandas"):
        _ = moco_tf.load_run(trained_run).metrics


def test_notebook_shows_the_curves(trained_run, tmp_path):
    text = moco_tf.load_run(trained_run)._repr_html_()
    assert f"&lt;moco_tf.Run &#x27;{trained_run}&#x27;: step 12 of 12, finished&gt;" in text
    assert '<img alt="curves" src="data:image/png;base64,iVBORw0KGgo' in text
    workdir = shutil.copytree(trained_run, tmp_path / "run")
    (workdir / "curves.png").unlink()
    assert "<img" not in moco_tf.load_run(workdir)._repr_html_()


def test_run_without_a_checkpoint(trained_run, tmp_path):
    workdir = shutil.copytree(trained_run, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "metrics.jsonl").unlink()
    run = moco_tf.load_run(workdir)
    assert (run.step, run.total_steps, run.finished) == (0, 12, False)
    assert run.metrics.empty
    assert run.metrics.index.name == "step"
    for use in (lambda: run.backbone, run.report):
        with pytest.raises(UserError, match="holds no checkpoint yet: train the run first"):
            use()


def test_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run: it has no config.json"):
        moco_tf.load_run(tmp_path)
    with pytest.raises(UserError, match="there is no directory"):
        moco_tf.load_run(tmp_path / "none")
    with pytest.raises(UserError, match="workdir is None: use a path, a text or a pathlib.Path"):
        moco_tf.load_run(None)


def test_run_is_found_from_another_working_directory(trained_run, monkeypatch, tmp_path):
    monkeypatch.chdir(trained_run.parent)
    run = moco_tf.load_run(trained_run.name)
    monkeypatch.chdir(tmp_path)
    assert run.workdir == str(trained_run)
    assert (run.step, run.finished) == (12, True)


def test_directory_that_is_gone_is_named(trained_run, tmp_path):
    run = moco_tf.load_run(shutil.copytree(trained_run, tmp_path / "run"))
    (tmp_path / "run" / "data.json").unlink()
    assert repr(run) == f"<moco_tf.Run '{tmp_path}/run': the directory is damaged>"
    shutil.rmtree(tmp_path / "run")
    for use in (lambda: run.step, lambda: run.metrics, lambda: run.finished):
        with pytest.raises(UserError, match=f"directory {tmp_path}/run does not exist any more"):
            use()
    assert repr(run) == f"<moco_tf.Run '{tmp_path}/run': the directory does not exist any more>"
    assert "does not exist any more" in run._repr_html_()


@pytest.mark.nightly
def test_report_is_written_if_it_is_missing_or_old(trained_run, tmp_path):
    run = moco_tf.load_run(shutil.copytree(trained_run, tmp_path / "run"))
    path = run.report()
    assert path == f"{run.workdir}/report.html"
    written = os.stat(path).st_mtime_ns
    assert run.report() == path
    assert os.stat(path).st_mtime_ns == written
    for suffix in ("index", "data-00000-of-00001"):
        os.remove(f"{run.workdir}/checkpoints/step-12.{suffix}")
    assert run.step == 10
    assert run.report() == path
    assert os.stat(path).st_mtime_ns > written


def test_mistake_is_one_line_in_a_notebook():
    assert UserError("epoch=3: no")._render_traceback_() == ["UserError: epoch=3: no"]
