"""The data of a run for TensorBoard, read with TensorBoard's own classes."""

import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import werkzeug.test
from tensorboard.backend.event_processing import (
    data_provider,
    event_accumulator,
    plugin_event_multiplexer,
)
from tensorboard.plugins import base_plugin
from tensorboard.plugins.projector import projector_plugin

from moco_tf import load_backbone, run_directory, run_metrics
from moco_tf.config import default_config
from moco_tf.data import sources
from moco_tf.data.augment import Augment
from moco_tf.data.normalization import MEAN, STD
from moco_tf.data.recipes import RECIPES
from moco_tf.evaluation.extraction import extract
from moco_tf.evaluation.features import Features
from moco_tf.seeds import seed_for
from moco_tf.training.build import build_data, build_model
from moco_tf.training.finite import FiniteCheck
from moco_tf.training.knn_monitor import KNNMonitor
from moco_tf.training.metrics_log import MetricsLog
from moco_tf.training.run import train
from moco_tf.training.tensorboard import Projector, ViewImages
from tests.command import state
from tests.images import write_folder
from tests.plots.test_thumbnails import central_view_by_pillow

SIZE, BATCH, STEPS_PER_EPOCH = 32, 16, 6  # Those of `trained_run`, which has two epochs.


@pytest.fixture(scope="module")
def augment():
    return Augment(RECIPES["v1"])


@pytest.fixture(scope="module")
def labeled(trained_run):
    """Return the config and the directory of a run on labeled images."""
    return run_directory.read_config(str(trained_run)), trained_run


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory):
    """Return the same for a memory bank on unlabeled images, with the callbacks but no training."""
    folder = tmp_path_factory.mktemp("images") / "photos"
    write_folder(folder, classes=(".",), images_per_class=100)
    for number in range(0, 100, 9):
        (folder / f"{number:03}.jpg").rename(folder / f"a\tname {number}.jpg")
    config = default_config()
    config.data.source = f"folder:{folder}"
    config.update(mechanism="memory_bank", encoder="resnet8", stem="small", image_size=SIZE)
    config.update(batch_size=BATCH, bn_groups=2, queue_size=50, epochs=2, log_every=1, knn_every=1)
    workdir = tmp_path_factory.mktemp("unlabeled")
    source, batches = build_data(config)
    model = build_model(config, STEPS_PER_EPOCH, num_images=100)
    log = MetricsLog(str(workdir), 0, config, STEPS_PER_EPOCH, FiniteCheck(model, str(workdir)))
    projector = Projector(str(workdir), source, SIZE)
    monitor = KNNMonitor(log, 0, config, STEPS_PER_EPOCH, source, projector)
    views = ViewImages(log, 0, config, batches)
    for callback in (monitor, views):
        callback.set_model(model)
        callback.on_train_begin()
        callback.on_step(1, {})
    views.show(7)
    log.on_train_end()
    return config, workdir


def projector_of(workdir):
    """Return the embedding of TensorBoard's projector, and its responses by request."""
    logdir = str(workdir / "tensorboard")
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(logdir)
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, logdir)
    plugin = projector_plugin.ProjectorPlugin(
        base_plugin.TBContext(logdir=logdir, data_provider=provider)
    )
    apps = plugin.get_plugin_apps()

    def get(request, **query):
        response = werkzeug.test.Client(apps[f"/{request}"]).get("/", query_string=query)
        assert response.status_code == 200, response.get_data()
        return response

    [run] = get("runs").json
    [embedding] = get("info", run=run).json["embeddings"]
    query = {"run": run, "name": embedding["tensorName"]}
    requests = ("tensor", "metadata", "sprite_image")
    return embedding, {request: get(request, **query).get_data() for request in requests}


def test_projector_shows_the_features_of_the_last_step(labeled):
    config, workdir = labeled
    source = sources.load(config.data.source)
    embedding, responses = projector_of(workdir)
    assert embedding["tensorName"] == "features_at_step_12"
    expected = extract(load_backbone(str(workdir)), source, source.test, SIZE)
    features = np.frombuffer(responses["tensor"], np.float32).reshape(embedding["tensorShape"])
    np.testing.assert_allclose(features, expected.features, rtol=1e-3, atol=1e-6)


def test_projector_shows_classes_and_names(labeled):
    config, workdir = labeled
    source = sources.load(config.data.source)
    _, responses = projector_of(workdir)
    header, *rows = responses["metadata"].decode().splitlines()
    assert header.split("\t") == ["class", "image"]
    for row, index in zip(rows, source.test, strict=True):
        class_name = source.class_names[source.labels[index]]
        assert row.split("\t") == [class_name, source.describe(index)]


def test_projector_shows_no_class_for_images_without_a_label(trained_run, tmp_path):
    source = sources.load(run_directory.read_config(str(trained_run)).data.source)
    features = Features(np.eye(3, dtype=np.float32), source.test[:3], np.array([0, -1, 1]), 2)
    Projector(str(tmp_path), source, SIZE).write(1, features)
    [metadata] = tmp_path.rglob("metadata.tsv")
    classes = [line.split("\t")[0] for line in metadata.read_text().splitlines()]
    assert classes == ["class", source.class_names[0], "", source.class_names[1]]


def test_projector_shows_thumbnails_of_central_views(labeled):
    config, workdir = labeled
    source = sources.load(config.data.source)
    embedding, responses = projector_of(workdir)
    side, height = embedding["sprite"]["singleImageDim"]
    assert side == height == 32
    with PIL.Image.open(io.BytesIO(responses["sprite_image"])) as sprite:
        sheet = np.asarray(sprite).astype(int)
    columns = sheet.shape[1] // side
    for number, index in enumerate(source.test):
        row, column = divmod(number, columns)
        tile = sheet[side * row : side * (row + 1), side * column : side * (column + 1)]
        with PIL.Image.open(source.describe(index)) as image:
            view = central_view_by_pillow(image, SIZE)
        assert np.abs(tile - np.asarray(view)).mean() < 6


@pytest.mark.nightly
def test_unlabeled_images_have_names_but_no_knn(unlabeled):
    config, workdir = unlabeled
    source = sources.load(config.data.source)
    _, responses = projector_of(workdir)
    names = responses["metadata"].decode().splitlines()
    # A cell of the table has no tabs, because no name has.
    assert names == [source.describe(index) for index in source.test]
    assert any("a\\tname" in name for name in names)
    assert not [line for line in run_metrics.read_metrics(str(workdir)) if "knn_top1" in line]


def events_of(workdir):
    accumulator = event_accumulator.EventAccumulator(
        str(workdir / "tensorboard"), size_guidance={"tensors": 0}
    )
    return accumulator.Reload()


def views_of(workdir):
    """Return the images of the views, floats in [0, 1] `[4, H, W, 3]`, by step."""
    views = {}
    for event in events_of(workdir).Tensors("views"):
        _, _, *encoded = event.tensor_proto.string_val  # Width and height come first.
        images = [np.asarray(PIL.Image.open(io.BytesIO(image))) for image in encoded]
        views[event.step] = np.stack(images) / 255
    return views


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("labeled", [1, 6, 12]), ("unlabeled", [1, 7])])
def test_views_are_those_of_the_training(augment, name, steps, request):
    config, workdir = request.getfixturevalue(name)
    names = ("query",) if config.mechanism == "memory_bank" else ("query", "key")
    _, batches = build_data(config)
    views = views_of(workdir)
    assert list(views) == steps
    for step, images in views.items():
        position = step - 1  # The first images of the step that was just taken.
        [batch] = batches.between(position, position + 1).as_numpy_iterator()
        assert images.shape == (4, SIZE, SIZE * len(names), 3)
        for i, name in enumerate(names):
            seed = seed_for(f"{name}_view", config.seed, position)
            view = augment(batch[i], tf.range(BATCH), BATCH, seed)[:4].numpy() * STD + MEAN
            part = images[:, :, SIZE * i : SIZE * (i + 1)]
            np.testing.assert_allclose(part, np.clip(view, 0, 1), atol=1 / 255)


def test_scalars_are_those_of_the_log(labeled):
    _, workdir = labeled
    lines = run_metrics.read_metrics(str(workdir))
    accumulator = events_of(workdir)
    for key in ("loss", "knn_top1", "learning_rate"):
        logged = {line["step"]: line[key] for line in lines if key in line}
        scalars = {
            event.step: float(tf.make_ndarray(event.tensor_proto))
            for event in accumulator.Tensors(key)
        }
        assert scalars == pytest.approx(logged)


@pytest.mark.nightly
def test_monitor_and_views_do_not_change_the_training(labeled, tmp_path):
    config, workdir = labeled
    unobserved = config.copy_and_resolve_references()
    unobserved.knn_every = 0
    train(unobserved, str(tmp_path))
    expected, actual = state(workdir), state(tmp_path)
    assert expected.keys() == actual.keys()
    assert len(expected) > 50
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
    files = {path.name.split(".")[0] for path in (tmp_path / "tensorboard").iterdir()}
    assert files == {"events"}


def test_images_per_second_count_the_time_of_the_steps(tmp_path, monkeypatch):
    """The first step, which compiles, does not count; the time that it waits for data does."""
    config = default_config()
    config.update(encoder="resnet8", stem="small", batch_size=BATCH, bn_groups=1, log_every=2)
    config.update(queue_size=32, epochs=1, shuffle_bn=False)
    model = build_model(config, STEPS_PER_EPOCH)
    log = MetricsLog(str(tmp_path), 0, config, STEPS_PER_EPOCH, FiniteCheck(model, str(tmp_path)))
    log.set_model(model)
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    logs = {"loss": tf.constant(1.0)}
    # Seconds of each step, and the part of them that was spent waiting for data.
    for seconds, waiting in ((9.0, 3.0), (2.0, 0.5), (1.0, 0.25), (4.0, 1.0)):
        log.on_train_batch_begin(0)
        clock[0] += seconds
        model.seconds_waiting += waiting
        log.on_train_batch_end(0, logs)
        clock[0] += 100.0  # Between the steps.
    first, second = run_metrics.read_metrics(str(tmp_path))
    assert (first["step"], second["step"]) == (2, 4)
    assert first["images_per_second"] == pytest.approx(BATCH / 2.0)
    assert first["waiting_for_data"] == pytest.approx(0.5 / 2.0)
    assert second["images_per_second"] == pytest.approx(2 * BATCH / 5.0)
    assert second["waiting_for_data"] == pytest.approx(1.25 / 5.0)
