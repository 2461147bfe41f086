"""Which studies are continued, and which are refused."""

import json
import pathlib

import pytest

from moco_tf.config import flatten
from moco_tf.configs.photos import get_config
from moco_tf.errors import UserError
from studies import fashion_mnist, results, small_data
from studies.config import get_config as get_study_config

DATA = {"source": "photos", "num_images": 100, "num_train": 80, "num_test": 20, "num_classes": 2}
CHECKSUMS = {"checksums": ["a", "b"]}
STUDIES = pathlib.Path(results.__file__).parent


def base(**changes):
    return {**flatten(get_config()), **changes}


def start(directory, config, data):
    return results.start(str(directory), config, [0], "command", {}, data)


@pytest.fixture
def save(tmp_path):
    def save(config, data):
        runs = [{"name": "base", "seed": 0, "settings": {}, "knn_top1": 0.5}]
        results.write(str(tmp_path), {**start(tmp_path, config, data), "runs": runs})
        return tmp_path

    return save


@pytest.mark.parametrize(
    "changes", [{"log_every": 7}, {"checkpoint_every": 7}, {"seed": 3}, {"data.on_error": "fail"}]
)
def test_study_goes_on_with_other_settings_of_logging(save, changes):
    directory = save(base(), DATA)
    assert len(start(directory, base(**changes), DATA)["runs"]) == 1


@pytest.mark.parametrize("changes", [{"evaluation_size": 64}, {"monitor_source": "folder:/other"}])
def test_records_of_other_evaluations_are_not_mixed(save, changes):
    directory = save(base(), DATA)
    [(key, value)] = changes.items()
    with pytest.raises(UserError, match=f"another config .{key} is .* there and {value!r} here"):
        start(directory, base(**changes), DATA)


def test_study_from_before_a_setting_existed_has_its_default(save):
    earlier = base(evaluation_size=0)
    for key in ("evaluation_size", "monitor_source", "symmetric_loss"):
        del earlier[key]
    directory = save(base(evaluation_size=0), DATA)
    saved = results.read(str(directory))
    results.write(str(directory), {**saved, "config": earlier})
    assert len(start(directory, base(evaluation_size=0), DATA)["runs"]) == 1
    with pytest.raises(UserError, match="evaluation_size is 0 there and 32 here"):
        start(directory, base(), DATA)


@pytest.mark.parametrize(
    "changes", [{"num_train": 81}, {"num_test": 21}, {"checksums": ["a", "c"]}]
)
def test_records_of_other_images_are_not_mixed(save, changes):
    directory = save(base(), {**DATA, **CHECKSUMS})
    [(key, value)] = changes.items()
    with pytest.raises(UserError, match=f"study of other images .{key} is .* there and "):
        start(directory, base(), {**DATA, **CHECKSUMS, **changes})


def test_study_whose_images_have_no_checksums_goes_on(save):
    directory = save(base(), DATA)
    continued = start(directory, base(), {**DATA, **CHECKSUMS})
    assert len(continued["runs"]) == 1
    assert continued["data"]["checksums"] == ["a", "b"]


def test_study_without_a_run_takes_other_images(tmp_path):
    results.write(str(tmp_path), start(tmp_path, base(), DATA))
    assert start(tmp_path, base(), {**DATA, "num_train": 81})["data"]["num_train"] == 81


COMMITTED = {
    # From before most of the settings of today existed.
    "photos/results.json": get_study_config,
    "small_data/photos/results.json": lambda: small_data.base_config_on_photos("runs/small_data"),
    "small_data/1000/results.json": lambda: small_data.base_config(1000, "runs/small_data"),
    "fashion_mnist/results.json": lambda: fashion_mnist.base_config(fashion_mnist.FASHION_MNIST),
}


@pytest.mark.parametrize("file", COMMITTED)
def test_committed_studies_can_be_continued(file, tmp_path):
    saved = json.loads((STUDIES / file).read_text())
    results.write(str(tmp_path), saved)
    base = {**flatten(COMMITTED[file]()), "epochs": saved["config"]["epochs"]}
    data = {**CHECKSUMS, **saved["data"]}  # Earlier studies have no checksums.
    assert start(tmp_path, base, data)["runs"] == saved["runs"]
