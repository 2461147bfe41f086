"""Training, loading, evaluation, export and plots of images with one or five channels."""

import json

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from moco_tf import load_backbone, run_data, run_directory, run_metrics
from moco_tf.config import default_config
from moco_tf.data import sources
from moco_tf.data.views import central_view
from moco_tf.errors import UserError
from moco_tf.evaluation.features import Features
from moco_tf.plots import features, run
from moco_tf.plots.visible import channels_note, visible
from moco_tf.run_data import RunData
from moco_tf.seeds import seed_for
from moco_tf.training.build import build_augment, build_data
from moco_tf.training.preview import preview
from moco_tf.training.run import train
from moco_tf.training.run_model import load_model
from tests import in_process
from tests.command import TINY
from tests.images import crops

SIDE, NUM_TRAIN, NUM_TEST = 32, 32, 12  # Pixels, and images of each part, in two classes.
MEAN, STD = (0.485 + 0.456 + 0.406) / 3, (0.229 + 0.224 + 0.225) / 3  # Means of ImageNet's three.


def images_of(channels, count, seed):
    """Return the red, green and blue of photographs and then their negatives, `channels` in all."""
    rgb = np.stack(crops(count, SIDE, seed))
    return np.concatenate([rgb, 255 - rgb], axis=-1)[..., :channels]


def write_records(folder, channels):
    """Write raw images with `channels` channels as TFRecord files, and return the source's name."""
    folder.mkdir()
    for part, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        with tf.io.TFRecordWriter(str(folder / f"{part}-00000-of-00001")) as writer:
            for i, image in enumerate(images_of(channels, count, seed=len(part))):
                writer.write(to_record(image, label=i % 2))
    return f"tfrecord:{folder}/*"


def to_record(image, label):
    """Serialize an image with the features that TF-Slim writes."""
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
    return {channels: write_records(folder / str(channels), channels) for channels in (1, 5)}


def flags(source_name):
    return (
        *TINY,
        "--config.epochs=1",
        "--config.knn_every=1",
        "--config.rgb_operations=False",
        f"--config.data.source={source_name}",
    )


@pytest.fixture(scope="module")
def workdir(source_names, tmp_path_factory):
    """Return the directory of a run of two steps on five channels."""
    workdir = tmp_path_factory.mktemp("run")
    in_process.run("train.py", *flags(source_names[5]), workdir=workdir)
    return workdir


@pytest.mark.slow
def test_run_trains_and_monitors(workdir):
    lines = run_metrics.read_metrics(str(workdir))
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert list(losses) == [1, 2]
    assert np.isfinite(list(losses.values())).all()
    assert [line["step"] for line in lines if "knn_top1" in line] == [0, 2]
    saved = tf.train.load_checkpoint(run_directory.latest_checkpoint(str(workdir)))
    shapes = list(saved.get_variable_to_shape_map().values())
    # First convolutions of the query encoder, the key encoder and the momentum buffer.
    assert shapes.count([3, 3, 5, 16]) == 3


@pytest.mark.slow
def test_backbone_takes_images_of_five_channels(workdir):
    images = images_of(5, 4, seed=9).astype(np.float32)
    result = load_backbone(str(workdir))(images, training=False)
    model, _ = load_model(str(workdir))
    normalized = (images / 255 - MEAN) / STD
    expected = model.query_encoder.backbone(normalized.astype(np.float32), training=False)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(result, axis=0).max() > 1e-3


@pytest.mark.nightly
def test_run_and_its_saved_model_are_evaluated_alike(source_names, workdir, tmp_path):
    evaluation = ("evaluate.py", "--protocol=knn")
    out = tmp_path / "saved_model"
    in_process.run("export/saved_model.py", f"--out={out}", workdir=workdir)
    in_process.run(*evaluation, workdir=workdir)
    data = (f"--data={source_names[5]}", f"--image_size={SIDE}")
    in_process.run(*evaluation, f"--saved_model={out}", *data)
    ours, theirs = (json.loads((d / "eval" / "knn.json").read_text()) for d in (workdir, out))
    assert ours["top1"] == theirs["top1"]
    assert (ours["num_train"], ours["num_test"]) == (NUM_TRAIN, NUM_TEST)
    with PIL.Image.open(workdir / "neighbours.png") as picture:
        assert min(picture.size) > 300

    for backbone in (f"--workdir={workdir}", f"--saved_model={out}"):
        data = ("--data=photos", f"--image_size={SIDE}")
        line = in_process.run_mistake(*evaluation, backbone, *data)
        assert "'photos' have 3 channels" in line
        assert "takes 5: choose images with 5 channels by --data" in line


@pytest.mark.slow
def test_random_initialization_has_the_channels_of_the_source(source_names, tmp_path):
    arguments = ("--protocol=knn", "--random_init", f"--output_dir={tmp_path}")
    output = in_process.run("evaluate.py", *arguments, *flags(source_names[1]))
    assert "random resnet8" in output


def test_rgb_operations_are_refused_by_name(source_names, tmp_path):
    config = default_config()
    config.update(batch_size=16, bn_groups=2, data={"source": source_names[5]})
    with pytest.raises(UserError) as error:
        train(config, str(tmp_path / "run"))
    for part in (source_names[5], "5 channels", "(saturation, hue, gray)"):
        assert part in str(error.value)
    assert "set config.rgb_operations=False" in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rgb_operations", "expected"), [(True, ["saturation", "hue", "gray"]), (False, [])]
)
def test_config_switches_rgb_operations_off_for_rgb_too(rgb_operations, expected):
    config = default_config()
    config.rgb_operations = rgb_operations
    assert build_augment(config, channels=3).recipe.rgb_operations == expected


def test_run_with_another_number_of_channels_is_refused(tmp_path):
    config = default_config()
    config.data.source = "photos"
    run_directory.open_for_training(str(tmp_path), config, RunData(10, channels=5))
    run_directory.open_for_training(str(tmp_path), config, RunData(10, channels=5))  # Resumes.
    with pytest.raises(UserError, match="on images with 5 channels, but those of .* have 1 now"):
        run_directory.open_for_training(str(tmp_path), config, RunData(10, channels=1))


def test_run_of_version_0_1_has_three_channels_and_rgb_operations(tmp_path):
    config = default_config()
    config.data.source = "photos"
    run_directory.open_for_training(str(tmp_path), config, RunData(10))
    (tmp_path / "data.json").write_text('{"num_images": 10}\n')
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["rgb_operations"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert run_data.read_channels(str(tmp_path)) == 3
    assert run_directory.read_config(str(tmp_path)).rgb_operations is True
    run_directory.open_for_training(str(tmp_path), config, RunData(10, channels=3))


@pytest.fixture
def figures(monkeypatch):
    """Return the list of the figures that are plotted, which are not saved."""
    plotted = []
    for module in (run, features):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: plotted.append(figure))
    return plotted


def image_in(axes):
    return np.asarray(axes.images[0].get_array())


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 5])
def test_preview_shows_visible_channels(source_names, figures, channels):
    config = default_config()
    config.data.source = "photos"
    config.update(batch_size=4, bn_groups=2, image_size=24, rgb_operations=False)
    config.data.source = source_names[channels]
    preview(config, "preview.png")
    [figure] = figures
    assert figure.get_suptitle().endswith(channels_note(channels))
    source, batches = build_data(config)
    augment = build_augment(config, channels)
    seeds = [seed_for(f"{name}_view", config.seed, 0) for name in ("query", "key")]
    views = [
        augment(images, tf.range(4), 4, seed) * STD + MEAN
        for images, seed in zip(next(iter(batches.between(0, 1))), seeds, strict=True)
    ]
    for row, index in enumerate(batches.rows(0)[1][:4]):
        original, *augmented = figure.axes[3 * row : 3 * row + 3]
        np.testing.assert_array_equal(image_in(original), visible(source.read(index).numpy()))
        for axes, view in zip(augmented, views, strict=True):
            expected = visible(np.clip(view[row], 0, 1))
            np.testing.assert_allclose(image_in(axes), expected, atol=1e-5)
            for operation, applied in (("brightness", True), ("saturation", False), ("hue", False)):
                assert (operation in axes.get_title()) == applied


@pytest.mark.parametrize("channels", [1, 5])
def test_neighbors_show_visible_channels(source_names, figures, channels):
    source = sources.load(source_names[channels])
    train, test = (
        Features(np.eye(3, dtype=np.float32), indices[:3], source.labels[indices[:3]], 2)
        for indices in (source.train, source.test)
    )
    features.plot_neighbors("neighbors.png", source, SIDE, train, test)
    [figure] = figures
    assert figure.get_suptitle().endswith(channels_note(channels))
    image = source.read(tf.constant(source.test[0]))
    np.testing.assert_array_equal(
        image_in(figure.axes[0]), visible(central_view(image, SIDE).numpy())
    )
