"""What TensorBoard gets of a run, read by TensorBoard's own classes."""

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

from moco_tf import load_backbone, run_directory
from moco_tf.config import default_config
from moco_tf.data import sources
from moco_tf.data.augment import Augment
from moco_tf.data.normalization import MEAN, STD
from moco_tf.data.recipes import RECIPES
from moco_tf.evaluation.features import extract
from moco_tf.seeds import seed_for
from moco_tf.training.build import build_model
from moco_tf.training.callbacks import MetricsLog
from moco_tf.training.knn_monitor import KNNMonitor
from moco_tf.training.run import _open_data, train
from moco_tf.training.tensorboard import Projector, ViewImages
from tests.command import state
from tests.images import write_folder
from tests.plots.test_thumbnails import central_view_by_pillow

AUGMENT = Augment(RECIPES["v1"])  # compiled once for all tests


def config_of(source, **settings):
    """Two epochs of five steps."""
    config = default_config()
    config.data.source = source
    config.update(encoder="resnet8", stem="small", image_size=32, batch_size=16, bn_groups=2)
    config.update(queue_size=50, epochs=2, log_every=1, knn_every=1, **settings)
    return config


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("images") / "photos")
    (folder / "left" / "000.jpg").rename(folder / "left" / "a\tname.jpg")
    config, workdir = config_of(f"folder:{folder}"), tmp_path_factory.mktemp("labelled")
    train(config, str(workdir))
    return config, workdir


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """A memory bank on images that lie flat, looked at and not trained."""
    folder = write_folder(tmp_path_factory.mktemp("images") / "photos", classes=(".",), each=80)
    config = config_of(f"folder:{folder}", mechanism="memory_bank")
    workdir = tmp_path_factory.mktemp("unlabelled")
    source, batches = _open_data(config)
    model = build_model(config, 5, num_images=80)
    log = MetricsLog(str(workdir), 0, config, 5)
    monitor = KNNMonitor(log, 0, config, 5, source, Projector(str(workdir), source, 32))
    views = ViewImages(log.summaries, 0, config, batches)
    for callback in (monitor, views):
        callback.set_model(model)
        callback.on_train_begin()
    views.look(7)
    log.on_train_end()
    return config, workdir


def projector(workdir):
    """What TensorBoard's projector answers, by the kind of the question."""
    logdir = str(workdir / "tensorboard")
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(logdir)
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, logdir)
    plugin = projector_plugin.ProjectorPlugin(
        base_plugin.TBContext(logdir=logdir, data_provider=provider)
    )
    apps = plugin.get_plugin_apps()

    def ask(kind, **query):
        answer = werkzeug.test.Client(apps[f"/{kind}"]).get("/", query_string=query)
        assert answer.status_code == 200, answer.get_data()
        return answer

    [run] = ask("runs").json
    [embedding] = ask("info", run=run).json["embeddings"]
    of = {"run": run, "name": embedding["tensorName"]}
    answers = {kind: ask(kind, **of).get_data() for kind in ("tensor", "metadata", "sprite_image")}
    return embedding, answers


def test_the_projector_shows_the_features_of_the_last_step(labelled):
    config, workdir = labelled
    source = sources.load(config.data.source)
    embedding, answers = projector(workdir)
    assert embedding["tensorName"] == "features_at_step_10"
    expected = extract(load_backbone(str(workdir)), source, source.test, 32)
    found = np.frombuffer(answers["tensor"], np.float32).reshape(embedding["tensorShape"])
    np.testing.assert_allclose(found, expected.features, rtol=1e-3, atol=1e-6)

    header, *rows = answers["metadata"].decode().splitlines()
    assert header.split("\t") == ["class", "image"] and len(rows) == len(source.test)
    for row, index in zip(rows, source.test, strict=True):
        name = source.describe(index).replace("\t", " ")
        assert row.split("\t") == [source.class_names[source.labels[index]], name]

    assert embedding["sprite"]["singleImageDim"] == [32, 32]
    with PIL.Image.open(io.BytesIO(answers["sprite_image"])) as sprite:
        sheet = np.asarray(sprite).astype(int)
    across = sheet.shape[1] // 32
    for i, index in enumerate(source.test):
        row, column = divmod(i, across)
        tile = sheet[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        with PIL.Image.open(source.describe(index)) as image:
            view = central_view_by_pillow(image, 32)
        assert np.abs(tile - np.asarray(view)).mean() < 6


def test_without_labels_the_projector_has_names_and_there_is_no_knn(unlabelled):
    config, workdir = unlabelled
    source = sources.load(config.data.source)
    _, answers = projector(workdir)
    names = answers["metadata"].decode().splitlines()
    assert names == [source.describe(index) for index in source.test]
    assert not [line for line in run_directory.read_metrics(str(workdir)) if "knn_top1" in line]


def events(workdir):
    accumulator = event_accumulator.EventAccumulator(
        str(workdir / "tensorboard"), size_guidance={"tensors": 0}
    )
    return accumulator.Reload()


def pictures(workdir):
    """`{step: floats [4, H, W, 3] of 0 to 1}` of the views."""
    found = {}
    for event in events(workdir).Tensors("views"):
        _, _, *encoded = event.tensor_proto.string_val  # width and height come first
        images = [np.asarray(PIL.Image.open(io.BytesIO(image))) for image in encoded]
        found[event.step] = np.stack(images) / 255
    return found


@pytest.mark.parametrize("which", ["labelled", "unlabelled"])
def test_the_views_are_those_that_were_trained_on(which, request):
    config, workdir = request.getfixturevalue(which)
    names = ("query",) if config.mechanism == "memory_bank" else ("query", "key")
    _, batches = _open_data(config)
    found = pictures(workdir)
    assert list(found) == ([0, 5, 10] if which == "labelled" else [0, 7])
    for step, shown in found.items():
        position = max(step - 1, 0)  # the first images of the step that was just taken
        [batch] = batches.between(position, position + 1).as_numpy_iterator()
        assert shown.shape == (4, 32, 32 * len(names), 3)
        for i, name in enumerate(names):
            seed = seed_for(f"{name}_view", config.seed, position)
            view = AUGMENT(batch[i], tf.range(16), 16, seed)[:4].numpy() * STD + MEAN
            part = shown[:, :, 32 * i : 32 * i + 32]
            np.testing.assert_allclose(part, np.clip(view, 0, 1), atol=1 / 255)


def test_the_scalars_are_those_of_the_log(labelled):
    _, workdir = labelled
    lines = run_directory.read_metrics(str(workdir))
    accumulator = events(workdir)
    for key in ("loss", "knn_top1", "learning_rate"):
        logged = {line["step"]: line[key] for line in lines if key in line}
        found = {
            event.step: float(tf.make_ndarray(event.tensor_proto))
            for event in accumulator.Tensors(key)
        }
        assert found == pytest.approx(logged)


def test_looking_changes_nothing_of_the_training(labelled, tmp_path):
    config, workdir = labelled
    blind = config.copy_and_resolve_references()
    blind.knn_every = 0
    train(blind, str(tmp_path))
    expected, found = state(workdir), state(tmp_path)
    assert expected.keys() == found.keys() and len(expected) > 50
    # Keras numbers the models of a process, which are in the graph of the objects.
    for name in expected.keys() - {"_CHECKPOINTABLE_OBJECT_GRAPH"}:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert {path.name.split(".")[0] for path in (tmp_path / "tensorboard").iterdir()} == {"events"}
