"""`moco_tf.train`: one call from images to a run."""

import concurrent.futures
import os
import pathlib
import shutil
import signal

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import moco_tf
from moco_tf import UserError, run_directory
from moco_tf.configs import photos
from moco_tf.training.metrics_log import MetricsLog
from tests import in_process
from tests.command import state
from tests.images import crops
from tests.written import written

IMAGES = np.stack(crops(48, 32))
LABELS = ["left", "right"] * 24
BFLOAT16 = "mixed_bfloat16"
SETTINGS = {
    "config": "photos",
    "encoder": "resnet8",
    "batch_size": 8,
    "bn_groups": 2,
    "queue_size": 32,
    "steps": 9,
    "knn_every": 0,
    "log_every": 1,
    "augment": {"crop_scale": [0.5, 1]},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the run of an uninterrupted call, which was not made in the main thread."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with concurrent.futures.ThreadPoolExecutor() as executor:
        future = executor.submit(moco_tf.train, (IMAGES, LABELS), workdir, **SETTINGS)
        return future.result()


def interrupt(patch, at_step, number):
    """Send a signal to this process as soon as a step is logged."""
    write = MetricsLog.write

    def write_and_interrupt(self, step, values):
        write(self, step, values)
        if step == at_step:
            signal.raise_signal(number)

    patch.setattr(MetricsLog, "write", write_and_interrupt)


def test_run_has_the_settings_and_the_images(finished):
    assert finished.finished
    assert (finished.step, finished.total_steps) == (9, 9)
    assert finished.config.batch_size == 8
    assert finished.config.augment.crop_scale == (0.5, 1)
    source = moco_tf.load_source(finished.config.data.source)
    read = np.stack([source.read(tf.constant(index, tf.int64)) for index in range(len(IMAGES))])
    np.testing.assert_array_equal(read, IMAGES)
    assert [source.class_names[label] for label in source.labels] == LABELS


@pytest.mark.slow
def test_run_on_an_array_is_evaluated_by_its_directory(finished):
    output = in_process.run("evaluate.py", "--protocol=knn", workdir=finished.workdir)
    assert f"{len(IMAGES)} images in 2 classes: left, right" in output


@pytest.mark.nightly
@pytest.mark.slow  # It trains three times.
def test_interrupted_call_is_resumed_bit_identical(finished, tmp_path, monkeypatch, capsys):
    received = []
    monkeypatch.chdir(tmp_path)
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        for at_step, number in ((4, signal.SIGINT), (7, signal.SIGTERM)):
            with monkeypatch.context() as patch:
                interrupt(patch, at_step, number)
                run = moco_tf.train((IMAGES, LABELS), "run", **SETTINGS)
            assert (run.step, run.total_steps, run.finished) == (at_step, 9, False)
            message = f"stopped at step {at_step} of 9 and saved to run; the same call resumes"
            assert message in capsys.readouterr().out
    finally:
        signal.signal(signal.SIGTERM, previous)
    # A process ends at SIGTERM once the run is saved.
    assert received == [signal.SIGTERM]
    run = moco_tf.train((IMAGES, LABELS), pathlib.Path("run"), **SETTINGS)
    assert run.finished
    expected, actual = state(finished.workdir), state(run.workdir)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
    losses = [r.metrics["loss"].to_dict() for r in (finished, run)]
    assert losses[0] == losses[1]
    assert list(losses[0]) == list(range(1, 10))


OTHER = IMAGES.copy()
OTHER[5, 1, 1] ^= 1


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (
            (OTHER, LABELS),
            {},
            "holds a run on other images than the given ones, see images.npy: use",
        ),
        ((IMAGES[:40], LABELS[:40]), {}, "holds a run on other images"),
        (
            (IMAGES, LABELS[::-1]),
            {},
            "holds a run on other labels than the given ones, see images.l",
        ),
        (IMAGES, {}, "holds a run on other labels"),
        (
            (IMAGES, [label == "left" for label in LABELS]),
            {},
            "holds a run on other labels",
        ),
        (["a.jpg"], {}, "holds a run on the images 'npy:{workdir}/images.npy', not on 'files:"),
        ("photos", {}, "holds a run with another config (data.source is 'npy:{workdir}/images"),
        ((IMAGES, LABELS), {"steps": 8}, "holds a run with another config (steps is 9 there and 8"),
    ],
)
def test_directory_of_another_run_is_refused_and_left_alone(finished, data, changes, message):
    workdir = pathlib.Path(finished.workdir)
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as error:
        moco_tf.train(data, workdir, **{**SETTINGS, **changes})
    start = f"the run directory {workdir} {message.format(workdir=workdir)}"
    assert str(error.value).startswith(start)
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


CONFIG = photos.get_config()


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ("photos", {"epoch": 3}, "epoch=3: there is no such setting; did you mean epochs?"),
        ("photos", {"epochs": "3"}, "epochs='3': must be an integer, not str"),
        ("photos", {"epochs": 0}, "config.epochs=0: must be 1 or greater"),
        ("photos", {"encoder": 3}, "encoder=3: must be a text, not int"),
        ("photos", {"init": "weights.h5"}, "config.init='weights.h5': use run:DIR"),
        ("photos", {"init": pathlib.Path("weights.h5")}, "config.init='weights.h5': use run:DIR"),
        (
            "photos",
            {"encoder": pathlib.Path("mine.keras")},
            "stem=small has no effect on the encoder 'mine.keras'",
        ),
        ("photos", {"config": "foto"}, "config=foto: there is no such file; installed are configs"),
        ("photos", {"config": {"epochs": 3}}, "config is of the type dict: use the name of"),
        (
            "photos",
            {"data.source": "photos"},
            "the images are given twice, by images and by the",
        ),
        (
            "photos",
            {"data": {"source": "photos"}},
            "the images are given twice, by images and by the",
        ),
        (
            moco_tf.load_source("photos"),
            {},
            "images is an open data source: pass its name, 'photos', and its options",
        ),
        (CONFIG, {}, "images is a config: pass it as config=..., and None for its"),
        (
            None,
            {"config": "folder"},
            "images=None, and the config names no images: use a data source",
        ),
        ("photo", {}, "unknown data source 'photo'"),
        (pathlib.Path("/none"), {}, "data source 'folder:/none': there is no folder '/none'"),
        (
            ["/none.jpg"],
            {},
            "data source 'files:{tmp_path}/run/images.txt': there is no file '/none",
        ),
        (
            IMAGES[:4],
            {},
            "batch_size=128 is more than the 4 images of data source 'npy:{tmp_path}/",
        ),
        (IMAGES / 255, {}, "the array of images is float64, but images are uint8"),
        ("a/x.npy", {}, "images is the path of a file, 'a/x.npy': use 'npy:a/x.npy'"),
        (pathlib.Path("x.npy"), {}, "images is the path of a file, 'x.npy': use 'npy:x.npy'"),
        (
            "a.JPG",
            {},
            "images is the path of a file, 'a.JPG': use a list of image files, such as [",
        ),
        (pathlib.Path("x.txt"), {}, "images is the path of a file, 'x.txt': use 'files:x.txt'"),
        ("photos", {"strategy": "mirrored"}, "strategy='mirrored': pass a tf.distribute.Strategy"),
        (
            "photos",
            {"augment": {"hue": 0.1}, "augment.hue": 0.2},
            "augment.hue is set twice, in augment={{...}} and by itself: remove one",
        ),
        (IMAGES[..., :1], {}, "config.augmentation='v1' includes RGB operations"),
    ],
)
def test_mistakes_are_one_line(tmp_path, data, arguments, message):
    with pytest.raises(UserError) as error:
        moco_tf.train(data, tmp_path / "run", **{"config": "photos", **arguments})
    assert str(error.value).startswith(message.format(tmp_path=tmp_path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workdir", [None, 5])
def test_workdir_is_a_path(workdir):
    with pytest.raises(UserError, match=f"workdir is {workdir}: use a path, a text or a pathlib"):
        moco_tf.train("photos", workdir, "photos")


def test_refused_calls_leave_nothing_in_a_directory_that_exists(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for data in ((IMAGES[:4], LABELS[:4]), IMAGES[4:8], ["/none.jpg"]):
        with pytest.raises(UserError):
            moco_tf.train(data, tmp_path, "photos")
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize(
    "data",
    [IMAGES[:8], (IMAGES[:8], LABELS[:8]), OTHER, ["/none.jpg"]],
    ids=["images", "labels", "other", "list"],
)
def test_files_of_the_user_are_left_alone(tmp_path, data):
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "images.labels.npy", np.array([{}]))  # It cannot be read without pickle.
    (tmp_path / "images.txt").write_text("a list\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match="exists and does not hold the given images") as error:
        moco_tf.train(data, tmp_path, **SETTINGS)
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_labels_of_the_user_are_not_used_by_a_call_without_labels(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "images.labels.npy", np.arange(len(IMAGES)))
    with pytest.raises(UserError, match=r"images\.labels\.npy exists and does not hold"):
        moco_tf.train(IMAGES, tmp_path, **SETTINGS)


def test_equal_files_of_the_user_are_kept(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "images.labels.npy", np.array(LABELS, "U40"))
    before = written(tmp_path)
    with pytest.raises(UserError, match=r"config\.epochs=0"):
        moco_tf.train((np.load(tmp_path / "images.npy"), LABELS), tmp_path, "photos", epochs=0)
    assert written(tmp_path) == before


@pytest.mark.nightly
# It plots a report.
def test_run_can_be_moved(finished, tmp_path):
    first = shutil.copytree(finished.workdir, tmp_path / "first")
    config = (first / "config.json").read_text()
    (first / "config.json").write_text(config.replace(finished.workdir, str(first)))
    moved = first.rename(tmp_path / "moved")
    run = moco_tf.load_run(moved)
    assert run.config.data.source == f"npy:{moved}/images.npy"
    assert run.metrics["loss"].notna().any()
    assert os.path.exists(run.report())
    assert moco_tf.train((IMAGES, LABELS), moved, **SETTINGS).finished


def test_moved_run_has_its_own_images_and_not_those_of_a_run_at_its_old_place(finished, tmp_path):
    old, moved = tmp_path / "old", tmp_path / "moved"
    shutil.copytree(finished.workdir, moved)
    config = (moved / "config.json").read_text()
    (moved / "config.json").write_text(config.replace(finished.workdir, str(old)))
    old.mkdir()
    np.save(old / "images.npy", OTHER)
    assert moco_tf.load_run(moved).config.data.source == f"npy:{moved}/images.npy"


def test_directory_with_the_remains_of_a_run_is_refused(finished, tmp_path):
    workdir = shutil.copytree(finished.workdir, tmp_path / "run")
    (workdir / "config.json").unlink()
    before = sorted(os.listdir(workdir))
    with pytest.raises(UserError, match="holds a run without its config.json"):
        moco_tf.train(OTHER, workdir, **SETTINGS)
    assert sorted(os.listdir(workdir)) == before
    np.testing.assert_array_equal(np.load(workdir / "images.npy"), IMAGES)


@pytest.mark.slow
def test_mixed_precision_ends_with_the_run(tmp_path):
    run = moco_tf.train(IMAGES, tmp_path / "run", **SETTINGS | {"steps": 1}, precision=BFLOAT16)
    assert run.config.precision == BFLOAT16
    assert keras.config.dtype_policy().name == "float32"
    # With the policy of the run, features would be rounded to 8 bits.
    features = run.backbone(IMAGES[:2].astype(np.float32)).numpy()
    assert not np.array_equal(features, tf.cast(tf.cast(features, tf.bfloat16), tf.float32))


def test_config_of_the_caller_is_not_changed(finished):
    config = run_directory.read_config(finished.workdir)
    before = config.to_json_best_effort()
    changes = {"log_every": 3, "checkpoint_every": 7}
    run = moco_tf.train(None, finished.workdir, config, **changes)
    assert run.finished
    assert config.to_json_best_effort() == before


def test_path_of_a_preview_is_a_path():
    with pytest.raises(UserError, match="path is None: use a path"):
        moco_tf.preview("photos", None, "photos")


@pytest.mark.parametrize("name", ["views.jpg", "views.PDF", "views.png.svg"])
def test_preview_with_the_extension_of_another_format_is_refused(tmp_path, name):
    extension = pathlib.Path(name).suffix
    expected = f"{tmp_path / name} ends in {extension}, .*: use {tmp_path / 'views.png'}$"
    with pytest.raises(UserError, match=expected):
        moco_tf.preview("photos", tmp_path / name, "photos")
    assert list(tmp_path.iterdir()) == []


def test_name_of_a_preview_may_have_a_dot(tmp_path):
    moco_tf.preview("photos", tmp_path / "lr0.03", "photos")
    assert (tmp_path / "lr0.03").read_bytes().startswith(b"\x89PNG")


def test_preview_shows_the_images_of_a_list(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, image in zip(paths, IMAGES, strict=False):
        PIL.Image.fromarray(image).save(path)
    path = moco_tf.preview(paths, tmp_path / "views", "photos", batch_size=2, bn_groups=2)
    assert path == f"{tmp_path}/views"
    with PIL.Image.open(path) as picture:
        assert picture.format == "PNG"
        assert np.ptp(np.asarray(picture.convert("L"))) > 100
