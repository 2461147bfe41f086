"""What the kNN monitor logs, with and without labels, and its warning of collapsed features."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import run_metrics
from moco_tf.configs.photos import get_config
from moco_tf.data import sources
from moco_tf.evaluation import quality
from moco_tf.seeds import seed_for
from moco_tf.training.build import build_data, build_model
from moco_tf.training.finite import FiniteCheck
from moco_tf.training.knn_monitor import KNNMonitor
from moco_tf.training.metrics_log import MetricsLog
from tests.images import write_folder

STEPS_PER_EPOCH = 5
MEASURES = {
    *(
        "evaluation_size",
        "effective_rank",
        "uniformity",
        "feature_std",
        "dead_dimensions",
        "low_cosine",
        "collapsed",
    )
}


@pytest.fixture(scope="module")
def photos():
    source = sources.load("photos")
    return dataclasses.replace(source, train=source.train[::20], test=source.test[::20])


def monitor_of(source, workdir, batches=None):
    config = get_config()
    config.update(batch_size=16, bn_groups=2, queue_size=64, knn_every=1)
    model = build_model(config, STEPS_PER_EPOCH)
    log = MetricsLog(str(workdir), 0, config, STEPS_PER_EPOCH, FiniteCheck(model, str(workdir)))
    monitor = KNNMonitor(log, 0, config, STEPS_PER_EPOCH, source, batches=batches)
    monitor.set_model(model)
    monitor.on_train_begin()
    return model, monitor


def logged(workdir):
    return {line["step"]: line for line in run_metrics.read_metrics(str(workdir))}


@pytest.mark.slow
def test_measures_are_logged_and_collapse_is_reported_once(photos, tmp_path, capsys):
    model, monitor = monitor_of(photos, tmp_path)
    monitor.on_step(1, {})
    assert "step 0: kNN top-1 " in capsys.readouterr().out
    *_, last = [layer for layer in model.query_encoder.backbone.layers if "bn" in layer.name]
    last.gamma.assign(0 * last.gamma)
    last.beta.assign(0 * last.beta + 1)
    for layer in model.query_encoder.backbone.layers:
        if "conv" in layer.name or "shortcut" in layer.name:
            layer.set_weights([0 * weight for weight in layer.get_weights()])
    for step in (STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH):
        monitor.on_step(step, {})
    output = capsys.readouterr().out
    assert output.count("warning: at step ") == 1
    assert f"warning: at step {STEPS_PER_EPOCH}, the features of different images are" in output
    lines = logged(tmp_path)
    assert list(lines) == [0, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH]
    assert {line["evaluation_size"] for line in lines.values()} == {32}  # Of configs/photos.py.
    for line in lines.values():
        assert line.keys() == {"step", "epoch", "knn_top1"} | MEASURES
    initial, collapsed = lines[0], lines[STEPS_PER_EPOCH]
    assert not quality.has_collapsed(initial["low_cosine"], initial["effective_rank"])
    assert (initial["collapsed"], collapsed["collapsed"]) == (0, 1)
    assert collapsed["effective_rank"] == pytest.approx(1)
    assert collapsed["feature_std"] == pytest.approx(0, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("has_test", [True, False])
def test_images_without_labels_or_test_images_are_measured(photos, tmp_path, capsys, has_test):
    changes = {} if has_test else {"test": photos.test[:0], "pretrain": photos.pretrain[::50]}
    source = dataclasses.replace(photos, load_labels=None, **changes)
    _, monitor = monitor_of(source, tmp_path)
    monitor.on_step(1, {})
    assert logged(tmp_path)[0].keys() == {"step", "epoch"} | MEASURES
    count = len(photos.test) if has_test else len(source.pretrain)
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step 0")]
    assert line.startswith("step 0: effective rank ")
    assert line.endswith(f" on {count} images")


@pytest.mark.slow
def test_alignment_is_that_of_two_views_of_the_first_images(photos, tmp_path):
    config = get_config()
    config.update(batch_size=16, bn_groups=2, queue_size=64, knn_every=1)
    _, batches = build_data(config)
    model, monitor = monitor_of(photos, tmp_path, batches)
    monitor.on_step(1, {})
    [queries, keys] = next(batches.between(0, 1).as_numpy_iterator())
    views = [
        model.augment(images, tf.range(16), 16, seed_for(name, config.seed, 0))
        for name, images in (("query_view", queries), ("key_view", keys))
    ]
    unit = []
    for view in views:
        features = np.float64(model.query_encoder.backbone(view, training=False))
        unit.append(features / np.linalg.norm(features, axis=1, keepdims=True))
    expected = ((unit[0] - unit[1]) ** 2).sum(axis=1).mean()
    assert logged(tmp_path)[0]["alignment"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_failure_is_reported_once_and_later_evaluations_are_logged(
    photos, tmp_path, capsys, monkeypatch
):
    _, monitor = monitor_of(photos, tmp_path)
    with monkeypatch.context() as patch:

        def unavailable(step):
            raise OSError(5, "Input/output error")

        patch.setattr(monitor, "_evaluate", unavailable)
        for step in (1, STEPS_PER_EPOCH):
            monitor.on_step(step, {})
    output = capsys.readouterr().out
    assert output == (
        "warning: the run goes on without this evaluation of the kNN monitor: Input/output error\n"
    )
    monitor.on_step(2 * STEPS_PER_EPOCH, {})
    assert list(logged(tmp_path)) == [2 * STEPS_PER_EPOCH]


@pytest.mark.slow
def test_images_that_were_away_are_read_again(tmp_path, capsys):
    folder = write_folder(tmp_path / "photos", images_per_class=20, side=32)
    source = sources.load(f"folder:{folder}")
    _, monitor = monitor_of(source, tmp_path)
    folder.rename(tmp_path / "away")
    for step in (1, STEPS_PER_EPOCH):
        monitor.on_step(step, {})
    (tmp_path / "away").rename(folder)
    monitor.on_step(2 * STEPS_PER_EPOCH, {})
    away = source.describe(source.test[0])
    (folder / away).rename(tmp_path / "away.jpg")
    monitor._read_images()
    monitor.on_step(3 * STEPS_PER_EPOCH, {})
    (tmp_path / "away.jpg").rename(folder / away)
    monitor.on_step(4 * STEPS_PER_EPOCH, {})
    output = capsys.readouterr().out
    assert output.count("warning: the run goes on without this evaluation of the kNN monitor") == 1
    count = len(source.test)
    shown = [line.rpartition(" on ")[2] for line in output.splitlines() if "kNN top-1" in line]
    assert shown == [f"{count} images", f"{count - 1} images", f"{count} images"]


@pytest.mark.slow
def test_test_images_that_cannot_be_read_are_named_once(tmp_path, capsys):
    for part in ("train", "val"):
        write_folder(tmp_path / "photos" / part, images_per_class=10, side=32)
    damaged = [tmp_path / "photos" / "val" / "left" / f"{number:03}.jpg" for number in (2, 5)]
    for path in damaged:
        path.write_text("not an image")
    source = sources.load(f"folder:{tmp_path}/photos")
    _, monitor = monitor_of(source, tmp_path / "run")
    monitor.config.data.on_error = "fail"  # Is about the images of pre-training.
    for step in (1, STEPS_PER_EPOCH):
        monitor.on_step(step, {})
    output = capsys.readouterr().out
    assert output.count("cannot be read") == 1
    assert (
        "warning: the kNN monitor skipped 2 of 40 images that cannot be read: "
        f"{damaged[0]}, {damaged[1]}\n"
    ) in output
    assert output.count(" on 18 images") == 2
    damaged[0].with_name("007.jpg").write_text("not an image")
    monitor._read_images()
    monitor.on_step(2 * STEPS_PER_EPOCH, {})
    assert "skipped 3 of 40 images" in capsys.readouterr().out
