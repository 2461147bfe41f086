"""The study of small data sets: its design, its images, and one real run."""

import json
import pathlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from moco_tf.config import flatten
from moco_tf.config_checks import check
from moco_tf.data import sources
from moco_tf.data.sources.photos import BLOCK, load_patches
from moco_tf.errors import UserError
from studies import experiments, runs, small_data, study
from tests.data.sources.test_idx import write_idx
from tests.studies.made_up import make_record


@pytest.fixture
def folder(tmp_path):
    """A folder of IDX files with 400 training and 50 test images."""
    folder = tmp_path / "idx"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, count in (("train", 400), ("t10k", 50)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = generator.integers(0, 25 * labels[:, None, None] + 6, [count, 28, 28])
        write_idx(folder, f"{name}-images-idx3-ubyte", images.astype(np.uint8))
        write_idx(folder, f"{name}-labels-idx1-ubyte", labels)
    return folder


@pytest.fixture
def arguments(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(small_data, "NUM_EVALUATED", 100)
    return [
        *(f"--data={folder}", "--sizes=200,300", "--seeds=0"),
        *(f"--out={tmp_path}/out", f"--workdir={tmp_path}/runs"),
    ]


@pytest.mark.parametrize("size", small_data.SIZES)
def test_every_run_is_another_one_and_can_be_trained(size):
    config = small_data.base_config(size, "runs")
    base = flatten(config)
    design = small_data.design(size)
    names = {experiments.run_name(base, settings) for settings in design}
    assert len(names) == len(design) == 34
    for settings in design[1:]:
        check(runs.with_settings(config, settings))
        if "batch_size" in settings:
            assert settings["steps"] * settings["batch_size"] == 128 * small_data.BASE_STEPS


def test_every_run_on_photos_is_another_one_and_can_be_trained():
    config = small_data.base_config_on_photos("runs")
    base = flatten(config)
    design = small_data.design_on_photos()
    names = {experiments.run_name(base, settings) for settings in design}
    assert len(names) == len(design)
    for settings in design[1:]:
        changed = runs.with_settings(config, settings)
        check(changed)
        views = changed.batch_size * changed.steps * (1 + changed.symmetric_loss)
        is_shorter = changed.image_size == 32 and "steps" in settings
        assert views == 128 * (877 if is_shorter else small_data.PHOTOS_STEPS)


def test_photos_are_evaluated_on_training_blocks_that_were_set_aside(tmp_path):
    small_data.write_photos(str(tmp_path))
    source = sources.load(small_data.base_config_on_photos(str(tmp_path)).data.source)
    patches = load_patches()
    rows = [int(pathlib.Path(source.describe(index)).stem) for index in range(source.size)]
    assert sorted(rows) == patches.train.tolist()
    np.testing.assert_array_equal(source.labels, patches.labels[rows])
    for index in (0, source.size - 1):
        image = source.read(tf.constant(index, tf.int64)).numpy()
        np.testing.assert_array_equal(image, np.repeat(patches.images[rows[index]], 3, axis=-1))
    blocks = [tuple(block) for block in patches.corners[rows] // BLOCK]
    labels = source.labels.tolist()
    parts = [{(labels[i], blocks[i]) for i in part} for part in (source.train, source.test)]
    assert not parts[0] & parts[1]
    assert source.pretrain.tolist() == source.train.tolist()
    assert 0.25 < len(source.test) / source.size < 0.42
    assert len(set(source.labels[source.test])) == 19


def test_runs_see_the_first_images_and_are_evaluated_on_the_last(arguments, monkeypatch, tmp_path):
    started = []

    def make_run(config, workdir, signals, on_poll, labels):
        if config.epochs:
            check(config)
        started.append(config)
        return make_record(0.5)

    monkeypatch.setattr(study, "run_in_process", make_run)
    assert small_data.main(arguments) == 0
    # The smallest queues of so few images are the same.
    assert len(started) == 66
    images = np.load(tmp_path / "runs" / "first_300.npy")
    assert images.shape == (300, 28, 28, 1)
    evaluated = np.load(tmp_path / "runs" / "evaluated.npy")
    assert np.load(tmp_path / "runs" / "evaluated.labels.npy").tolist() == [*range(10)] * 10
    assert evaluated.shape == (100, 28, 28, 1)
    assert {config.data.source for config in started[:33]} == {f"npy:{tmp_path}/runs/first_200.npy"}
    results = json.loads((tmp_path / "out" / "200" / "results.json").read_text())
    assert len(results["runs"]) == 33
    assert results["data"]["num_images"] == 200
    assert results["data"]["num_train"] + results["data"]["num_test"] == 100
    assert small_data.main(arguments) == 0
    assert len(started) == 66  # They are not run again.


@pytest.mark.nightly
def test_real_runs_have_the_measures_of_their_features(arguments, monkeypatch, tmp_path):
    monkeypatch.setattr(small_data, "BASE_STEPS", 8)
    design = small_data.design(200)
    monkeypatch.setattr(small_data, "design", lambda size: design[:2])
    assert small_data.main([*arguments, "--sizes=200"]) == 0
    results = json.loads((tmp_path / "out" / "200" / "results.json").read_text())
    untrained, base = results["runs"]
    assert base["steps_per_epoch"] == 1
    assert base["curves"]["step"][-1] == 8
    for record in (untrained, base):
        assert 0 <= record["knn_top1"] <= 1
        assert record["quality"]["effective_rank"] > 1


def test_mistakes_are_one_line(arguments, capsys):
    assert small_data.main([*arguments, "--sizes=500"]) == 2
    assert "--sizes=500: there are only 300 images for pre-training in" in capsys.readouterr().err
    assert small_data.main([*arguments, "--seeds=a"]) == 2
    assert "--seeds=a: use integers" in capsys.readouterr().err
    for sizes in ("0", "200,0", "-1", "", "photo"):
        assert small_data.main([*arguments, f"--sizes={sizes}"]) == 2
        line = capsys.readouterr().err
        assert (
            f"--sizes={sizes.removeprefix('200,')}: use integers of 1 or greater or photos" in line
        )


def test_images_of_another_folder_are_not_used(arguments, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "run_in_process", lambda *_: make_record(0.5))
    assert small_data.main(arguments) == 0
    before = (tmp_path / "runs" / "first_200.npy").read_bytes()
    write_idx(folder, "train-images-idx3-ubyte", np.zeros([400, 28, 28], np.uint8))
    assert small_data.main([*arguments, f"--out={tmp_path}/other"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"--workdir={tmp_path}/runs: " in line
    assert f"does not hold the images of --data={folder}: choose another --workdir" in line
    assert (tmp_path / "runs" / "first_200.npy").read_bytes() == before
    assert not (tmp_path / "other").exists()


def test_photos_of_another_version_are_not_used(tmp_path):
    small_data.write_photos(str(tmp_path))
    [path, *_] = sorted((tmp_path / "photos").rglob("*.png"))
    small_data.write_photos(str(tmp_path))
    PIL.Image.new("L", (32, 32)).save(path)
    with pytest.raises(UserError, match=f"{path} does not hold the patch"):
        small_data.write_photos(str(tmp_path))
