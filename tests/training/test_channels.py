"""Images of one channel, and of five, through the whole program: train, load, evaluate, export."""

import json

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from moco_tf import load_backbone, run_directory
from moco_tf.backbones import loading
from moco_tf.config import default_config
from moco_tf.data import sources
from moco_tf.errors import UserError
from moco_tf.evaluation.features import Features
from moco_tf.plots import features, run
from moco_tf.plots.images import visible
from moco_tf.seeds import seed_for
from moco_tf.training.build import build_augment, build_data, build_model
from moco_tf.training.run import preview, train
from tests import in_process
from tests.command import TINY
from tests.images import crops

SIDE, TRAIN, TEST = 32, 32, 12  # pixels, and images of each part, in two classes
MEAN, STD = (0.485 + 0.456 + 0.406) / 3, (0.229 + 0.224 + 0.225) / 3  # of ImageNet's three


def images_of(channels, count, seed):
    """A photograph's red, green and blue, and their negatives, as far as the channels go."""
    rgb = np.stack(crops(count, SIDE, seed))
    return np.concatenate([rgb, 255 - rgb], axis=-1)[..., :channels]


def write_records(folder, channels):
    """Writes raw images of so many channels as TFRecord files, and returns the source's name."""
    folder.mkdir()
    for part, count in (("train", TRAIN), ("test", TEST)):
        with tf.io.TFRecordWriter(str(folder / f"{part}-00000-of-00001")) as writer:
            for i, image in enumerate(images_of(channels, count, seed=len(part))):
                writer.write(record(image, label=i % 2))
    return f"tfrecord:{folder}/*"


def record(image, label):
    """An array as TF-Slim's features."""
    integers = dict(zip(("height", "width", "channels"), image.shape, strict=True))
    integers = {f"image/{name}": value for name, value in integers.items()}
    features = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        for name, value in {**integers, "image/class/label": label}.items()
    }
    for name, value in {"image/encoded": image.tobytes(), "image/format": b"raw"}.items():
        features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString()


@pytest.fixture(scope="module")
def source_names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    return {channels: write_records(folder / str(channels), channels) for channels in (1, 2, 5)}


def training(source_name, workdir):
    return (
        "train.py",
        *TINY,
        "--config.epochs=1",
        "--config.knn_every=1",
        "--config.rgb_operations=False",
        f"--config.data.source={source_name}",
        f"--workdir={workdir}",
    )


@pytest.fixture(scope="module")
def workdir(source_names, tmp_path_factory):
    """A run of two steps on five channels."""
    workdir = tmp_path_factory.mktemp("run")
    in_process.run(*training(source_names[5], workdir))
    return workdir


# Training.


def test_it_trains_and_the_monitor_looks(workdir):
    lines = run_directory.read_metrics(str(workdir))
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    assert np.isfinite([line["loss"] for line in lines if "loss" in line]).all()
    assert [line["step"] for line in lines if "knn_top1" in line] == [0, 2]
    saved = tf.train.load_checkpoint(run_directory.latest_checkpoint(str(workdir)))
    kernels = [s for s in saved.get_variable_to_shape_map().values() if s[:2] == [3, 3]]
    assert kernels.count([3, 3, 5, 16]) == 3  # of queries, of keys, and of the momentum buffer


def test_operations_of_rgb_are_refused_by_name(source_names, tmp_path):
    config = default_config()
    config.update(batch_size=16, bn_groups=2, data={"source": source_names[5]})
    with pytest.raises(UserError) as error:
        train(config, str(tmp_path / "run"))
    for word in (source_names[5], "5 channels", "(saturation, hue, grey)"):
        assert word in str(error.value)
    assert "set --config.rgb_operations=False" in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kept, operations", [(True, ["saturation", "hue", "grey"]), (False, [])])
def test_rgb_too_goes_without_them_where_the_config_says_so(kept, operations):
    config = default_config()
    config.update(encoder="resnet8", stem="small", queue_size=16, rgb_operations=kept)
    assert build_model(config, steps_per_epoch=10).augment.recipe.rgb_operations == operations


# The run directory.


def test_a_run_remembers_its_channels_and_refuses_others(tmp_path):
    config = default_config()
    run_directory.open_for_training(str(tmp_path), config, 10, channels=5)
    assert run_directory.read_channels(str(tmp_path)) == 5
    run_directory.open_for_training(str(tmp_path), config, 10, channels=5)  # again, to go on
    with pytest.raises(UserError, match="on images of 5 channels, and those of .* have 1 now"):
        run_directory.open_for_training(str(tmp_path), config, 10, channels=1)


def test_a_run_of_before_there_was_a_choice_has_three_and_operations_of_rgb(tmp_path):
    config = default_config()
    run_directory.open_for_training(str(tmp_path), config, 10)
    (tmp_path / "data.json").write_text('{"num_images": 10}\n')
    old = json.loads((tmp_path / "config.json").read_text())
    del old["rgb_operations"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert run_directory.read_channels(str(tmp_path)) == 3
    assert run_directory.read_config(str(tmp_path)).rgb_operations is True
    run_directory.open_for_training(str(tmp_path), config, 10, channels=3)


# What was trained.


def test_the_backbone_takes_such_images_as_they_are(workdir):
    images = images_of(5, 4, seed=9).astype(np.float32)
    found = load_backbone(str(workdir))(images, training=False)
    model, _ = loading.load_model(str(workdir))
    normalized = (images / 255 - MEAN) / STD
    expected = model.query_encoder.backbone(normalized.astype(np.float32), training=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(found, axis=0).max() > 1e-3


def test_it_is_evaluated_as_a_run_and_as_a_saved_model(source_names, workdir, tmp_path):
    evaluation = ("evaluate.py", "--protocol=knn")
    out = tmp_path / "saved_model"
    in_process.run("export/saved_model.py", f"--workdir={workdir}", f"--out={out}")
    in_process.run(*evaluation, f"--workdir={workdir}")
    data = (f"--data={source_names[5]}", f"--image_size={SIDE}")
    in_process.run(*evaluation, f"--saved_model={out}", *data)
    ours, theirs = (json.loads((d / "eval" / "knn.json").read_text()) for d in (workdir, out))
    assert ours["top1"] == theirs["top1"]
    assert (ours["num_train"], ours["num_test"]) == (TRAIN, TEST)
    with PIL.Image.open(workdir / "neighbours.png") as picture:
        assert min(picture.size) > 300

    for backbone in (f"--workdir={workdir}", f"--saved_model={out}"):
        data = ("--data=photos", f"--image_size={SIDE}")
        line = in_process.run_mistake(*evaluation, backbone, *data)
        assert "'photos' have 3 channels" in line and "takes 5: give --data" in line


def test_random_initialisation_has_the_sources_channels(source_names, tmp_path):
    arguments = training(source_names[1], tmp_path)[1:-1]
    evaluation = ("evaluate.py", "--protocol=knn", "--random_init", f"--output_dir={tmp_path}")
    assert "random resnet8" in in_process.run(*evaluation, *arguments)


# Pictures.


def test_of_an_image_a_picture_shows_three_channels_or_the_first():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 6), np.uint8)
    for channels in (3, 4, 6):
        np.testing.assert_array_equal(visible(image[..., :channels]), image[..., :3])
    for channels in (1, 2):
        grey = np.stack([image[..., 0]] * 3, axis=-1)
        np.testing.assert_array_equal(visible(image[..., :channels]), grey)


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, instead of their files."""
    drawn = []
    for module in (run, features):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: drawn.append(figure))
    return drawn


TITLES = {
    1: "",
    2: "the first of 2 channels, in grey",
    5: "the first 3 of 5 channels, as red, green and blue",
}


def said(figure):
    return figure.get_suptitle().partition("; ")[2]


def shown(axes):
    return np.asarray(axes.images[0].get_array())


@pytest.mark.parametrize("channels", TITLES)
def test_a_preview_shows_what_can_be_seen_and_says_so(source_names, figures, channels):
    config = default_config()
    config.update(batch_size=4, bn_groups=2, image_size=24, rgb_operations=False)
    config.data.source = source_names[channels]
    preview(config, "preview.png")
    [figure] = figures
    assert said(figure) == TITLES[channels]
    source, batches = build_data(config)
    augment = build_augment(config, channels)
    seeds = [seed_for(f"{name}_view", config.seed, 0) for name in ("query", "key")]
    views = [
        augment(images, tf.range(4), 4, seed) * STD + MEAN
        for images, seed in zip(next(iter(batches.between(0, 1))), seeds, strict=True)
    ]
    for row, index in enumerate(batches.order(0)[:4]):
        original, *augmented = figure.axes[3 * row : 3 * row + 3]
        np.testing.assert_array_equal(shown(original), visible(source.read(index).numpy()))
        for axes, view in zip(augmented, views, strict=True):
            expected = visible(np.clip(view[row], 0, 1))
            np.testing.assert_allclose(shown(axes), expected, atol=1e-5)
            words = axes.get_title()
            assert "brightness" in words and "contrast" in words
            assert "saturation" not in words and "hue" not in words


@pytest.mark.parametrize("channels", TITLES)
def test_neighbours_show_what_can_be_seen_and_say_so(source_names, figures, channels):
    source = sources.load(source_names[channels])
    features = np.eye(3, dtype=np.float32)
    train, test = (
        Features(features, indices[:3], source.labels[indices[:3]])
        for indices in (source.train, source.test)
    )
    features.plot_neighbours("neighbours.png", source, SIDE, train, test)
    [figure] = figures
    assert said(figure) == TITLES[channels]
    image = source.read(tf.constant(source.test[0])).numpy()
    np.testing.assert_array_equal(shown(figure.axes[0]), visible(image))
