"""Run directories: what is saved comes back, and the directory of another run is refused."""

import pathlib

import pytest

from moco_tf import run_data, run_directory
from moco_tf.config import default_config, flatten
from moco_tf.errors import UserError
from moco_tf.run_data import RunData


@pytest.fixture
def config():
    config = default_config()
    config.data.source = "photos"
    return config


@pytest.fixture
def workdir(config, tmp_path):
    """A run directory that was opened for a run on 10 images."""
    workdir = str(tmp_path / "run")
    run_directory.open_for_training(workdir, config, RunData(10))
    return workdir


def refusal(function, *arguments):
    with pytest.raises(UserError) as error:
        function(*arguments)
    message = str(error.value)
    assert "\n" not in message
    assert "--" not in message  # Messages of the library name no flags.
    return message


def test_config_is_read_as_it_was_written(config, tmp_path):
    config.milestones = (3, 7, 9)
    workdir = str(tmp_path / "run")
    run_directory.open_for_training(workdir, config, RunData(10))
    assert flatten(run_directory.read_config(workdir)) == flatten(config)
    run_directory.open_for_training(workdir, config, RunData(10))  # To resume.


def test_number_of_images_and_channels_are_read_as_they_were_written(config, tmp_path):
    run_directory.open_for_training(str(tmp_path), config, RunData(12, channels=5))
    assert run_data.read_num_images(str(tmp_path)) == 12
    assert run_data.read_channels(str(tmp_path)) == 5


def test_run_without_a_recorded_number_of_channels_has_three(tmp_path):
    (tmp_path / "data.json").write_text('{"num_images": 12}')
    assert run_data.read_channels(str(tmp_path)) == 3


def test_operational_settings_may_change_when_a_run_is_resumed(config, workdir):
    config.knn_every, config.checkpoint_every = 1, 7
    run_directory.open_for_training(workdir, config, RunData(10))
    assert run_directory.read_config(workdir).checkpoint_every == 7


def test_run_with_another_config_is_refused_and_left_as_it_is(config, workdir):
    config.temperature = 0.2
    message = refusal(run_directory.open_for_training, workdir, config, RunData(10))
    assert workdir in message
    assert "temperature is 0.07 there and 0.2 here" in message
    assert run_directory.read_config(workdir).temperature == 0.07


def test_numbers_of_the_augmentation_are_compared_however_they_are_set(config, workdir):
    config.augment.hue = 0.4  # The number of the preset v1.
    run_directory.open_for_training(workdir, config, RunData(10))
    config.augment.hue = 0.1
    message = refusal(run_directory.open_for_training, workdir, config, RunData(10))
    assert "(augment.hue is 0.4 there and 0.1 here)" in message


def test_run_on_other_data_is_refused(config, workdir):
    message = refusal(run_directory.open_for_training, workdir, config, RunData(11))
    assert "10 images" in message
    assert "'photos' has 11" in message
    message = refusal(run_directory.open_for_training, workdir, config, RunData(10, 5))
    assert "3 channels" in message
    assert "have 5" in message


def test_file_is_refused_as_a_run_directory(config, tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    message = refusal(run_directory.open_for_training, str(path), config, RunData(10))
    assert f"{path} is a file" in message
    message = refusal(run_directory.open_for_training, str(path / "run"), config, RunData(10))
    assert f"{path}/run cannot be written" in message


def test_directory_with_files_is_refused_as_not_empty(tmp_path):
    run_directory.require_empty(str(tmp_path / "missing"))
    run_directory.require_empty(str(tmp_path))
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file"):
        assert f"{path} is not empty" in refusal(run_directory.require_empty, str(path))


def test_directory_without_a_run_or_a_checkpoint_is_refused(workdir, tmp_path):
    message = refusal(run_directory.read_config, str(tmp_path))
    assert f"{tmp_path} holds no run" in message
    message = refusal(run_directory.require_checkpoint, workdir)
    assert f"{workdir} holds no checkpoint yet" in message


@pytest.mark.parametrize("text", ["{half of", '{"no_such_setting": 1}'])
def test_unreadable_config_is_refused_with_its_path(workdir, text):
    path = f"{workdir}/config.json"
    with open(path, "w") as file:
        file.write(text)
    assert path in refusal(run_directory.read_config, workdir)


def test_leftovers_of_kills_are_removed_and_nothing_else(config, workdir):
    folder = pathlib.Path(workdir)
    leftovers = [
        "config.json.0123abcd.tmp",
        "metrics.jsonl.0123abcd.tmp",
        "images.npy.0123abcd.tmp",
        "images.labels.npy.0123abcd.tmp",
        "checkpoints/step-10_temp/part-00000-of-00001.data-00000-of-00001",
        "checkpoints/checkpoint.tmp0123abc",
        "tensorboard/sprite.jpg.0123abcd.tmp",
    ]
    others = [
        "thesis.tmp",
        "holiday.tmp/album/1.jpg",
        "photo.0123abcd.tmp",
        "step-3_temp/notes.txt",
        "checkpoints/step-10.index",
        "checkpoints/mine.tmp/file",
        "eval/knn.json.0123abcd.tmp",
        "tensorboard/folder.tmp/file",
    ]
    for name in (*leftovers, *others):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    before = {path for path in folder.rglob("*") if path.is_file()}
    (folder / "checkpoints" / "step-10.data-00000-of-00001").write_text("")
    run_directory.open_for_training(workdir, config, RunData(10))
    after = {path for path in folder.rglob("*") if path.is_file()}
    assert before - after == {folder / name for name in leftovers}


@pytest.mark.parametrize("name", ["run [1]", "lr[0.1]/run", "a*", "what?"])
def test_path_that_tensorflow_takes_for_a_pattern_is_refused(config, tmp_path, name):
    workdir = tmp_path / name
    message = refusal(run_directory.open_for_training, str(workdir), config, RunData(10))
    assert f"{workdir} has " in message
    assert "in its path, which TensorFlow takes for a pattern" in message
    assert not workdir.exists()
    message = refusal(run_directory.require_checkpoint, str(workdir))
    assert "rename the folder" in message


@pytest.mark.parametrize("name", ["encoder.json", "best/config.json", "best-step-8/config.json"])
def test_remains_of_a_run_are_not_adopted_by_a_new_one(config, tmp_path, name):
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    message = refusal(run_directory.open_for_training, str(tmp_path / "run"), config, RunData(10))
    assert "holds a run without its config.json" in message
